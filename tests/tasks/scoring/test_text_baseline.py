from pathlib import Path

import numpy as np
import polars as pl
import pytest

from storage.layout import Layout
from storage.staged import read_staged
from tasks.data.dataset import Dataset
from tasks.scoring import text_baseline
from tasks.scoring.text_baseline import STRENGTHS, fit_text_baseline, score_text


def reviews(rows: int, seed: int, noise: float = 0.0) -> tuple[list[str], np.ndarray]:
    """Texts whose label only the pair of words tells: `not` turns `good` and `bad` round."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    texts = []
    for label in y:
        turned = rng.integers(0, 2)
        word = ("bad", "good")[label ^ turned]
        film = f"film{rng.integers(0, 40)}"
        texts.append(f"{film} is {'not ' if turned else ''}{word}")
    wrong = rng.random(rows) < noise
    return texts, np.where(wrong, 1 - y, y)


def test_pairs_of_words_are_read():
    got = fit_text_baseline(*reviews(400, 0), *reviews(200, 1))
    assert got.accuracy == 1.0
    assert got.accuracy_low < 1.0 == got.accuracy_high
    assert got.predictions.dtype == np.int32


def test_words_that_tell_nothing_get_the_strongest_penalty_and_no_more_than_chance():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, 300, 12)) for _ in range(900)]
    y = rng.integers(0, 2, 900)
    got = fit_text_baseline(texts[:600], y[:600], texts[600:], y[600:])
    assert got.strength == STRENGTHS[0]
    assert abs(got.accuracy - 0.5) < 0.1


def test_no_test_label_is_read():
    train, (texts, y) = reviews(300, 0, noise=0.1), reviews(100, 1)
    got, other = fit_text_baseline(*train, texts, y), fit_text_baseline(*train, texts, 1 - y)
    np.testing.assert_array_equal(got.predictions, other.predictions)
    assert got.accuracy == pytest.approx(1 - other.accuracy)


def test_signs_without_letters_and_classes_of_one_row():
    texts, y = ["😀", "😀 !", "😡", "😡 !", "?"] * 6, np.array([0, 0, 1, 1, 2] * 6)
    y[-1] = 3  # the only one
    got = fit_text_baseline(texts, y, ["😀", "😡"], np.array([0, 1]))
    assert got.predictions.tolist() == [0, 1]
    alone = fit_text_baseline(["a", "b", "c"], np.arange(3), ["b"], np.array([1]))
    assert alone.strength == STRENGTHS[0]


def test_rows_are_staged_once_and_many_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, y = reviews(360, 0)
    y[:] = np.where(np.arange(360) % 3 == 0, 1, y)
    table = pl.DataFrame({"row_id": range(360), "text": texts, "label": y.astype(np.int32)})
    table = table.with_columns(
        split=pl.when(pl.col("row_id") < 300).then(pl.lit("train")).otherwise(pl.lit("test"))
    )
    uri = str(tmp_path / "table.parquet")
    table.write_parquet(uri)
    dataset = Dataset(
        id="made-up",
        source="path",
        uri=uri,
        fingerprint="0" * 32,
        revision="",
        classes=("bad", "good"),
        text_column="text",
        label_column="label",
        train_rows=300,
        test_rows=60,
        test_is_made=False,
    )
    layout = Layout(str(tmp_path))
    monkeypatch.setattr(text_baseline, "MOST_ROWS", 200)
    score_text(layout, "run", dataset, 0)
    # What is damaged is deleted, as the error about it says, and told anew.
    said = Path(layout.staged("run", "text_prediction", "baseline"))
    before = said.read_bytes()
    said.unlink()
    score_text(layout, "run", dataset, 0)
    assert said.read_bytes() == before
    rows = {row["name"]: row for row in read_staged(layout, "run", "baseline").to_dicts()}
    predictions = read_staged(layout, "run", "text_prediction")
    assert set(rows) == {"text", "majority"}
    assert rows["text"]["n_train"] == 200
    assert rows["text"]["n_test"] == 60
    assert rows["text"]["accuracy"] == (predictions["label"] == predictions["predicted"]).mean()
    assert rows["majority"]["accuracy"] == (y[300:] == 1).mean()
    assert predictions["row_id"].to_list() == list(range(300, 360))
    monkeypatch.setattr(text_baseline, "fit_text_baseline", None)
    score_text(layout, "run", dataset, 0)  # is there, and not fitted again
