"""Rows of a group, such as words of a text, are left out together: in ridge regression, and in the probe's folds."""

import numpy as np
import pytest

from tasks.scoring.features import Features
from tasks.scoring.folds import FOLDS, folds_of
from tasks.scoring.probe import fit_probe_on
from tasks.scoring.ridge import RIDGE_PENALTIES, ridge_leave_one_out
from tasks.scoring.target import Target
from tasks.vocabulary import Task


def some_words(seed: int, texts: int = 25, width: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, tags and text of each word; what a text is about is in all of its words."""
    rng = np.random.default_rng(seed)
    text = np.repeat(np.arange(texts), rng.integers(1, 6, texts))
    y = rng.integers(0, 3, len(text))
    X = rng.normal(size=(len(text), width)) + rng.normal(size=(texts, width))[text] + np.eye(3, width)[y]
    return X.astype(np.float32), y, text


def refitted(X: np.ndarray, wanted: np.ndarray, text: np.ndarray, penalty: float) -> np.ndarray:
    """What ridge regression says of each word, fitted anew without the words of its text: [N, K]."""
    X = X.astype(np.float64)
    Z = (X - X.mean(0)) / X.std(0)
    one_hot = np.eye(wanted.max() + 1)[wanted] if wanted.ndim == 1 else wanted
    said = np.empty_like(one_hot)
    for each in np.unique(text):
        out = text == each
        Z_in, Y_in = Z[~out], one_hot[~out]
        middle, prior = Z_in.mean(0), Y_in.mean(0)
        centred = Z_in - middle
        gram = centred.T @ centred + len(Z) * penalty * np.eye(Z.shape[1])
        weights = np.linalg.solve(gram, centred.T @ (Y_in - prior))
        said[out] = (Z[out] - middle) @ weights + prior
    return said


@pytest.mark.parametrize("width", [6, 120])  # fewer features than words, and more
@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_ridge_leaves_out_whole_texts(width: int, penalty: float) -> None:
    X, y, text = some_words(seed=width, width=width)
    shuffled = np.random.default_rng(0).permutation(len(y))
    X, y, text = X[shuffled], y[shuffled], text[shuffled]
    got = ridge_leave_one_out(Features(X, y, groups=text), penalty=penalty)
    said = refitted(X, y, text, penalty)
    np.testing.assert_allclose(got.squared_error, ((np.eye(3)[y] - said) ** 2).sum(1), rtol=2e-3, atol=2e-4)
    np.testing.assert_array_equal(got.correct, said.argmax(1) == y)
    alone = ridge_leave_one_out(Features(X, y, groups=np.arange(len(y))), penalty=penalty)
    plain = ridge_leave_one_out(Features(X, y), penalty=penalty)
    np.testing.assert_allclose(alone.squared_error, plain.squared_error, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(alone.log_loss, plain.log_loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", [Task.MULTI_LABEL, Task.REGRESSION])
def test_targets_are_left_out_by_group(task: Task) -> None:
    X, y, group = some_words(seed=4, texts=30)
    values = np.eye(3)[y] if task is Task.MULTI_LABEL else X[:, :1] + y[:, None]
    got = ridge_leave_one_out(Features(X, y, target=Target(task, values), groups=group), penalty=0.1)
    said = refitted(X, values, group, 0.1)
    np.testing.assert_allclose(got.squared_error, ((values - said) ** 2).sum(1), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("groups", [2, 4])
def test_large_groups_are_left_out_as_small_ones(groups: int) -> None:
    """Of more rows than there are features, where the smaller system is that of the directions."""
    X, y, _ = some_words(seed=5, texts=40)
    group = np.random.default_rng(5).integers(0, groups, len(y))
    got = ridge_leave_one_out(Features(X, y, groups=group), penalty=0.1)
    said = refitted(X, y, group, 0.1)
    np.testing.assert_allclose(got.squared_error, ((np.eye(3)[y] - said) ** 2).sum(1), rtol=2e-3, atol=2e-4)
    assert fit_probe_on(Features(X, y, groups=group), X, y).held_out_rows == len(y)


def test_what_is_the_same_in_all_words_of_a_text_is_no_evidence() -> None:
    """Every text has one tag and a mark of its own: left out one by one its words know it, together they do not."""
    rng = np.random.default_rng(3)
    text = np.repeat(np.arange(40), 8)
    y = rng.integers(0, 2, 40)[text]
    X = rng.normal(size=(40, 60))[text] + 0.1 * rng.normal(size=(320, 60))
    assert ridge_leave_one_out(Features(X.astype(np.float32), y)).accuracy > 0.9
    assert ridge_leave_one_out(Features(X.astype(np.float32), y, groups=text)).accuracy < 0.75
    y_test = rng.integers(0, 2, 50)
    X_test = rng.normal(size=(50, 60)).astype(np.float32)
    leaking = fit_probe_on(Features(X.astype(np.float32), y), X_test, y_test).held_out_accuracy
    held_out = fit_probe_on(Features(X.astype(np.float32), y, groups=text), X_test, y_test).held_out_accuracy
    assert leaking is not None
    assert held_out is not None
    assert leaking > 0.9 > 0.75 > held_out


def test_folds_keep_texts_whole() -> None:
    _, y, text = some_words(seed=1, texts=60)
    y[:] = np.where(np.arange(len(y)) < 3, 2, np.minimum(y, 1))  # the third tag is rare
    folds = folds_of(y, text, seed=0)
    assert {len(set(folds.fold[text == each])) for each in range(60)} == {1}
    assert set(folds.fold) == set(range(FOLDS))
    # A row is predicted where a text of another fold has its tag.
    told = [bool((folds.fold[y == tag] != fold).any()) for tag, fold in zip(y, folds.fold, strict=True)]
    np.testing.assert_array_equal(folds.predicted, told)
    assert set(y[~folds.predicted]) == {2}


def some_groups(of_class: dict[int, int], rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """So many groups of each class, of so many rows each: X [N, 8], y [N], group [N]."""
    rng = np.random.default_rng(seed)
    y = np.repeat([label for label, groups in of_class.items() for _ in range(groups)], rows)
    X = (rng.standard_normal((len(y), 8)) + 1.5 * np.eye(8)[y]).astype(np.float32)
    return X, y, np.arange(len(y)) // rows


def test_classes_of_few_groups_choose_a_penalty_all_the_same() -> None:
    X, y, group = some_groups(dict.fromkeys(range(8), 4), 20, seed=0)
    T, truth, _ = some_groups(dict.fromkeys(range(8), 4), 20, seed=1)
    by_group, by_row = (
        fit_probe_on(each, T, truth) for each in (Features(X, y, groups=group), Features(X, y))
    )
    assert by_group.held_out_rows > 0.9 * len(y)
    assert by_group.penalty < 1.0
    assert by_group.log_loss == pytest.approx(by_row.log_loss, rel=0.2)


def test_where_no_other_group_has_a_class_rows_choose_and_nothing_is_told() -> None:
    X, y, group = some_groups(dict.fromkeys(range(8), 1), 60, seed=0)
    T, truth, _ = some_groups(dict.fromkeys(range(8), 1), 60, seed=1)
    by_group, by_row = (
        fit_probe_on(each, T, truth) for each in (Features(X, y, groups=group), Features(X, y))
    )
    assert (by_group.held_out_rows, by_group.held_out_accuracy, by_group.held_out_log_loss) == (0, None, None)
    assert by_group.penalty == by_row.penalty < 1.0
    np.testing.assert_array_equal(by_group.predictions, by_row.predictions)


def test_what_is_held_out_is_of_all_classes_or_nothing_is_told() -> None:
    """Half of the rows are of one group, whose class no other has: the other half would stand for test rows."""
    X, y, group = some_groups({0: 10, 1: 10}, 20, seed=0)
    y, group = np.concatenate((y, np.full(400, 2))), np.concatenate((group, np.full(400, 99)))
    rng = np.random.default_rng(3)
    X = np.concatenate((X, (rng.standard_normal((400, 8)) + np.eye(8)[2]).astype(np.float32)))
    found = fit_probe_on(Features(X, y, groups=group), X, y)
    assert (found.held_out_rows, found.held_out_accuracy) == (0, None)
    assert fit_probe_on(Features(X, y), X, y).held_out_rows == len(y)


def test_rare_tags_leave_the_probe_finite() -> None:
    X, y, text = some_words(seed=2, texts=60)
    y[-1] = 3  # one word alone: a fold may be fitted without its tag
    found = fit_probe_on(Features(X, y, groups=text), X, y)
    assert found.held_out_rows == len(y) - 1
    assert found.held_out_log_loss is not None
    assert found.held_out_log_loss < 5
    assert ridge_leave_one_out(Features(X, y, groups=text)).penalty in RIDGE_PENALTIES
