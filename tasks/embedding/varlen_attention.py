"""Attention over texts of all lengths in one call, by torch's kernel for GPUs, in the place of one call a length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.embedding.transfer import sent

HALF = (torch.bfloat16, torch.float16)
"""What that kernel computes in."""


@dataclass(frozen=True)
class Ends:
    """Where each of B texts begins and ends among T tokens, on the device."""

    queries: Tensor
    """int32 [B + 1]: 0, the end of the first text, …, T."""
    keys: Tensor
    """The same of what each may see: with the P tokens that stand before every text, B · P + T in all."""
    longest: int
    longest_keys: int
    places: Tensor | None
    """int64 [B · P + T]: the place of each key among those P and the texts' T; None where nothing stands before."""

    @classmethod
    def of(cls, lengths: Sequence[int], prefix: int, device: torch.device) -> "Ends":
        """lengths: of each text without the `prefix` tokens before it."""
        own = np.asarray(lengths, dtype=np.int64)
        places = None
        if prefix:
            starts = prefix + np.cumsum(own) - own
            of_each = [(np.arange(prefix), np.arange(at, at + n)) for at, n in zip(starts, own, strict=True)]
            places = sent(
                torch.from_numpy(np.concatenate([part for each in of_each for part in each])), device
            )
        longest = int(own.max())
        return cls(_ends(own, device), _ends(own + prefix, device), longest, longest + prefix, places)


def _ends(lengths: np.ndarray, device: torch.device) -> Tensor:
    return sent(torch.from_numpy(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)), device)


def attend_in_one_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    before: tuple[Tensor, Tensor] | None,
    ends: Ends,
    scale: float,
    causal: bool,
    window: int | None,
) -> Tensor:
    """[1, T, H, d] of queries [1, H, T, d] and keys and values [1, K, T, d] in one of HALF, K divides H.

    before: keys and values [K, P, d] that each text sees before its own, where `ends` has a prefix. A window holds the
    query's own token; queries are the last of a text's keys.

    Raises:
        RuntimeError: the device has no such kernel, or not for this size of head.
    """
    from torch.nn.attention.varlen import varlen_attn  # only where there is a GPU

    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    if before is not None:
        assert ends.places is not None
        k, v = (
            torch.cat((old.transpose(0, 1), new))[ends.places]
            for old, new in zip(before, (k, v), strict=True)
        )
    back = -1 if window is None else window - 1
    found = varlen_attn(
        q,
        k,
        v,
        ends.queries,
        ends.keys,
        ends.longest,
        ends.longest_keys,
        scale=scale,
        window_size=(back, 0 if causal else back),
        enable_gqa=k.shape[1] != q.shape[1],
    )
    assert isinstance(found, Tensor)
    return found[None]
