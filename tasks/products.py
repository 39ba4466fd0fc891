"""Matrix products by the library that is fastest at them; on an AMD processor that is not the one behind torch.mm."""

import torch

# Up to this many rows of one factor, a float64 product is thin.
THIN = 64
# MKL's float32 product uses half of what AVX-512 gives on AMD processors; oneDNN's does not.
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(left: torch.Tensor, right: torch.Tensor, shift: torch.Tensor | None = None) -> torch.Tensor:
    """left [n, D] · right [m, D]ᵀ + shift [m]."""
    on_cpu = left.device.type == "cpu"
    if on_cpu and left.dtype == torch.float32 and left.numel() > 0 and _ONEDNN:
        return torch.ops.mkldnn._linear_pointwise(left, right, shift, "none", [], "")
    if shift is not None:
        return torch.addmm(shift, left, right.T)
    if on_cpu and left.dtype == torch.float64 and min(len(left), len(right)) <= THIN:
        # OpenBLAS takes a quarter of MKL's time where one factor has a few rows only.
        return torch.from_numpy(left.numpy() @ right.numpy().T)
    return left @ right.T
