"""A finished run as an export needs it: its tables, the inputs that it recorded, and the very model that it saw."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.errors import UserError
from storage.files import exists
from storage.find_run import find_run
from storage.layout import Layout
from storage.manifest import read_manifest
from storage.results import query
from storage.sources.grammar import parse_source
from tasks.data.dataset import Dataset, read_table
from tasks.embedding.embedding_set import Settings, resolve_settings
from tasks.embedding.model import ModelFolder, resolve_model
from tasks.reporting.run_record import collect
from tasks.vocabulary import NormState, Pooling


@dataclass(frozen=True)
class RecordedRun:
    """A finished run, and the inputs that it recorded."""

    layout: Layout
    row: Mapping[str, Any]
    """Of the table `run`."""
    tables: Mapping[str, pl.DataFrame]
    dataset: Dataset
    model: ModelFolder
    settings: Settings
    shards: tuple[str, ...]
    """URIs of its embeddings, which may have been deleted since."""
    seed: int

    @property
    def answer(self) -> Mapping[str, Any]:
        """The row of `layer_choice` that is the run's answer."""
        return self.tables["layer_choice"].filter("is_answer").row(0, named=True)


@dataclass(frozen=True)
class Cut:
    """Where the model of a run is cut, and what becomes an embedding there."""

    layer: int
    pooling: Pooling
    chosen_as: NormState
    """The norm state that the run audited."""
    norm_state: NormState
    """The norm state that a model puts out which ends there."""


def find_recorded_run(layout: Layout, run_id: str) -> RecordedRun:
    """The run of this id, or of the first digits of it.

    Raises:
        UserError: there is no such run, or more than one, or its model has changed since.
    """
    known = find_run(layout.results, run_id)
    row = query(layout.results, f"SELECT * FROM run WHERE run_id = '{known}'").row(0, named=True)
    manifest = read_manifest(layout.manifest(row["embedding_set_id"]))
    recorded = manifest["dataset"]
    # The storage may have moved since; its own layout knows where the table is now.
    dataset = Dataset(
        **recorded | {"uri": layout.dataset(recorded["fingerprint"]), "classes": tuple(recorded["classes"])}
    )
    asked = manifest["settings"]
    settings = resolve_settings(
        Settings(
            **asked
            | {
                "poolings": tuple(Pooling(each) for each in asked["poolings"]),
                "norm_states": tuple(NormState(each) for each in asked["norm_states"]),
                "device": "auto" if asked["device"].startswith("cuda") else asked["device"],
            }
        )
    )
    shards = tuple(
        layout.shard(row["embedding_set_id"], shard["index"]) for shard in manifest["plan"]["shards"]
    )
    return RecordedRun(
        layout=layout,
        row=row,
        tables=collect(layout, row["run_id"]),
        dataset=dataset,
        model=_same_model(row, settings.trust_remote_code),
        settings=settings,
        shards=shards,
        seed=json.loads(row["parameters"])["seed"],
    )


def check_layer(run: RecordedRun, layer: int) -> None:
    """Raises UserError for a layer that the run has not scored."""
    last = run.model.layers if run.settings.max_layer is None else run.settings.max_layer
    if not 0 <= layer <= last:
        raise UserError(
            f"The run has scored layers 0 to {last}; it knows nothing of layer {layer} (--layer)."
        )


def keeps_embeddings(run: RecordedRun, norm_state: NormState) -> bool:
    """Whether the run's own embeddings are in this norm state, and are all there still."""
    return norm_state in run.settings.norm_states and all(exists(uri) for uri in run.shards)


def probe_row(run: RecordedRun, cut: Cut) -> Mapping[str, Any]:
    """The row of `probe` that audited the layer of the cut."""
    return (
        run.tables["probe"]
        .filter(pooling=cut.pooling.value, norm_state=cut.chosen_as.value, layer=cut.layer)
        .row(0, named=True)
    )


def texts_of_test(run: RecordedRun, rows: NDArray[np.integer]) -> list[str]:
    """The texts of these rows, counted from the first test row."""
    train, test = run.dataset.train_rows, run.dataset.test_rows
    texts = read_table(run.dataset.uri, range(train, train + test))["text"]
    return texts.gather(rows).to_list()


def _same_model(row: Mapping[str, Any], trust_remote_code: bool) -> ModelFolder:
    """The run's model, of the very revision that it saw."""
    spec = parse_source(row["model_id"]).pinned(row["model_revision"])
    model = resolve_model(spec, trust_remote_code=trust_remote_code)
    if model.revision != row["model_revision"]:
        raise UserError(
            f"{row['model_id']} is not what the run saw: its files have changed since (revision "
            f"{model.revision[:12]} against {row['model_revision'][:12]}). Sweep again, and export that run."
        )
    return model
