"""What a model's attention looks like, block by block, on a sample of the train texts: staged rows of `attention`.

Besides the shards and not inside them: a forward pass of its own over few texts leaves embeddings, their ids and their
batches as they are, and comes as well to a set that was embedded long ago.
"""

import math
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from prefect import get_run_logger, task
from torch import Tensor

from storage.layout import Layout
from storage.staged import is_staged, rows_of, stage
from tasks.data.dataset import Dataset
from tasks.data.stored_table import read_table
from tasks.embedding.attention_measures import MEASURES, measure_texts
from tasks.embedding.calibration import budgets_of
from tasks.embedding.embed import plan_batches, workers_of
from tasks.embedding.forward import Backbone, capturing, forward_layers
from tasks.embedding.loading import load_for
from tasks.embedding.model import ModelFolder
from tasks.embedding.packed_attention import LengthGroup, Sight, length_groups
from tasks.embedding.settings import Settings
from tasks.embedding.text_pairs import texts_of
from tasks.embedding.tokens import Tokens, tokenise
from tasks.machine import device_lock, on_slot
from tasks.numerics.cores import own_threads
from tasks.retries import LONG_S, RETRIED

TABLE = "attention"
MOST_TEXTS = 200
"""Texts that are looked at if nobody says how many, …"""
ONE_IN = 60
"""… and no more than one in so many of the rows, so that they add little to any sweep (docs/performance.md)."""
# A standard error needs two.
LEAST_TEXTS = 2
# Closed classes of English words: articles, pronouns, prepositions, conjunctions, auxiliaries.
_ENGLISH = """
a an the this that these those i you he she it we they me him her us them my your his its our their mine yours who
whom whose which what and or but nor so yet if because although though while when where as than of in on at by for
with from to into onto about over under after before between through during without within against upon up down out
off am is are was were be been being have has had having do does did will would shall should can could may might
must not no n't 's 're 've 'll 'd 'm there here then too very just also
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())


def attention_texts(asked: int | None, dataset: Dataset, model: ModelFolder) -> int:
    """How many train texts are looked at; 0 where there is none to look at, or too few for a standard error.

    asked: 0 for none; None: MOST_TEXTS, and no more than one in ONE_IN of the rows.
    """
    rows = dataset.train_rows + dataset.test_rows
    wanted = min(MOST_TEXTS, rows // ONE_IN) if asked is None else asked
    texts = min(wanted, dataset.train_rows)
    return 0 if texts < LEAST_TEXTS or model.is_saved_states or dataset.words is not None else texts


def is_measured(layout: Layout, run_id: str) -> bool:
    """Whether the run's rows of `attention` are staged, be they none."""
    return is_staged(layout, run_id, TABLE, TABLE)


def measure_attention(
    layout: Layout,
    run_id: str,
    dataset: Dataset,
    model: ModelFolder,
    settings: Settings,
    token_budget: int,
    texts: int,
    seed: int,
) -> str | None:
    """Stage `attention`: a row a block and measure, of so many train texts, drawn without their labels.

    No row, and the reason as what is returned, where the model's attention is not computed by us: nothing is said
    then rather than something wrong.
    """
    found, why_not = [], "saved states were made without us" if model.is_saved_states else None
    if dataset.words is not None:
        why_not = "rows are words, and attention is measured over whole texts"
    if texts:
        with on_slot(settings.device) as device:
            loaded = load_for(model, settings, device)
            why_not = _why_not(loaded.backbone)
            if why_not is None:
                own = texts_of(read_table(dataset.uri, range(dataset.train_rows)))
                drawn = np.sort(np.random.default_rng(seed).choice(len(own), texts, replace=False))
                tokens = tokenise(loaded.tokenizer, [own[each] for each in drawn], settings.max_length)
                marks = marked_tokens(loaded.tokenizer, tokens)
                budget = min(token_budget, budgets_of(loaded.backbone.device)[0])
                with device_lock(*loaded.backbone.devices):
                    values = look_at(loaded.backbone, tokens, marks, budget, settings.max_layer)
                found = _rows(values)
    stage(layout, run_id, TABLE, TABLE, rows_of(TABLE, pl.DataFrame({"run_id": [run_id]}), found))
    return why_not


def _why_not(backbone: Backbone) -> str | None:
    if not backbone.packed:
        return f"the attention of this {backbone.family!r} model is not computed by layerscout"
    if backbone.read_block is not None:
        return "its blocks are read from disk one after the other"
    return None


def look_at(
    backbone: Backbone,
    tokens: Tokens,
    marks: Sequence[NDArray[np.bool_]],
    token_budget: int,
    max_layer: int | None = None,
) -> NDArray[np.float64]:
    """Every measure of N texts in every block: [blocks, measures, N], in the order of MEASURES.

    Block l, counted from 0, reads layer l and makes layer l + 1. NaN for a text of one token. marks: bool [length] of
    each text. The numbers do not depend on what else is in a batch.
    """
    batches = plan_batches(tokens.counts, token_budget, True)
    blocks = backbone.layers if max_layer is None else max_layer
    values = np.full((blocks, len(MEASURES), len(tokens.ids)), np.nan)
    threads, workers = torch.get_num_threads(), workers_of(backbone)
    # As `pooled_batches` does: each thread has a batch of its own.
    own = threads // workers
    torch.set_num_threads(own)
    try:
        with (
            ThreadPoolExecutor(workers, initializer=own_threads, initargs=(own,)) as executor,
            capturing(backbone),
        ):
            one = partial(_look_at_batch, backbone, tokens, marks, blocks)
            for members, found in zip(batches, executor.map(one, batches), strict=True):
                values[:, :, members] = found
    finally:
        torch.set_num_threads(threads)
    return values


def _look_at_batch(
    backbone: Backbone,
    tokens: Tokens,
    marks: Sequence[NDArray[np.bool_]],
    blocks: int,
    members: NDArray[np.int64],
) -> NDArray[np.float64]:
    groups = length_groups([int(tokens.counts[row]) for row in members])
    first_of = dict(zip(groups, np.cumsum([0, *(group.texts for group in groups)]), strict=False))
    packed = np.concatenate([tokens.ids[row] for row in members]).astype(np.int64)
    marked = torch.from_numpy(np.concatenate([marks[row] for row in members])).to(backbone.device)
    values = np.full((blocks, len(MEASURES), len(members)), np.nan)

    def look(layer: int, group: LengthGroup, q: Tensor, k: Tensor, sight: Sight) -> None:
        own = marked[group.start : group.stop].view(group.texts, group.length).to(q.device)
        first = first_of[group]
        values[layer, :, first : first + group.texts] = measure_texts(q, k, sight, own).cpu().numpy()

    ids = torch.from_numpy(packed).to(backbone.device)
    forward_layers(backbone, ids, groups, lambda layer, states: None, blocks, look=look)
    return values


def marked_tokens(tokenizer: Any, tokens: Tokens) -> list[NDArray[np.bool_]]:
    """Which tokens of each text are punctuation or an English function word: bool [length] each.

    A token counts by what it says alone: the end of a longer word that is spelt like a function word does too, where
    the tokenizer does not mark it as an end. Special tokens do not.
    """
    special = set(tokenizer.all_special_ids)
    known = np.unique(np.concatenate(tokens.ids)).tolist()
    of_id = {each: each not in special and _carries_nothing(tokenizer.decode([each])) for each in known}
    return [np.array([of_id[each] for each in ids.tolist()], dtype=np.bool_) for ids in tokens.ids]


def _carries_nothing(said: str) -> bool:
    word = said.strip().lower()
    if word in FUNCTION_WORDS:
        return True
    # A token that is a part of a character decodes to a replacement, which Unicode counts among the symbols.
    return bool(word) and all(unicodedata.category(sign)[0] in "PS" and sign != "\ufffd" for sign in word)


def _rows(values: NDArray[np.float64]) -> list[dict[str, Any]]:
    """values: [blocks, measures, N]; texts of one token see nothing that they could choose among, and are left out."""
    found = []
    for layer, of_block in enumerate(values):
        for name, of_texts in zip(MEASURES, of_block, strict=True):
            told = of_texts[~np.isnan(of_texts)]
            if len(told) < LEAST_TEXTS:
                continue
            error = float(told.std(ddof=1)) / math.sqrt(len(told))
            found.append(
                {"layer": layer, "measure": name, "value": float(told.mean())}
                | {"standard_error": error, "texts": len(told)}
            )
    return found


@task(name="look-at-attention", task_run_name="look at attention", timeout_seconds=LONG_S, **RETRIED)
def measure_attention_task(
    layout: Layout,
    run_id: str,
    dataset: Dataset,
    model: ModelFolder,
    settings: Settings,
    token_budget: int,
    texts: int,
    seed: int,
) -> None:
    """What a sample of the train texts attends to in every block."""
    why_not = measure_attention(layout, run_id, dataset, model, settings, token_budget, texts, seed)
    if why_not is not None:
        get_run_logger().info("Nothing is told of attention: %s", why_not)
