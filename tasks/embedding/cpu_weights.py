"""Weights laid out once as oneDNN's matrix products read them, instead of at every call."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def packs_bfloat16() -> bool:
    """Whether torch has oneDNN here, and oneDNN bfloat16 products on this CPU.

    Without them torch computes bfloat16 all the same, but slower than float32.
    """
    return _has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def packs(dtype: torch.dtype) -> bool:
    """Whether products of this dtype are faster here by oneDNN, with weights laid out for it, than as torch does them.

    In float32 that is so on AMD's processors: torch's own are MKL's, which leave much of AVX-512 unused there
    (docs/performance.md).
    """
    if dtype == torch.bfloat16:
        return packs_bfloat16()
    return dtype == torch.float32 and _has_onednn() and torch.backends.mkl.is_available() and _is_amd()


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def _is_amd() -> bool:
    described = Path("/proc/cpuinfo")
    return described.is_file() and "AuthenticAMD" in described.read_text(errors="replace")


def pack_weights(blocks: nn.ModuleList) -> None:
    """Lay the weights of blocks out for oneDNN, in place. Only where `packs` their dtype.

    A gated MLP also gets its activation and its product computed where the matrix product writes. The plain weights
    are freed: two copies would double the memory of a model. The operators are those that torch.compile emits.
    """
    from transformers.activations import SiLUActivation  # slow to import

    for module in blocks.modules():
        if type(module) is nn.Linear and module.weight.numel():
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
            # The class's own would read the weight, which is freed here.
            _replace_forward(module, partial(_product, packed, module.bias))
            module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)
    for module in blocks.modules():
        parts: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
        silu = isinstance(getattr(module, "act_fn", None), nn.SiLU | SiLUActivation)
        if silu and all(type(part) is nn.Linear for part in parts):
            _replace_forward(module, partial(_gated_product, *(part.forward for part in parts)))


def _replace_forward(module: nn.Module, forward: Callable[..., torch.Tensor]) -> None:
    """Of this module alone, not of its class."""
    module.forward = forward


def _product(packed: Tensor, bias: Tensor | None, x: Tensor, then: str = "none") -> Tensor:
    """x Wᵀ + b, and an activation."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], "")


def _gated_product(gate: partial, up: partial, down: partial, x: Tensor) -> Tensor:
    """down(silu(gate(x)) · up(x))."""
    return down(torch.ops.mkldnn._linear_pointwise.binary(x, gate(x, then="swish"), *up.args, "mul"))
