"""What clusters add to a mean, against the variance formula and against resampling them."""

import numpy as np

from tasks.numerics.clusters import shares_of_clusters


def some_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(30) * 7, rng.integers(1, 9, 30)))
    return rng.normal(size=(3, len(cluster))) + (cluster % 5), cluster


def test_mean_is_kept_and_variance_is_that_of_clusters() -> None:
    values, cluster = some_rows(0)
    got = shares_of_clusters(values, cluster)
    assert got.shape == (3, 30)
    np.testing.assert_allclose(got.mean(1), values.mean(1))
    for row, shares in zip(values, got, strict=True):
        robust = (
            sum(((row - row.mean())[cluster == each].sum()) ** 2 for each in set(cluster)) / len(row) ** 2
        )
        np.testing.assert_allclose(shares.var() / 30, robust)


def test_error_is_that_of_clusters_drawn_anew() -> None:
    values, cluster = some_rows(1)
    row, rng = values[0], np.random.default_rng(2)
    of = [row[cluster == each] for each in np.unique(cluster)]
    drawn = [np.concatenate([of[i] for i in rng.integers(0, 30, 30)]).mean() for _ in range(4_000)]
    error = shares_of_clusters(row, cluster).std() / 30**0.5
    np.testing.assert_allclose(error, np.std(drawn), rtol=0.1)


def test_clusters_of_one_are_the_rows() -> None:
    values, _ = some_rows(3)
    np.testing.assert_allclose(shares_of_clusters(values, np.arange(values.shape[1])), values)


def test_what_is_right_everywhere_has_no_error() -> None:
    _, cluster = some_rows(4)
    np.testing.assert_array_equal(shares_of_clusters(np.ones(len(cluster), dtype=bool), cluster), 1.0)
