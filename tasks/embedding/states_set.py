"""An embedding set of states that somebody saved: the same shards as a model's, with nothing computed."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.data.dataset import Dataset, read_places
from tasks.embedding.embed import EmbeddedTexts, check_layers
from tasks.embedding.model import SAVED_STATES, ModelFolder, folder_here
from tasks.embedding.saved_states import open_states
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.settings import Settings
from tasks.embedding.shards import Shard, plan_shards

BYTES_PER_SHARD = 64 << 20
"""Of all layers in float32: what reading one of them holds in memory, beside what lies between its rows."""


def plan_states(set_id: str, dataset: Dataset, model: ModelFolder, settings: Settings) -> EmbeddingSet:
    """The plan of a set of saved states, after a look at whether they are those of the data set's rows.

    Raises:
        UserError: they are not, or have not the layers that were asked for.
    """
    check_layers(SAVED_STATES, model.layers, False, settings.norm_states, settings.max_layer)
    with open_states(Path(folder_here(model)), model.id) as states:
        states.rows_of(read_places(dataset), dataset.source_rows)
    rows, layers = dataset.train_rows + dataset.test_rows, _layers(model, settings)
    each = max(BYTES_PER_SHARD // (4 * layers * model.hidden_size), 1)
    return EmbeddingSet(
        id=set_id,
        token_budget=1,
        rows=rows,
        tokens=0,
        truncated_share=0.0,
        last_is_normed=states.last_is_normed and settings.max_layer in (None, model.layers),
        # No token is read.
        shards=tuple(replace(shard, tokens=0) for shard in plan_shards(np.ones(rows, np.int32), each)),
    )


def check_states(model: ModelFolder, places: NDArray[np.int64], source_rows: int) -> None:
    """Raises `UserError` where the states are not of the data set's rows at `places`. source_rows: before sampling."""
    with open_states(Path(folder_here(model)), model.id) as states:
        states.rows_of(places, source_rows)


def take_states(dataset: Dataset, shard: Shard, model: ModelFolder, settings: Settings) -> EmbeddedTexts:
    """The states of one shard's rows, as a model's embeddings would be.

    Raises:
        UserError: the files are not those that the sweep began with, or a value is not finite.
    """
    started = time.perf_counter()
    with open_states(Path(folder_here(model)), model.id) as states:
        rows = states.rows_of(read_places(dataset, shard.start, shard.stop), dataset.source_rows)
        taken = states.take(rows, _layers(model, settings))
    (pooling,), (norm_state,) = settings.poolings, settings.norm_states
    none = np.zeros(len(rows), np.int32)
    return EmbeddedTexts({(norm_state, pooling): taken}, none, none > 0, time.perf_counter() - started)


def _layers(model: ModelFolder, settings: Settings) -> int:
    return 1 + (model.layers if settings.max_layer is None else settings.max_layer)
