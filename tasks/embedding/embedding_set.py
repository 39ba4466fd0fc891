"""The shards of one embedding set, each computed once and never again."""

import fcntl
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import polars as pl
import torch
from prefect import get_run_logger, task

from storage.embeddings import verify_shard, write_shard
from storage.errors import UserError
from storage.files import read_bytes, remove_file, write_file
from storage.layout import Layout
from storage.manifest import write_manifest
from tasks.data.dataset import Dataset
from tasks.data.stored_table import read_table
from tasks.embedding.embed import EmbeddedTexts, embed_tokens
from tasks.embedding.loading import load_for, tokenizer_for
from tasks.embedding.model import LoadedModel, ModelFolder
from tasks.embedding.row_tokens import tokens_of_rows
from tasks.embedding.set_records import (
    EmbeddingSet,
    ShardRecord,
    shard_record,
)
from tasks.embedding.settings import Settings
from tasks.embedding.shards import Shard
from tasks.embedding.states_set import take_states
from tasks.embedding.text_pairs import features_of_states
from tasks.embedding.tokens import Tokens
from tasks.machine import device_lock, lock_file, on_slot
from tasks.retries import LONG_S, RETRIED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardOutcome:
    """One shard that lies in storage; `reused` says that it had been computed before."""

    index: int
    uri: str
    rows: int
    tokens: int
    seconds: float
    reused: bool


def embed_shard(
    layout: Layout,
    planned: EmbeddingSet,
    shard: Shard,
    dataset: Dataset,
    model: ModelFolder,
    settings: Settings,
    begun: EmbeddingSet | None = None,
) -> ShardOutcome:
    """Compute one shard, unless a whole and undamaged one lies there already.

    One forward pass runs on a device at a time (`device_lock`). Writing overlaps the next shard's computing. Where
    memory runs out, the token budget is halved once, for this shard alone, and its record says so.

    begun: as of `plan_embedding_set`; a shard of train rows that lies there is copied.

    Raises:
        UserError: half a budget does not fit into memory either, or a value is not finite.
    """
    uri = layout.shard(planned.id, shard.index)
    rows = shard.stop - shard.start
    table = read_table(dataset.uri, range(shard.start, shard.stop))
    if done := finished_shard(layout, planned, shard, table):
        return done
    # Of two sets of more and of fewer rows that come in turn the first train rows are the same, and nothing else.
    if shard.stop <= dataset.train_rows and (done := _copied(layout, planned, shard, table, begun)):
        return done
    if model.is_saved_states:
        embedded, token_budget = take_states(dataset, shard, model, settings), planned.token_budget
    else:
        # Before there is a device: while one shard computes, the next is tokenised.
        tokens = tokens_of_rows(tokenizer_for(model, settings), dataset, table, settings)
        with on_slot(settings.device) as device:
            loaded = load_for(model, settings, device)
            with device_lock(*loaded.backbone.devices):
                # Another run of the same set may have computed it while this one waited.
                if done := finished_shard(layout, planned, shard, table):
                    return done
                embedded, token_budget = _embed_in_memory(loaded, tokens, settings, planned.token_budget)
    of_rows = features_of_states(embedded.states) if dataset.text_pairs == "features" else embedded.states
    states = {(norm.value, pooling.value): values for (norm, pooling), values in of_rows.items()}
    footer = write_shard(
        uri, states, table["row_id"].to_numpy(), table["label"].to_numpy(), value_type=settings.storage_dtype
    )
    record = ShardRecord(embedded.seconds, rows, shard.tokens, token_budget, footer)
    write_manifest(layout.shard_record(planned.id, shard.index), asdict(record))
    return ShardOutcome(shard.index, uri, rows, shard.tokens, embedded.seconds, False)


def _copied(
    layout: Layout, planned: EmbeddingSet, shard: Shard, table: pl.DataFrame, begun: EmbeddingSet | None
) -> ShardOutcome | None:
    """The shard out of the set that was begun, in its place here; None where it is not there."""
    if begun is None or shard not in begun.shards or begun.id == planned.id:
        return None
    if (there := finished_shard(layout, begun, shard, table)) is None:
        return None
    record = shard_record(layout, begun, shard)
    assert record is not None
    uri = layout.shard(planned.id, shard.index)
    write_file(uri, read_bytes(there.uri))
    write_manifest(layout.shard_record(planned.id, shard.index), asdict(record))
    return replace(there, uri=uri)


def finished_shard(
    layout: Layout, planned: EmbeddingSet, shard: Shard, table: pl.DataFrame
) -> ShardOutcome | None:
    """The shard as an earlier run left it; None where it is not there, is damaged, or is not of these rows.

    table: the shard's rows of the data set.
    """
    record = shard_record(layout, planned, shard)
    uri = layout.shard(planned.id, shard.index)
    if record is None or not verify_shard(
        uri, table["row_id"].to_numpy(), table["label"].to_numpy(), record.footer
    ):
        return None
    return ShardOutcome(shard.index, uri, table.height, shard.tokens, record.seconds, True)


def _embed_in_memory(
    loaded: LoadedModel, tokens: Tokens, settings: Settings, token_budget: int
) -> tuple[EmbeddedTexts, int]:
    """The embeddings, and the token budget that fitted."""

    def embed(budget: int) -> EmbeddedTexts:
        return embed_tokens(
            loaded.backbone,
            tokens,
            poolings=settings.poolings,
            norm_states=settings.norm_states,
            token_budget=budget,
            max_layer=settings.max_layer,
        )

    try:
        return embed(token_budget), token_budget
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
    # Outside the handler: the error's traceback held the batch that was too large.
    half = max(token_budget // 2, 1)
    log.warning("Out of memory with %s tokens a batch; trying %s", f"{token_budget:,}", f"{half:,}")
    if loaded.backbone.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        return embed(half), half
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise UserError(
            f"Neither {token_budget:,} nor {half:,} tokens a batch fit into the memory of {settings.device}. Give a "
            f"--token-budget below {half:,}, a shorter --max-length or a smaller model."
        ) from error


def _out_of_memory(error: Exception) -> bool:
    """torch has a class for a GPU's memory; on a CPU its allocator's words are all there is."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def using_embeddings(set_id: str) -> Iterator[Callable[[Sequence[str]], bool]]:
    """Hold a set's embeddings against deletion by another run on this machine, as long as the block lasts.

    What it yields deletes these shards (plan and records stay) and says so, or leaves them to the other run that uses
    them.
    """
    with lock_file(f"use-{set_id}").open("w") as use:
        fcntl.flock(use, fcntl.LOCK_SH)

        def delete(uris: Sequence[str]) -> bool:
            try:
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            delete_embeddings(uris)
            return True

        yield delete


def delete_embeddings(uris: Sequence[str]) -> None:
    """Delete shards; plan and records stay."""
    for uri in uris:
        remove_file(uri)


def recorded_shards(layout: Layout, planned: EmbeddingSet) -> list[ShardOutcome] | None:
    """What earlier runs recorded of the shards, for a run that has every score already and reads no embedding.

    None where a record is missing or damaged.
    """
    outcomes = []
    for shard in planned.shards:
        record = shard_record(layout, planned, shard)
        if record is None:
            return None
        uri = layout.shard(planned.id, shard.index)
        outcomes.append(
            ShardOutcome(shard.index, uri, shard.stop - shard.start, shard.tokens, record.seconds, True)
        )
    return outcomes


@task(name="embed", task_run_name="embed shard {shard.index}", timeout_seconds=LONG_S, **RETRIED)
def embed_shard_task(
    layout: Layout,
    planned: EmbeddingSet,
    shard: Shard,
    dataset: Dataset,
    model: ModelFolder,
    settings: Settings,
    begun: EmbeddingSet | None = None,
) -> ShardOutcome:
    """Every layer and pooling of one shard, in one forward pass."""
    outcome = embed_shard(layout, planned, shard, dataset, model, settings, begun)
    get_run_logger().info(
        "Shard %s %s: %s rows, %.1f s",
        shard.index,
        "reused" if outcome.reused else "computed",
        outcome.rows,
        outcome.seconds,
    )
    return outcome
