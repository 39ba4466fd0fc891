"""The tokens with which every text begins, such as a prompt's: computed once, and seen by every text of a shard.

In a causal model they see nothing of what follows them, so that their states, keys and values are the same in every
text.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.embedding.tokens import Tokens

LEAST = 4
"""Tokens: more than special ones alone, so that sets without a prompt stay what they were."""


@dataclass(frozen=True)
class SharedPrefix:
    """P tokens, and what they leave at each layer. It is filled while they are computed."""

    ids: NDArray[np.int32]
    """[P]."""
    states: dict[int, Tensor] = field(default_factory=dict)
    """layer → [P, D]."""
    keys_and_values: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of each attention: [K, P, d] both, positions included."""

    @property
    def length(self) -> int:
        """P."""
        return len(self.ids)

    def tokens(self, device: torch.device) -> Tensor:
        """int64 [P] there."""
        return torch.from_numpy(self.ids.astype(np.int64)).to(device)

    def keep_attention(self, module: nn.Module, key: Tensor, value: Tensor) -> None:
        """key and value: [1, K, P, d]."""
        self.keys_and_values[module] = key[0].clone(), value[0].clone()

    def keep_states(self, layer: int, states: Tensor) -> None:
        """states: [P, D], which die after the call."""
        self.states[layer] = states.clone()


def prefix_of(tokens: Tokens) -> SharedPrefix | None:
    """The tokens before every text, which has one more at the least; None where they are too few or not the same."""
    length = 0 if tokens.around is None else tokens.around[0]
    if length < LEAST or not tokens.ids or int(tokens.counts.min()) <= length:
        return None
    first = tokens.ids[0][:length]
    return SharedPrefix(first) if all((each[:length] == first).all() for each in tokens.ids) else None
