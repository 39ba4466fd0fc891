"""What a forward pass leaves on a model's modules: a recurrent state, frequencies of the longest text seen, a mode."""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_OWN = frozenset({*vars(nn.Module()), "_output_capturing_hooks_installed"})
"""torch's own attributes of every module, and what transformers remembers of its hooks, which stay."""


@dataclass(frozen=True)
class _Slot:
    """One attribute of a module: where it lies, what it was, and a copy of a tensor's values."""

    where: MutableMapping[str, Any]
    name: str
    value: Any
    copy: Tensor | None


class ModelState:
    """The attributes, buffers and parts of a model's modules as they were when this was made; no parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._where = [where for module in model.modules() for where in _places(module)]
        self._slots = [
            _Slot(where, name, value, value.detach().clone() if isinstance(value, Tensor) else None)
            for where in self._where
            for name, value in _named(where)
        ]

    def restore(self) -> bool:
        """Put everything back as it was; whether anything had changed."""
        known = {(id(slot.where), slot.name) for slot in self._slots}
        added = [
            (where, name)
            for where in self._where
            for name, value in _named(where)
            if (id(where), name) not in known
        ]
        for where, name in added:
            del where[name]
        changed = [slot for slot in self._slots if _differs(slot)]
        with torch.inference_mode():
            for slot in changed:
                slot.where[slot.name] = slot.value
                if slot.copy is not None:
                    slot.value.copy_(slot.copy)
        return bool(added or changed)


def _places(module: nn.Module) -> Iterator[MutableMapping[str, Any]]:
    yield vars(module)
    yield module._buffers
    yield module._modules


def _named(where: MutableMapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in where.items() if name not in _OWN]


def _differs(slot: _Slot) -> bool:
    now = slot.where.get(slot.name)
    if now is not slot.value:
        plain = isinstance(now, int | float | str | None) and isinstance(slot.value, int | float | str | None)
        return not (plain and now == slot.value)
    return slot.copy is not None and not slot.copy.equal(now)
