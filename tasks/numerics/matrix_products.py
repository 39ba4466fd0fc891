"""Matrix products by the library that is fastest at them; on an AMD processor that is not the one behind torch."""

import numpy as np
import torch

# Up to this many rows of one factor, a float64 product is thin.
THIN = 64
# MKL's float32 product leaves much of AVX-512 unused on AMD processors; oneDNN's does not (`make bench ONLY=scoring`
# has torch's own product, MKL's, beside it).
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(left: torch.Tensor, right: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
    """left [n, D] · right [m, D]ᵀ + shift [m]."""
    on_cpu = left.device.type == "cpu"
    if on_cpu and left.dtype == torch.float32 and left.numel() > 0 and _ONEDNN:
        # With gaps between its rows the right factor gets oneDNN's reference kernel, which is far slower.
        if not (right.is_contiguous() or right.T.is_contiguous()):
            right = right.contiguous()
        return torch.ops.mkldnn._linear_pointwise(left, right, shift, "none", [], "")
    if shift is not None:
        return torch.addmm(shift, left, right.T)
    if on_cpu and left.dtype == torch.float64 and min(len(left), len(right)) <= THIN:
        # NumPy's OpenBLAS is faster than MKL where one factor has a few rows only.
        return torch.from_numpy(left.numpy() @ right.numpy().T)
    return left @ right.T


def gram(rows: torch.Tensor) -> torch.Tensor:
    """rowsᵀ·rows [D, D] of float32 or float64 rows [n, D]."""
    if rows.device.type == "cpu":
        # Of a matrix and itself NumPy computes one half and mirrors it.
        values = rows.numpy()
        return torch.from_numpy(values.T @ values)
    return rows.T @ rows


def eigh(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues [m], increasing, and eigenvectors [m, m] of a symmetric float32 or float64 matrix."""
    # OpenBLAS is faster than MKL on AMD processors. NumPy would compute float32 in float64.
    if matrix.device.type == "cpu" and matrix.dtype == torch.float64:
        values, vectors = np.linalg.eigh(matrix.numpy())
        return torch.from_numpy(values), torch.from_numpy(vectors)
    return torch.linalg.eigh(matrix)
