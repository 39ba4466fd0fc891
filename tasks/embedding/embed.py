"""One forward pass over some texts → every layer, every pooling."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from storage.errors import UserError
from tasks.embedding.cpu_weights import packs_bfloat16
from tasks.embedding.families import FAMILIES
from tasks.embedding.forward import Backbone, capturing, forward_layers
from tasks.embedding.packed_attention import LengthGroup
from tasks.embedding.pooled_batch import Key, Pooled, PooledBatch, Ranges, arrived, reach
from tasks.embedding.pooling import POOLINGS
from tasks.embedding.product_speed import bfloat16_speed_up
from tasks.embedding.scatter import columns_of, distinct_texts, rows_of_texts, scatter
from tasks.embedding.shared_prefix import SharedPrefix, prefix_of
from tasks.embedding.streaming import stream_blocks
from tasks.embedding.tokens import Tokens, tokenise
from tasks.embedding.windows import Part, TextsOfWindows, check_joined, in_windows
from tasks.numerics.cores import keep_freed_memory, own_threads
from tasks.vocabulary import LongTexts, NormState, Pooling

EMBED_VERSION = 3
"""Raised by hand whenever a change in this room changes a number."""

_MOST_WORKERS = 4
# Times as fast as float32 that bfloat16 has to be on a CPU: it costs digits.
WORTH_BFLOAT16 = 1.2


@dataclass(frozen=True)
class EmbeddedTexts:
    """Embeddings of N texts, or words: float32 [layers + 1, N, D] for each norm state and pooling, in their order.

    token_count: int32 [texts], tokens that were computed of each. truncated: bool [texts], one was longer than the
    maximum. seconds: the whole call.
    """

    states: dict[Key, NDArray[np.float32]]
    token_count: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    seconds: float


def choose_dtype(device: torch.device) -> torch.dtype:
    """What `auto` means: bfloat16 where the device multiplies it natively and faster, and torch lets it, else float32.

    Never float16: it overflows inside Gemma and Qwen2.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        has_products = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        native = has_products and packs_bfloat16() and bfloat16_speed_up() >= WORTH_BFLOAT16
    else:
        native = True
    return torch.bfloat16 if native else torch.float32


def embed_texts(
    backbone: Backbone,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    poolings: Sequence[Pooling],
    norm_states: Sequence[NormState],
    max_length: int,
    token_budget: int,
    max_layer: int | None = None,
    long_texts: LongTexts = LongTexts.CUT,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddedTexts:
    """Embed texts with every layer up to `max_layer`, reading each text once.

    max_length: tokens of a text; what becomes of a longer one is said by long_texts. token_budget: tokens of a batch; a
    longer text is a batch of its own. Texts with the same tokens are embedded once. on_progress(done, total) is called
    after every batch with distinct tokens.
    `UserError`: a norm state the model does not have, more tokens than the model has positions, an empty text, a
    value that is not finite (with layer, pooling and row).
    """
    started = time.perf_counter()
    embedded = embed_tokens(
        backbone,
        tokenise(tokenizer, texts, max_length, long_texts),
        poolings=poolings,
        norm_states=norm_states,
        token_budget=token_budget,
        max_layer=max_layer,
        on_progress=on_progress,
    )
    return replace(embedded, seconds=time.perf_counter() - started)


def embed_tokens(
    backbone: Backbone,
    tokens: Tokens,
    *,
    poolings: Sequence[Pooling],
    norm_states: Sequence[NormState],
    token_budget: int,
    max_layer: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddedTexts:
    """`embed_texts` after tokenising, which needs no model: the next texts' can go on while these are computed.

    Of texts that are split, windows after the first are in batches of their own, so that texts of one window are in the
    same batches as where long ones are cut.
    """
    started = time.perf_counter()
    has_final_norm = backbone.final_norm is not None
    layers = check_layers(backbone.family, backbone.layers, has_final_norm, norm_states, max_layer) + 1
    check_tokens(backbone, tokens)
    check_poolings(backbone.family, backbone.packed, poolings)
    of_text = [each.value for each in poolings if POOLINGS[each].of_text]
    if tokens.around is None and of_text:
        raise UserError(
            f"Pooling {of_text[0]} needs a tokenizer of the tokenizers library, which tells a text's own tokens from "
            "those around it; this model's is in plain Python. Take mean or mean_tail."
        )
    keys = [(norm_state, pooling) for norm_state in norm_states for pooling in poolings]
    states = {
        key: np.empty((layers, int(tokens.starts[-1]), backbone.hidden_size), dtype=np.float32)
        for key in keys
    }
    distinct, places_of = distinct_texts(tokens)
    rows_of = rows_of_texts(tokens, places_of)
    prefix = prefix_of(tokens) if backbone.shares_prefix and tokens.words is None else None
    shared = 0 if prefix is None else prefix.length
    batches = plan_batches(tokens.counts[distinct] - shared, token_budget, backbone.packed)
    computed, parts, texts = tokens.of(distinct), None, len(distinct)
    joining = None
    if tokens.long is not None:
        check_joined(poolings)
        computed, parts = in_windows(computed, causal=backbone.causal)
        further = plan_batches(computed.counts[texts:] - shared, token_budget, backbone.packed)
        batches += [texts + each for each in further]
        joining = TextsOfWindows(parts, tokens.around or (0, 0), places_of, states)
    total = int(computed.counts.sum())
    done = 0
    every = np.arange(len(computed.ids))
    for members, pooled in pooled_batches(backbone, computed, every, batches, keys, layers, prefix, parts):
        columns = columns_of(members, parts, rows_of)
        for key, values in pooled.items():
            scatter(values, columns, states[key], key, joining, tokens.texts_a_row)
        done += int(computed.counts[members].sum())
        if on_progress is not None:
            on_progress(done, total)
    if joining is not None:
        joining.finish()
    return EmbeddedTexts(states, tokens.computed, tokens.truncated, time.perf_counter() - started)


def plan_batches(
    counts: NDArray[np.int32], token_budget: int, mixed_lengths: bool
) -> list[NDArray[np.int64]]:
    """Cut texts into batches of at most `token_budget` tokens, longest first, so that memory runs out at once or never.

    Returns the indices of each batch, longest text first. Without `mixed_lengths` a batch has texts of one length.
    Batches are about equal, and as many as threads can share evenly: none is left with the last one alone.
    """
    order = np.argsort(-counts.astype(np.int64), kind="stable")
    total = int(counts.sum())
    least = -(-total // max(token_budget, 1))
    even = -(-least // _MOST_WORKERS) * _MOST_WORKERS
    size = min(token_budget, -(-total // even)) if least > 1 else token_budget
    batches: list[list[int]] = []
    filled = 0
    for index in order:
        count = int(counts[index])
        fits = batches and filled + count <= token_budget and filled < size
        if not fits or not (mixed_lengths or count == counts[batches[-1][0]]):
            batches.append([])
            filled = 0
        batches[-1].append(int(index))
        filled += count
    return [np.array(batch, dtype=np.int64) for batch in batches]


def workers_of(backbone: Backbone) -> int:
    """Threads that each compute a batch of their own."""
    if backbone.restore is not None:
        return 1
    return min(torch.get_num_threads(), _MOST_WORKERS) if backbone.device.type == "cpu" else 1


def check_layers(
    family: str, layers: int, has_final_norm: bool, norm_states: Sequence[NormState], max_layer: int | None
) -> int:
    """The last layer to embed; `UserError` where the model has no such layer or norm state."""
    if NormState.FINAL_NORM in norm_states and not has_final_norm:
        raise UserError(
            f"The norm state 'final_norm' was asked for, but a {family!r} model has no final norm: each block ends in "
            "its own. Ask for 'as_returned' only."
        )
    last = layers if max_layer is None else max_layer
    if not 0 <= last <= layers:
        raise UserError(
            f"The last layer to embed is {last}, but the model has layers 0 to {layers}. Choose max_layer among them."
        )
    return last


def check_poolings(family: str, packed: bool, poolings: Sequence[Pooling]) -> None:
    """`UserError` where a pooling is weighted by attention that is not computed here. packed: as of `Backbone`."""
    by_attention = [each.value for each in poolings if POOLINGS[each].weights is not None]
    if by_attention and not packed:
        ours = ", ".join(sorted(name for name, row in FAMILIES.items() if row.packed))
        raise UserError(
            f"Pooling {by_attention[0]} weighs tokens by the attention of a model's blocks, and that of this "
            f"{family!r} model is not computed by layerscout. Take mean, mean_tail or text_mean, or a model of one of "
            f"the families {ours}."
        )


def check_tokens(backbone: Backbone, tokens: Tokens) -> None:
    """`UserError` where a text has more tokens than the model has positions, or one that has no embedding."""
    limit = backbone.positions
    longest = int(tokens.counts.max(initial=0))
    if limit is not None and longest > limit:
        row = int(tokens.counts.argmax()) // tokens.texts_a_row
        raise UserError(
            f"Row {row} has {longest} tokens, but the model has positions for {limit}. "
            f"Set max_length to {limit} or less."
        )
    known = backbone.vocabulary
    for place, of_text in enumerate(tokens.ids):
        ids = (tokens.long or {}).get(place, of_text)
        if known is not None and int(ids.max(initial=0)) >= known:
            row = place // tokens.texts_a_row
            raise UserError(
                f"Row {row} has token {int(ids.max())}, but the model has embeddings for {known} tokens. "
                "Were tokens added to the tokenizer? Then `model.resize_token_embeddings(len(tokenizer))`, train them, "
                "and save both again; or take the tokenizer that belongs to these weights."
            )


def pooled_batches(
    backbone: Backbone,
    tokens: Tokens,
    distinct: NDArray[np.int64],
    batches: Sequence[NDArray[np.int64]],
    keys: Sequence[Key],
    layers: int,
    prefix: SharedPrefix | None = None,
    parts: Sequence[Part | None] | None = None,
) -> Iterator[tuple[NDArray[np.int64], dict[Key, Tensor]]]:
    """Each batch with its embeddings on the CPU, float32 [layers, texts of the batch, D] for each key.

    A GPU gets the next batch before the last one's embeddings are waited for. On a CPU each of a few threads has a
    batch of its own: threads that split every operation among them wait for each other at each. Where the model's
    blocks are read one after the other, all batches go through a block before the next is read.

    prefix: what all texts begin with; it is computed here, before them. parts: of each of `distinct`, where some are
    windows of longer texts.
    """
    shared = 0 if prefix is None else prefix.length
    around = tokens.around or (0, 0)

    def ids_of(members: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        return [tokens.ids[row][shared:] for row in distinct[members]]

    def words_of(members: NDArray[np.int64]) -> list[NDArray[np.int32]] | None:
        return None if tokens.words is None else [tokens.words[row] for row in distinct[members]]

    def ranges_of(members: NDArray[np.int64]) -> Ranges | None:
        windows = [None if parts is None else parts[member] for member in members]
        if not any(windows):
            return None
        return {
            pooling: [None if each is None else each.pooled(pooling, around) for each in windows]
            for _, pooling in keys
        }

    if backbone.read_block is None:
        keep_freed_memory()  # where blocks come and go, it is the next block's
    threads = torch.get_num_threads()
    workers = workers_of(backbone)
    executor = ThreadPoolExecutor(workers, initializer=own_threads, initargs=(threads // workers,))
    torch.set_num_threads(threads // workers)
    waiting: deque[tuple[NDArray[np.int64], Future[Pooled]]] = deque()
    with executor:
        try:
            if backbone.read_block is not None:
                begun = [
                    PooledBatch(
                        backbone,
                        ids_of(members),
                        keys,
                        layers,
                        around,
                        prefix,
                        ranges_of(members),
                        words_of(members),
                    )
                    for members in batches
                ]
                pooled = stream_blocks(backbone, begun, executor, reach(backbone, keys, layers - 1), prefix)
                yield from zip(batches, map(arrived, pooled), strict=True)
                return
            with capturing(backbone):
                if prefix is not None:
                    compute_prefix(backbone, prefix, reach(backbone, keys, layers - 1))
                for members in batches:
                    of_batch = around, prefix, ranges_of(members), words_of(members)
                    computing = executor.submit(
                        _pool_batch, backbone, ids_of(members), keys, layers, *of_batch
                    )
                    waiting.append((members, computing))
                    if len(waiting) > 2 * workers:
                        yield _first_of(waiting)
                while waiting:
                    yield _first_of(waiting)
        finally:
            executor.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def compute_prefix(backbone: Backbone, prefix: SharedPrefix, last: int) -> None:
    """Run the tokens that all texts begin with through the model once, up to layer `last`. Inside `capturing`."""
    tokens = prefix.tokens(backbone.device)
    forward_layers(
        backbone, tokens, [LengthGroup(0, 1, prefix.length)], prefix.keep_states, last, records=prefix
    )


def _pool_batch(
    backbone: Backbone,
    ids: Sequence[NDArray[np.int32]],
    keys: Sequence[Key],
    layers: int,
    around: tuple[int, int],
    prefix: SharedPrefix | None,
    ranges: Ranges | None,
    words: Sequence[NDArray[np.int32]] | None,
) -> Pooled:
    batch = PooledBatch(backbone, ids, keys, layers, around, prefix, ranges, words)
    up_to = reach(backbone, keys, layers - 1)
    forward_layers(backbone, batch.tokens, batch.groups, batch.take, up_to, prefix=prefix, look=batch.look)
    return batch.start_copy()


def _first_of(
    waiting: "deque[tuple[NDArray[np.int64], Future[Pooled]]]",
) -> tuple[NDArray[np.int64], dict[Key, Tensor]]:
    members, computing = waiting.popleft()
    return members, arrived(computing.result())
