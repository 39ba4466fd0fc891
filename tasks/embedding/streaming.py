"""A model larger than memory, block by block: each is read once, and run over all batches before the next is read."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tasks.embedding.forward import Backbone, model_inputs
from tasks.embedding.packed_attention import ForwardPass, LastLayerReached, LengthGroup, Look, current_pass
from tasks.embedding.pooled_batch import Pooled, PooledBatch
from tasks.embedding.shared_prefix import SharedPrefix
from tasks.numerics.cores import hand_back_freed_memory


def stream_blocks(
    backbone: Backbone,
    batches: Sequence[PooledBatch],
    executor: Executor,
    last: int,
    prefix: SharedPrefix | None = None,
) -> Iterator[Pooled]:
    """Run blocks 1 to `last` over all batches; then the embeddings of each, in order.

    last: as of `reach`. prefix: what all texts begin with; each block runs over it first.

    While one block computes, the next is read. The states between blocks stay on the model's device. Numbers are those
    of the whole model to the bit: the same operations see the same batches.
    """
    read = backbone.read_block
    assert read is not None
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, 0) if last else None
        first = None
        if prefix is not None:
            groups = [LengthGroup(0, 1, prefix.length)]
            first = _Pass(
                backbone, prefix.tokens(backbone.device), groups, prefix.keep_states, records=prefix
            )
        passes = [
            _Pass(backbone, each.tokens, each.groups, each.take, prefix=prefix, look=each.look)
            for each in batches
        ]
        for number in range(last):
            assert coming is not None
            block = coming.result()
            coming = reader.submit(read, number + 1) if number + 1 < last else None
            if first is not None and prefix is not None:
                prefix.keys_and_values.clear()  # of the block before
                first.advance(number, block)
            for _ in executor.map(partial(_Pass.advance, number=number, block=block), passes):
                pass
            del block  # before the one after the next is read
            hand_back_freed_memory()
    del passes
    for batch in batches:
        yield batch.start_copy()


class _Pass:
    """Some texts between two blocks: their states, and what the model hands each block beside them."""

    def __init__(
        self,
        backbone: Backbone,
        tokens: Tensor,
        groups: Sequence[LengthGroup],
        take: Callable[[int, Tensor], None],
        *,
        prefix: SharedPrefix | None = None,
        records: SharedPrefix | None = None,
        look: Look | None = None,
    ) -> None:
        self._backbone = backbone
        self._forward = ForwardPass(
            groups, take, backbone.layers + 1, prefix=prefix, records=records, look=look
        )
        self._states = tokens  # until the first block is given its own
        self._calls: list[tuple[Sequence[Any], dict[str, Any]]] = []
        with self._current(), _handed_through(backbone.blocks, self._record):
            backbone.model(**model_inputs(backbone, tokens, groups, prefix))
        self._forward.reached(0, self._states)

    def advance(self, number: int, block: nn.Module) -> None:
        """Through block `number`, counted from 0, and out of it as layer `number + 1`."""
        args, kwargs = self._calls[number]
        # Of the block after the last layer that is kept, attention alone is wanted.
        with suppress(LastLayerReached), self._current():
            self._states = block(self._states, *args, **kwargs)
            layer, norm = number + 1, self._backbone.final_norm
            is_last = layer == self._backbone.layers and self._backbone.last_is_normed
            self._forward.reached(layer, norm(self._states) if is_last and norm else self._states)

    def _record(self, states: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if not self._calls:
            self._states = states
        self._calls.append((args, kwargs))

    @contextmanager
    def _current(self) -> Iterator[None]:
        token = current_pass.set(self._forward)
        try:
            with torch.inference_mode():
                yield
        finally:
            current_pass.reset(token)


@contextmanager
def _handed_through(
    blocks: Sequence[nn.Module], record: Callable[[Tensor, Sequence[Any], dict[str, Any]], None]
) -> Iterator[None]:
    """Blocks that compute nothing: each notes what it is called with, and gives back the states that it got.

    As a tensor: no block of a packed family gives a tuple.
    """

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        states, *others = args or (kwargs.pop("hidden_states"),)
        record(states, others, kwargs)
        return states

    for block in blocks:
        of_block: Any = block
        of_block.forward = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own is there again
