"""What `--max-length auto` comes to."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from storage.layout import Layout
from tasks.data.dataset import Dataset, prepare_dataset
from tasks.embedding.lengths import counted_rows, covering, resolve_length
from tasks.embedding.model import ModelFolder, resolve_model


@pytest.mark.parametrize(
    ("counts", "positions", "length"),
    [
        ([3, 128], None, 128),
        ([3] * 99 + [900], None, 128),  # a hundredth may be cut
        ([3] * 98 + [129, 900], None, 256),
        ([256, 257], None, 384),
        ([900], None, 512),
        ([900], 200, 200),
        ([5], 77, 77),
    ],
)
def test_the_first_step_that_reads_nearly_every_text_whole(
    counts: list[int], positions: int | None, length: int
) -> None:
    assert covering(np.array(counts), positions) == length


def test_of_many_rows_some_from_first_to_last_are_counted() -> None:
    assert counted_rows(7).tolist() == [0, 1, 2, 3, 4, 5, 6]
    some = counted_rows(1_000_000)
    assert (len(some), some[0], some[-1]) == (10_000, 0, 999_999)


def long_texts(folder: Path, words: int) -> Dataset:
    rows = {"text": [f"{'the goat ' * (words // 2)}{i}" for i in range(20)], "label": ["a", "b"] * 10}
    pl.DataFrame(rows).write_csv(folder / f"{words}.csv")
    return prepare_dataset(f"path:{folder / f'{words}.csv'}", Layout(str(folder / "out")))


def test_no_test_text_has_a_say(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every choice hangs on how much of a text is read."""
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    model = resolve_model(f"path:{tiny_model}")
    lengths = []
    for name, words in (("short", 4), ("long", 400)):
        folder = tmp_path / name
        folder.mkdir()
        for split, of_split in (("train", 200), ("test", words)):
            rows = [f"{'the goat ' * (of_split // 2)}{i}" for i in range(20 if split == "train" else 300)]
            labels = ["a", "b"] * (len(rows) // 2)
            pl.DataFrame({"text": rows, "label": labels}).write_csv(folder / f"{split}.csv")
        dataset = prepare_dataset(f"path:{folder}", Layout(str(tmp_path / "out")))
        lengths.append(resolve_length(None, dataset, model, None))
    assert lengths == [256, 256]


def test_texts_and_positions_decide_and_a_prompt_counts(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    model = resolve_model(f"path:{tiny_model}")
    few, many = long_texts(tmp_path, 126), long_texts(tmp_path, 200)
    for _ in range(2):  # the second time it is known
        assert resolve_length(None, few, model, None) == 128
        assert resolve_length(None, few, model, "the goat {text} the tide") == 256
        assert resolve_length(None, many, model, None) == 256
    assert resolve_length(64, many, model, None) == 64
    for kept in (tmp_path / "cache" / "lengths").iterdir():
        kept.write_text('{"max_length": 9999}')  # no length that it could be
    assert resolve_length(None, few, model, None) == 128


def test_of_saved_states_nothing_is_read(tmp_path: Path) -> None:
    states = ModelFolder("states:x", "states", str(tmp_path), "", "saved states", 3, 8)
    assert resolve_length(None, long_texts(tmp_path, 200), states, None) == 1
