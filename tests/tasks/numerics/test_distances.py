from itertools import chain

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from tasks.numerics import distances, matrix_products


def whole(points, parts=1, head_start=0.0):
    """The full matrix put together from tiles, shared out among `parts`; NaN where no tile came."""
    out = torch.full((points.n, points.n), torch.nan, dtype=torch.float64)
    shares = distances.strips_of(points, parts, head_start)
    for tile in chain.from_iterable(distances.tiles(points, strips) for strips in shares):
        part = tile.distance.double()
        width = tile.row1 - tile.row0
        assert out[tile.row0 : tile.row1, tile.column0 : tile.column1].isnan().all()
        out[tile.row0 : tile.row1, tile.column0 : tile.column1] = part
        skip = width if tile.column0 == tile.row0 else 0
        out[tile.column0 + skip : tile.column1, tile.row0 : tile.row1] = part[:, skip:].T
    return out.numpy()


@pytest.mark.parametrize("n", [2, 255, 257, 1_537, 2_700])
@pytest.mark.parametrize("massive", [0.0, 24_000.0])
@pytest.mark.parametrize("fast", [False, True])
def test_tiles_hold_every_pair_once(n, massive, fast):
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n, 12)).astype(np.float32) + 5
    X[:, 7] += massive / rng.integers(1, 40, n)
    X[n // 2] = X[0]
    points = distances.prepare(torch.from_numpy(X), fast=fast)
    want = cdist(X.astype(np.float64), X.astype(np.float64)) * points.unit
    got = whole(points)
    tolerance = 2e-2 if fast and n > distances.FLOAT64_ROWS else 2e-4
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.median(want) * 0.05)
    if not fast:
        assert got[0, n // 2] == 0.0


@pytest.mark.parametrize("parts", [2, 3, 11])
@pytest.mark.parametrize("head_start", [0.0, 1e5, 1e9])
def test_parts_share_the_tiles_out(parts, head_start):
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((2_000, 3)))
    points = distances.prepare(X)
    np.testing.assert_array_equal(whole(points, parts, head_start), whole(points))


@pytest.mark.parametrize("head_start", [0.0, 5e5, 3e6])
def test_parts_are_done_at_the_same_time(head_start):
    points = distances.prepare(torch.from_numpy(np.random.default_rng(0).standard_normal((5_000, 3))))
    parts = distances.strips_of(points, 2, head_start)
    first, last = (sum(tile.distance.numel() for tile in distances.tiles(points, each)) for each in parts)
    # Every other strip would leave ten such squares between them.
    assert abs(first - last - head_start) < distances.CPU_TILE[0] ** 2


def test_a_part_with_more_to_do_than_all_others_gets_nothing():
    points = distances.prepare(torch.from_numpy(np.random.default_rng(0).standard_normal((2_000, 3))))
    assert distances.strips_of(points, 2, head_start=1e9) == [list(range(8))]


def test_distances_of_some_rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((1_700, 20)).astype(np.float32)
    points = distances.prepare(torch.from_numpy(X))
    rows = torch.tensor([3, 900, 1_699])
    got = distances.distances_of(points, rows)(slice(100, 1_000)).numpy() / points.unit
    np.testing.assert_allclose(got, cdist(X[rows], X[100:1_000]), rtol=1e-4, atol=2e-3)


def test_massive_axes_are_taken_out():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2_000, 30))
    assert distances.prepare(torch.from_numpy(X)).axes.shape[1] == 0
    turn = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    X[:, :2] *= [3_000, 400]
    points = distances.prepare(torch.from_numpy(X @ turn))
    assert points.axes.shape[1] == 2
    rest = points.z.double().square().sum(1).mean().sqrt() / points.unit
    assert rest < 6  # √28, not 3,000


def test_no_torch_op_of_a_private_name_is_needed(monkeypatch):
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((1_600, 8)).astype(np.float32))
    with_onednn = whole(distances.prepare(X))
    monkeypatch.setattr(matrix_products, "_ONEDNN", False)
    np.testing.assert_allclose(whole(distances.prepare(X)), with_onednn, atol=1e-5)
