import numpy as np
import pytest
import torch

from tasks.numerics.principal_axes import FLOAT64_WIDTH, PrincipalAxes, decompose


@pytest.mark.parametrize(
    ("n", "d"), [(300, 12), (40, 90), (60, 60), (FLOAT64_WIDTH + 30, 1_600), (2_500, FLOAT64_WIDTH + 6)]
)
def test_coordinates_and_axes_give_the_rows_back(n, d):
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((n, d)) * np.geomspace(0.1, 10, d)
    Z = torch.from_numpy(Z - Z.mean(0)).float()
    values, vectors = decompose(Z)
    along = PrincipalAxes.of(Z, values, vectors)
    r = along.coordinates.shape[1]
    assert r == (d if n > d else n - 1)
    tolerance = 1e-4 if min(n, d) > FLOAT64_WIDTH else 1e-5
    axes, coordinates = along.axes.double(), along.coordinates.double()
    torch.testing.assert_close(coordinates @ axes, Z.double(), atol=100 * tolerance, rtol=0)
    torch.testing.assert_close(axes @ axes.T, torch.eye(r, dtype=torch.float64), atol=100 * tolerance, rtol=0)
    gram = coordinates.T @ coordinates
    assert (gram - gram.diag().diag()).abs().max() <= tolerance * gram.diag().max()
    want = np.linalg.svd(Z.double().numpy(), compute_uv=False)[:r] ** 2
    np.testing.assert_allclose(np.sort(gram.diag().numpy())[::-1], want, rtol=1e-3, atol=tolerance * want[0])


def test_rows_that_are_all_the_same_have_no_axis():
    Z = torch.zeros(5, 8)
    along = PrincipalAxes.of(Z, *decompose(Z))
    assert along.coordinates.shape == (5, 0)
    assert along.axes.shape == (0, 8)
