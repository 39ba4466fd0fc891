"""The plan of one embedding set: its shards and the tokens of a batch, settled once and kept with it."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace

import psutil
from prefect import get_run_logger, task

from storage.layout import Layout
from storage.manifest import write_manifest
from tasks.data.dataset import Dataset
from tasks.data.stored_table import read_table
from tasks.embedding.calibration import Calibration, budgets_of, calibrate
from tasks.embedding.comparison import NarrowDtypeError
from tasks.embedding.embed import check_layers, check_poolings, check_tokens
from tasks.embedding.forward import Backbone
from tasks.embedding.loading import load_for
from tasks.embedding.model import LoadedModel, ModelFolder
from tasks.embedding.row_tokens import tokens_of_rows, whole_texts
from tasks.embedding.set_records import (
    EmbeddingSet,
    calibration_file,
    kept_calibration,
    kept_plan,
)
from tasks.embedding.settings import Settings, embedding_set_id, resolve_settings
from tasks.embedding.shards import Shard, plan_shards
from tasks.embedding.states_set import plan_states
from tasks.embedding.text_pairs import PARTS
from tasks.embedding.tokens import Tokens, check_known, check_room
from tasks.embedding.windows import check_joined
from tasks.machine import device_lock, machine_lock, on_slot
from tasks.retries import LONG_S, RETRIED
from tasks.vocabulary import LongTexts

# A shard is worth its overhead (reading, writing, a task run) from this on.
SECONDS_PER_SHARD = 5.0
# A machine that is busy while it is calibrated looks slow; a shard is this many full batches at the least.
BATCHES_PER_SHARD = 8
# Of a shard whose weights are read block by block, on a CPU and on a GPU: reading them then is a small share of the
# work, if a core multiplies at 0.3 TFLOP/s (a GPU at 300) and the disk gives 1 GB/s.
STREAMED_TOKENS = (2**14, 2**20)
# Of the free memory that such a shard's states and embeddings may take.
STREAMED_SHARE = 0.25
# Of the embeddings of a shard whose rows are words, of which a text has many: they are in memory until it is written.
WORD_BYTES = 2**29
# Of a set's tokens a calibration may compute as many in addition.
CALIBRATED_SHARE = 0.1

log = logging.getLogger(__name__)


def plan_embedding_set(
    layout: Layout,
    dataset: Dataset,
    model: ModelFolder,
    settings: Settings,
    cuts: Sequence[int] = (),
    begun: EmbeddingSet | None = None,
) -> EmbeddingSet:
    """The set's plan: read from its manifest, or made and written there before the first shard.

    Token budget and shards are found by a short calibration on this machine, once: every worker and every resume
    reads them from the manifest, so that the same rows meet in the same batches.

    cuts: rows before which a shard ends; the set is another one then. begun: a set of the same model and settings that
    begins with the same train rows, of which the last ends a shard; the new one has its token budget and its shards of
    them.
    """
    set_id = embedding_set_id(dataset, model, settings, cuts)
    with machine_lock(f"plan-{set_id}"), on_slot(settings.device) as device:
        if plan := kept_plan(layout, set_id, dataset.train_rows + dataset.test_rows):
            return plan
        if model.is_saved_states:
            planned = plan_states(set_id, dataset, model, settings)
            return _record_plan(layout, planned, dataset, model, settings)
        table = read_table(dataset.uri)
        loaded = load_for(model, settings, device)
        backbone = loaded.backbone
        has_final_norm = backbone.final_norm is not None
        # Before a plan is written that no shard could follow.
        check_layers(
            backbone.family, backbone.layers, has_final_norm, settings.norm_states, settings.max_layer
        )
        check_poolings(backbone.family, backbone.packed, settings.poolings)
        check_room(loaded.tokenizer, settings.max_length)
        if splits := settings.long_texts is LongTexts.SPLIT:
            check_joined(settings.poolings)
        tokens = tokens_of_rows(loaded.tokenizer, dataset, table, settings)
        check_tokens(backbone, tokens)
        computed, longer = tokens.computed, float(tokens.truncated.mean())
        check_known(tokens, loaded.tokenizer, model.id)
        if begun is None:
            texts = whole_texts(dataset, table)
            found = _calibrate_once(set_id, loaded, texts, settings, CALIBRATED_SHARE * int(computed.sum()))
            token_budget = settings.token_budget or found.token_budget
            least = max(int(found.tokens_per_second * SECONDS_PER_SHARD), token_budget * BATCHES_PER_SHARD)
            if backbone.read_block is not None:
                least = max(least, _streamed_tokens(backbone, tokens, settings))
            if tokens.words is not None:
                least = max(min(least, int(WORD_BYTES / _bytes_a_token(backbone, tokens, settings))), 1)
        else:
            token_budget, least = begun.token_budget, max(shard.tokens for shard in begun.shards)
            cuts = [shard.stop for shard in begun.shards if shard.stop <= dataset.train_rows]
        planned = EmbeddingSet(
            id=set_id,
            token_budget=token_budget,
            rows=table.height,
            tokens=int(computed.sum()),
            truncated_share=0.0 if splits else longer,
            split_share=longer if splits else 0.0,
            split_tokens=int(computed.sum() - tokens.counts.sum()),
            last_is_normed=loaded.backbone.last_is_normed
            and settings.max_layer in (None, loaded.backbone.layers),
            shards=tuple(_in_rows(plan_shards(tokens.row_counts, least, cuts), tokens)),
        )
        return _record_plan(layout, planned, dataset, model, settings)


def settle_plan(
    layout: Layout,
    dataset: Dataset,
    model: ModelFolder,
    asked: Settings,
    cuts: Sequence[int] = (),
    begun: EmbeddingSet | None = None,
) -> tuple[Settings, EmbeddingSet]:
    """The plan in the dtype that was asked for; `auto` falls back to float32, with a warning, where a model needs it.

    cuts and begun: as of `plan_embedding_set`.

    Raises:
        NarrowDtypeError: a dtype was named, and the model cannot be trusted in it.
    """
    settings = resolve_settings(asked, model)
    try:
        return settings, plan_embedding_set(layout, dataset, model, settings, cuts, begun)
    except NarrowDtypeError as error:
        if asked.dtype != "auto":
            raise
        log.warning("%s This is done now, as --dtype auto may.", error)
    settings = replace(settings, dtype="float32")
    return settings, plan_embedding_set(layout, dataset, model, settings, cuts, begun)


def _in_rows(shards: Sequence[Shard], tokens: Tokens) -> list[Shard]:
    """Shards of texts as shards of their words, where these are the rows."""
    if tokens.words is None:
        return list(shards)
    first = tokens.starts.tolist()
    return [replace(shard, start=first[shard.start], stop=first[shard.stop]) for shard in shards]


def _streamed_tokens(backbone: Backbone, tokens: Tokens, settings: Settings) -> int:
    """Tokens of a shard for which all weights are read: many, as far as states and embeddings leave memory free."""
    a_token = backbone.dtype.itemsize * backbone.hidden_size + _bytes_a_token(backbone, tokens, settings)
    room = STREAMED_SHARE * psutil.virtual_memory().available
    return min(STREAMED_TOKENS[backbone.device.type != "cpu"], int(room / a_token))


def _bytes_a_token(backbone: Backbone, tokens: Tokens, settings: Settings) -> float:
    """Of the embeddings of all rows, a token's share."""
    keys = len(settings.poolings) * len(settings.norm_states)
    each = 4 * backbone.hidden_size * (backbone.layers + 1) * keys
    if tokens.texts_a_row > 1:
        each *= 1 + PARTS // tokens.texts_a_row  # the row's features beside the states
    return each * int(tokens.starts[-1]) / max(int(tokens.counts.sum()), 1)


def _calibrate_once(
    set_id: str, loaded: LoadedModel, texts: list[str], settings: Settings, most_tokens: float
) -> Calibration:
    """One calibration a machine and set: another storage folder on this machine gets the same batches and bytes.

    Where it would take too much of the work itself, the smallest budget is taken and no speed is known.
    """
    if known := kept_calibration(set_id):
        return known
    if loaded.backbone.read_block is not None:
        # Its weights would be read once more for every budget that is tried.
        return Calibration(budgets_of(loaded.backbone.device)[0], 0.0)
    with device_lock(*loaded.backbone.devices):
        found = calibrate(loaded.backbone, loaded.tokenizer, texts, settings.max_length, most_tokens)
    if found is None:
        return Calibration(budgets_of(loaded.backbone.device)[0], 0.0)
    write_manifest(str(calibration_file(set_id)), asdict(found))
    return found


def _record_plan(
    layout: Layout, planned: EmbeddingSet, dataset: Dataset, model: ModelFolder, settings: Settings
) -> EmbeddingSet:
    made_of = {"dataset": asdict(dataset), "model": asdict(model), "settings": asdict(settings)}
    write_manifest(layout.manifest(planned.id), made_of | {"plan": asdict(planned)})
    return planned


@task(name="plan-embedding-set", timeout_seconds=LONG_S, **RETRIED)
def plan_embedding_set_task(
    layout: Layout,
    dataset: Dataset,
    model: ModelFolder,
    asked: Settings,
    cuts: Sequence[int] = (),
    begun: EmbeddingSet | None = None,
) -> tuple[Settings, EmbeddingSet]:
    """Settle device and dtype where the work will run; calibrate and cut the rows, or read an earlier run's plan."""
    settings, planned = settle_plan(layout, dataset, model, asked, cuts, begun)
    get_run_logger().info(
        "Embedding set %s: %s rows, %s tokens, %s shards, token budget %s, %.1f %% of texts %s",
        planned.id,
        f"{planned.rows:,}",
        f"{planned.tokens:,}",
        len(planned.shards),
        f"{planned.token_budget:,}",
        100 * (planned.truncated_share + planned.split_share),
        "split" if settings.long_texts is LongTexts.SPLIT else "truncated",
    )
    return settings, planned
