"""The pace of whole and cut model is measured on the same work."""

from pathlib import Path

from tasks.exporting.cut import save_cut
from tasks.exporting.exported_check import load_plain, measure_rates
from tests.tasks.embedding.test_embed import TEXTS
from tests.tasks.exporting.test_cut import whole_model


def test_rates_count_the_same_tokens_of_both(tmp_path: Path) -> None:
    folder = whole_model("llama", tmp_path / "whole")
    save_cut(folder, 1, tmp_path / "cut")
    whole, tokenizer = load_plain(folder)
    cut, _ = load_plain(tmp_path / "cut")
    seen: list[int] = []
    for model in (whole, cut):
        model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(int(kwargs["attention_mask"].sum())), with_kwargs=True
        )
    rates = measure_rates(whole, cut, tokenizer, TEXTS, 6)
    assert min(rates.whole, rates.cut) > 0
    assert set(seen) == {sum(min(len(text.split()), 6) for text in TEXTS)}
    assert len(seen) == 12
