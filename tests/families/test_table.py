"""docs/families.md says what the code does today: a handful of its rows, made again. All of them: `make families`."""

import pytest
import transformers as hf

from tests.families.small_models import model_types
from tests.families.table import PAGE, Page, read_page, try_type, write_page

# A tested family, one that is packed by nobody, a recurrent one, a wrapper that sees, multipliers and a cut, experts,
# an encoder-decoder, one that bfloat16 breaks, one that is refused, one that reads no text.
SOME = ["llama", "phi", "recurrent_gemma", "gemma3", "falcon_h1", "qwen3_moe", "bart", "fnet", "xlnet", "vit"]


@pytest.mark.parametrize("model_type", SOME)
def test_a_row_is_what_the_code_does(model_type: str) -> None:
    page = read_page()
    found = try_type(model_type)
    if isinstance(found, str):
        assert found.startswith(page.left_out[model_type])
    else:
        assert found == page.outcomes[model_type]
        assert not found.is_wrong


def test_every_type_is_on_the_page_and_none_is_wrong() -> None:
    page = read_page()
    assert {*page.outcomes, *page.left_out} == set(model_types())
    assert not [row for row in page.outcomes.values() if row.is_wrong]
    assert f"transformers {hf.__version__}" in PAGE.read_text(encoding="utf-8")


def test_the_page_is_read_as_it_was_written(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = read_page()
    monkeypatch.setattr("tests.families.table.PAGE", tmp_path / "families.md")
    write_page(page, 1.0)
    assert read_page() == Page(page.outcomes, page.left_out)
