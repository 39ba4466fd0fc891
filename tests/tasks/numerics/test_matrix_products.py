import numpy as np
import pytest
import torch

from tasks.numerics import matrix_products

LAYOUTS = {
    "contiguous": lambda n: torch.randn(n, 300),
    "transposed": lambda n: torch.randn(300, n).T,
    "rows apart": lambda n: torch.randn(n, 600)[:, :300],
    "columns apart": lambda n: torch.randn(n, 600)[:, ::2],
    "transposed, rows apart": lambda n: torch.randn(300, 2 * n)[:, n:].T,
}


@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
def test_no_layout_gets_the_reference_kernel(left, right, capfd):
    a, b = LAYOUTS[left](40), LAYOUTS[right](50)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        got = matrix_products.product(a, b)
    said = capfd.readouterr().out
    if matrix_products._ONEDNN:
        assert "inner_product" in said
    assert "ref:any" not in said
    np.testing.assert_allclose(got, a.numpy() @ b.numpy().T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gram_and_its_decomposition(dtype):
    rows = torch.randn(70, 30, dtype=dtype)
    found = matrix_products.gram(rows)
    np.testing.assert_allclose(found, rows.double().T @ rows.double(), rtol=1e-4, atol=1e-4)
    values, vectors = matrix_products.eigh(found)
    assert values.dtype == vectors.dtype == dtype
    assert (values.diff() >= 0).all()
    np.testing.assert_allclose((vectors * values) @ vectors.T, found, rtol=1e-3, atol=1e-3)
