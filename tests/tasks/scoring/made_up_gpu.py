"""A GPU that is not there: torch takes tensors for its own, and their numbers, which the CPU makes, are true.

What joins tensors of two devices raises, as with CUDA. Nothing is told of what is for CUDA alone: streams, its own
kernels and their rounding. For a process of its own, since torch's backend has a name for good, and not for inference
mode.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_ATEN = torch.ops.aten
# Values come and go; rows may be picked by numbers that lie on the CPU.
_BETWEEN = {_ATEN.copy_, _ATEN._to_copy}
_INDEXING = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_}


class OnGpu(torch.Tensor):
    """A tensor of the CPU that is taken for one of a GPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> "OnGpu":
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, device=device, **like)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Torch refuses it to a subclass, and not to a GPU."""
        return self.held.tolist()


class MadeUpGpus(TorchDispatchMode):
    """In this context, `gpu:0` and `gpu:1` are devices on which tensors can be made."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        on_gpu = any(isinstance(each, OnGpu) for each in leaves)
        made_there = any(isinstance(each, torch.device) and each.type == "gpu" for each in leaves)
        return _run(func, args, kwargs) if on_gpu or made_there else func(*args, **kwargs)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation with the tensors of the CPU in the place of those on a GPU."""
    leaves = tree_leaves((args, kwargs))
    given = [each for each in leaves if isinstance(each, OnGpu)]
    of_cpu = [each for each in leaves if isinstance(each, torch.Tensor) and not isinstance(each, OnGpu)]
    asked = next((each for each in leaves if isinstance(each, torch.device)), None)
    kind = func.overloadpacket
    places = {each.device for each in given}
    if given and kind not in _BETWEEN:
        if kind in _INDEXING:  # the rows may be picked by numbers of the CPU
            of_cpu = [each for each in (args[0], *args[2:3]) if not isinstance(each, OnGpu)]
        # A single number of the CPU may stand beside any tensor.
        apart = [each for each in of_cpu if each.dim() > 0]
        if apart or len(places) > 1:
            raise RuntimeError(
                f"{func} of tensors on {sorted(map(str, places))}{' and cpu' if apart else ''}"
            )

    def on_cpu(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return value.held if isinstance(value, OnGpu) else value

    found = func(*tree_map(on_cpu, args), **tree_map(on_cpu, kwargs))
    if kind is _ATEN.copy_:
        return args[0]
    device = asked or next(iter(places))
    if device.type == "cpu":
        return found
    changed = {id(each.held): each for each in given}

    def on_gpu(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in changed:  # in place, or an `out`
            return changed[id(value)]
        return OnGpu(value, torch.device("gpu", device.index or 0))

    return tree_map(on_gpu, found)


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    return OnGpu(torch.empty_strided(size, stride, dtype=dtype), torch.device("gpu", device.index or 0))


def _copy(self, source, non_blocking=False):
    self.held.copy_(source.held if isinstance(source, OnGpu) else source)
    return self


_LIBRARY = torch.library.Library("aten", "IMPL")


def register() -> None:
    """Tell torch of the device `gpu`, once a process."""
    _setup_privateuseone_for_python_backend("gpu")
    # What torch makes of Python's lists does not ask `__torch_dispatch__`.
    _LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
    _LIBRARY.impl("copy_", _copy, "PrivateUse1")
