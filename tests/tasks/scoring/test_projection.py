"""The picture keeps the directions of largest variance, of train rows alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.embeddings import write_shard
from storage.layout import Layout
from storage.staged import read_staged
from tasks.curves import LayerOfRun
from tasks.data.dataset import Dataset
from tasks.scoring.projection import MOST_ROWS, plane, project
from tasks.vocabulary import NormState, Pooling

TOLERANCE = 1e-3
"""Of the spread of an axis."""


def principal_plane(X: np.ndarray) -> tuple[np.ndarray, float]:
    """By the whole decomposition of the standardised rows, without a library's PCA."""
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    U, S, _ = np.linalg.svd(Z, full_matrices=False)
    return U[:, :2] * S[:2], (S[:2] ** 2).sum() / (S**2).sum()


@pytest.mark.parametrize(
    ("rows", "width"), [(120, 3), (120, 40), (40, 120), (MOST_ROWS, 576), (MOST_ROWS, 1024)]
)
def test_plane_is_that_of_the_whole_decomposition(rows: int, width: int) -> None:
    rng = np.random.default_rng(width)
    # Variances that fall off as those of real embeddings do, and columns of very different sizes.
    hidden = rng.normal(size=(rows, width)) / np.sqrt(1 + np.arange(width))
    X = hidden @ rng.normal(size=(width, width)) * rng.uniform(0.1, 500, width)
    y = rng.integers(0, 3, rows)
    found, kept = plane(X, y)
    expected, share = principal_plane(X)
    assert kept == pytest.approx(share, rel=1e-5)
    largest = np.bincount(y).argmax()
    assert (found[y == largest].mean(axis=0) >= 0).all()
    # Products are float32 where rows and width are many; a dot of the picture is a hundredth of it.
    atol = TOLERANCE * expected.std(axis=0)
    assert (np.abs(np.abs(found) - np.abs(expected)) <= atol).all()


def test_texts_of_one_direction_lie_on_a_line() -> None:
    along = np.linspace(-1, 1, 12)
    for width in (1, 4, 30):  # fewer columns than rows, and more
        found, kept = plane(np.outer(along, np.arange(1, width + 1)), np.arange(12) % 2)
        scaled = along / along.std() * np.sqrt(width)
        np.testing.assert_allclose(np.abs(found[:, 0]), np.abs(scaled), rtol=1e-5)
        np.testing.assert_allclose(found[:, 1], 0, atol=1e-5)
        assert kept == pytest.approx(1)


def test_texts_that_are_all_the_same_lie_in_one_place() -> None:
    found, kept = plane(np.ones((10, 4)), np.arange(10) % 2)
    assert not found.any()
    assert kept == 0


def test_a_sample_of_train_rows_is_staged_once(tmp_path: Path) -> None:
    train, test = MOST_ROWS + 50, 30
    layout = Layout(str(tmp_path))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, train + test).astype(np.int32)
    states = rng.normal(size=(4, train + test, 5)).astype(np.float32)
    uri = layout.shard("set", 0)
    write_shard(uri, {("as_returned", "mean"): states}, np.arange(train + test), labels)
    dataset = Dataset(
        id="made-up",
        source="path",
        fingerprint="0" * 32,
        revision="",
        uri="",
        classes=("ham", "spam"),
        text_column="text",
        label_column="label",
        train_rows=train,
        test_rows=test,
        test_is_made=False,
    )
    first = LayerOfRun(layout, "run", (uri,), dataset, Pooling.MEAN, NormState.AS_RETURNED, 0, 0, 1)
    curve = [replace(first, layer=layer) for layer in (0, 2, 3)]
    project(curve)
    staged = read_staged(layout, "run", "projection")
    assert staged["layer"].to_list() == [0] * MOST_ROWS + [2] * MOST_ROWS + [3] * MOST_ROWS
    rows = staged.filter(layer=2)
    assert rows["row_id"].max() < train
    assert rows["row_id"].is_unique().all()
    assert rows["label"].to_list() == [dataset.classes[labels[row]] for row in rows["row_id"]]
    expected, kept = plane(states[2][rows["row_id"]], labels[rows["row_id"]])
    np.testing.assert_allclose(rows.select("x", "y").to_numpy(), expected)
    assert rows["kept"].unique().to_list() == [kept]
    Path(uri).unlink()
    project(curve)  # a repeat without embeddings
    assert read_staged(layout, "run", "projection").equals(staged)


def test_a_run_whose_embeddings_are_gone_has_no_picture(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    dataset = Dataset("made-up", "path", "", "", "", ("a", "b"), "text", "label", 5, 5, False)
    at = LayerOfRun(
        layout, "run", (layout.shard("set", 0),), dataset, Pooling.MEAN, NormState.AS_RETURNED, 0, 0, 1
    )
    project([at])
    with pytest.raises(FileNotFoundError):
        read_staged(layout, "run", "projection")
