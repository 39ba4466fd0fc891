"""How many tokens a batch should hold on this machine, found by trying."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from storage.errors import UserError
from tasks.embedding.embed import check_tokens, pooled_batches, workers_of
from tasks.embedding.forward import Backbone
from tasks.embedding.tokens import Tokens, tokenise
from tasks.numerics.cores import hand_back_freed_memory
from tasks.vocabulary import NormState, Pooling

_CALIBRATION_TEXTS = 4096
_CPU_BUDGETS = (1024, 2048, 4096)
_GPU_BUDGETS = (8192, 16384, 32768, 65536, 131072)
_CALIBRATION_BATCH_S = 1.5


@dataclass(frozen=True)
class Calibration:
    """How many tokens a batch should hold on this machine, and the tokens per second it then makes."""

    token_budget: int
    tokens_per_second: float


def calibrate(
    backbone: Backbone,
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int,
    most_tokens: float = math.inf,
) -> Calibration | None:
    """Find the token budget of a batch on this machine, in a few seconds, on some of the texts.

    The smallest budget that is within 3 % of the fastest: a small batch needs less memory. Budgets stop growing
    when a batch takes more than 1.5 s, memory runs out or more than `most_tokens` would be computed in all; None where
    the smallest is more. Every thread that a sweep has computes a batch at a time: small batches, fast where a thread
    is alone, make threads wait for Python's lock.
    """
    # Each thread computes a batch of each, and one of the smallest to warm up.
    budgets = budgets_of(backbone.device)
    spent = [workers_of(backbone) * (budgets[0] + each) for each in accumulate(budgets)]
    budgets = [budget for budget, tokens in zip(budgets, spent, strict=True) if tokens <= most_tokens]
    if not budgets:
        return None
    tokens = tokenise(tokenizer, texts[:_CALIBRATION_TEXTS], max_length)
    check_tokens(backbone, tokens)
    rates: dict[int, float] = {}
    _timed_batch(backbone, tokens, budgets[0])
    for budget in budgets:
        try:
            rates[budget], seconds = _timed_batch(backbone, tokens, budget)
        except torch.OutOfMemoryError:
            break
        if seconds > _CALIBRATION_BATCH_S:
            break
    hand_back_freed_memory()
    if not rates:
        raise UserError(
            f"A batch of {budgets[0]} tokens does not fit into the memory of {backbone.device}. Choose a smaller "
            "model or a shorter max_length."
        )
    budget = min(each for each in rates if rates[each] >= 0.97 * max(rates.values()))
    return Calibration(budget, rates[budget])


def budgets_of(device: torch.device) -> Sequence[int]:
    """The token budgets that a calibration tries, smallest first."""
    return _CPU_BUDGETS if device.type == "cpu" else _GPU_BUDGETS


def _timed_batch(backbone: Backbone, tokens: Tokens, budget: int) -> tuple[float, float]:
    """Tokens per second, and seconds, of a batch of about `budget` tokens on each thread, texts repeated as needed."""
    order = np.argsort(tokens.counts, kind="stable")
    middle = order[np.argsort(np.abs(np.arange(len(order)) - len(order) // 2), kind="stable")]
    repeated = np.resize(middle, max(budget, 1))
    batch = repeated[: max(int(np.searchsorted(np.cumsum(tokens.counts[repeated]), budget, "right")), 1)]
    if not backbone.packed:
        batch = batch[tokens.counts[batch] == tokens.counts[batch[0]]]
    batch = batch[np.argsort(-tokens.counts[batch], kind="stable")]
    key = (NormState.AS_RETURNED, Pooling.MEAN)
    batches = [np.arange(len(batch))] * workers_of(backbone)
    start = time.perf_counter()
    for _ in pooled_batches(backbone, tokens, batch, batches, [key], backbone.layers + 1):
        pass
    seconds = time.perf_counter() - start
    return float(len(batches) * tokens.counts[batch].sum() / seconds), seconds
