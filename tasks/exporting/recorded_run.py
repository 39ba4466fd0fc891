"""A finished run as an export needs it: its tables, the inputs that it recorded, and the very model that it saw."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from storage.errors import UserError
from storage.files import exists
from storage.find_run import find_run
from storage.layout import Layout
from storage.manifest import DamagedManifestError, read_manifest
from storage.results import query
from storage.sources.grammar import parse_source
from storage.sources.states import are_saved_states
from storage.staged import DamagedPartError
from tasks.data.dataset import Dataset
from tasks.data.stored_table import fingerprint_table, stored_table
from tasks.data.tagged_words import WORD_KEYS, fingerprint_lists
from tasks.embedding.embedding_set import finished_shard
from tasks.embedding.model import ModelFolder, brings_code, resolve_model
from tasks.embedding.set_records import EmbeddingSet, kept_plan
from tasks.embedding.settings import Settings, resolve_settings
from tasks.embedding.text_pairs import texts_of
from tasks.embedding.words import read_texts
from tasks.exporting.states import Cut, LayerState
from tasks.reporting.layer_curves import Tables
from tasks.reporting.run_record import collect
from tasks.vocabulary import NormState, Pooling

_DATASET = TypeAdapter(Dataset)
_SETTINGS = TypeAdapter(Settings)


@dataclass(frozen=True)
class RecordedRun:
    """A finished run, and the inputs that it recorded."""

    layout: Layout
    row: Mapping[str, Any]
    """Of the table `run`."""
    tables: Mapping[str, pl.DataFrame]
    dataset: Dataset
    rows: pl.DataFrame
    """The data set's table (`read_table`), which is what the run saw."""
    model: ModelFolder
    settings: Settings
    planned: EmbeddingSet
    """Of its embeddings, which may have been deleted since."""
    seed: int

    @property
    def of_pairs(self) -> bool:
        """Rows have two texts, and features of both are what was scored."""
        return self.dataset.text_pairs == "features"

    @property
    def of_words(self) -> bool:
        """Rows are words, each with a tag."""
        return self.dataset.words is not None

    @property
    def answer(self) -> Mapping[str, Any]:
        """The row of `layer_choice` that is the run's answer."""
        return self.tables["layer_choice"].filter("is_answer").row(0, named=True)


def find_recorded_run(layout: Layout, run_id: str, *, trust_remote_code: bool = False) -> RecordedRun:
    """The run of this id, or of the first digits of it.

    trust_remote_code: run the Python code that the model brings, where the run did.

    Raises:
        UserError: there is no such run, or more than one, its model has changed since or its code is not trusted, or
            what the run left is damaged.
    """
    known = find_run(layout.results, run_id)
    row = query(layout.results, f"SELECT * FROM run WHERE run_id = '{known}'").row(0, named=True)
    if are_saved_states(row["model_id"]):
        raise UserError(
            f"Run {known} is of {row['model_id']}: nothing here has the model that these states were taken from, so it "
            "cannot be exported or embed other texts. Take the layer from that model where you took the states."
        )
    set_id = row["embedding_set_id"]
    dataset, asked = _recorded_inputs(layout, set_id)
    planned = kept_plan(layout, set_id, dataset.train_rows + dataset.test_rows)
    rows = stored_table(dataset.uri)
    if (
        rows is None
        or fingerprint_table(rows, dataset.classes, dataset.target_names) != row["dataset_fingerprint"]
    ):
        raise UserError(_damaged(f"The run's texts ({dataset.uri})"))
    if dataset.words is not None:
        lists = stored_table(dataset.words)
        if lists is None or layout.words(fingerprint_lists(lists)) != dataset.words:
            raise UserError(_damaged(f"The words of the run's texts ({dataset.words})"))
    if planned is None:
        raise UserError(_damaged(f"The plan of its embeddings ({layout.manifest(set_id)})"))
    model = _same_model(row, asked.trust_remote_code, trust_remote_code)
    settings = resolve_settings(
        replace(
            asked,
            device="auto" if asked.device.startswith("cuda") else asked.device,
            trust_remote_code=model.runs_own_code,
        )
    )
    return RecordedRun(
        layout=layout,
        row=row,
        tables=_tables(layout, known),
        dataset=dataset,
        rows=rows,
        model=model,
        settings=settings,
        planned=planned,
        seed=json.loads(row["parameters"])["seed"],
    )


def cut_of(run: RecordedRun, layer: int | None = None, *, together: bool = False) -> Cut:
    """What is exported: the answer's layer, another one in its place, or the layers that stand side by side with it.

    Raises:
        UserError: the run has not scored the layer, or found none worth standing beside the chosen one.
    """
    answer = run.answer
    pooling, norm_state = Pooling(answer["pooling"]), NormState(answer["norm_state"])
    if together:
        if layer is not None:
            raise UserError(
                "The layers side by side are the run's own (--together): no other is named (--layer)."
            )
        row = side_by_side(run)
        parts = zip(row["layers"], row["poolings"], row["norm_states"], strict=True)
        return Cut(tuple(LayerState(of, Pooling(how), NormState(state)) for of, how, state in parts))
    last = run.model.layers if run.settings.max_layer is None else run.settings.max_layer
    if layer is not None and not 0 <= layer <= last:
        raise UserError(
            f"The run has scored layers 0 to {last}; it knows nothing of layer {layer} (--layer)."
        )
    return Cut((LayerState(answer["layer"] if layer is None else layer, pooling, norm_state),))


def side_by_side(run: RecordedRun) -> Mapping[str, Any]:
    """The row of `representation` that is the run's answer.

    Raises:
        UserError: that is one layer alone, or the run never asked.
    """
    found = found_side_by_side(run)
    if found.is_empty():
        raise UserError(
            f"Run {run.row['run_id']} found no layer that is worth standing beside layer {run.answer['layer']} "
            "(--together). Without the flag that layer is exported."
        )
    return found.row(0, named=True)


def found_side_by_side(run: RecordedRun) -> pl.DataFrame:
    """The row of `representation` that is the run's answer, and none where that is one layer alone."""
    return run.tables["representation"].filter(pl.col("is_answer") & (pl.col("size") > 1))


def keeps_embeddings(run: RecordedRun) -> bool:
    """Whether the run's own embeddings are all there still.

    Raises:
        UserError: one is there and is damaged.
    """
    uris = [run.layout.shard(run.planned.id, shard.index) for shard in run.planned.shards]
    if not all(exists(uri) for uri in uris):
        return False
    for shard, uri in zip(run.planned.shards, uris, strict=True):
        rows = run.rows[shard.start : shard.stop]
        if finished_shard(run.layout, run.planned, shard, rows) is None:
            raise UserError(_damaged(f"The shard {uri} of the run's embeddings"))
    return True


def probe_row(run: RecordedRun, cut: Cut) -> Mapping[str, Any]:
    """The row of `probe` that audited the first layer of the cut."""
    first = cut.states[0]
    return (
        run.tables["probe"]
        .filter(pooling=first.pooling.value, norm_state=first.norm_state.value, layer=first.layer)
        .row(0, named=True)
    )


def audited_accuracy(run: RecordedRun, cut: Cut) -> float:
    """Of the cut's layers on the test rows, as the run found it, 0–1."""
    row = probe_row(run, cut) if len(cut.states) == 1 else side_by_side(run)
    return float(row["accuracy"])


@dataclass(frozen=True)
class DrawnTexts:
    """Some test rows with their texts, drawn by the run's seed."""

    rows: NDArray[np.integer]
    """int [C], counted from the first test row, increasing."""
    texts: list[Any]
    """Of each row its text, of text pairs the two of each in turn; or the lists of words that the rows are of."""
    own: NDArray[np.bool_]
    """Of all that is embedded of these texts what is of one of the rows: [C], or of words [W], cut ones among them."""


def draw_test_texts(run: RecordedRun, count: int) -> DrawnTexts:
    """About so many test rows, or all where there are fewer; of words those of whole texts."""
    draw = np.random.default_rng(run.seed)
    test = run.rows[run.dataset.train_rows :]
    if not run.of_words:
        rows = np.sort(draw.permutation(test.height)[:count])
        return DrawnTexts(rows, texts_of(test[rows]), np.ones(len(rows), dtype=bool))
    of_row, at = (test[key].to_numpy() for key in WORD_KEYS)
    drawn = draw.permutation(np.unique(of_row))
    sizes = np.bincount(of_row)[drawn]
    numbers = np.sort(drawn[: int((np.cumsum(sizes) < count).sum()) + 1])
    rows = np.flatnonzero(np.isin(of_row, numbers))
    texts = [read_texts(run.dataset, number, number + 1)[0] for number in numbers.tolist()]
    starts = np.cumsum([0, *map(len, texts)])
    own = np.zeros(int(starts[-1]), dtype=bool)
    own[starts[np.searchsorted(numbers, of_row[rows])] + at[rows]] = True
    return DrawnTexts(rows, texts, own)


def _recorded_inputs(layout: Layout, set_id: str) -> tuple[Dataset, Settings]:
    """The data set and the settings of an embedding set."""
    uri = layout.manifest(set_id)
    try:
        manifest = read_manifest(uri)
        dataset = _DATASET.validate_python(manifest["dataset"])
        settings = _SETTINGS.validate_python(manifest["settings"])
    except (FileNotFoundError, DamagedManifestError, KeyError, ValidationError) as error:
        raise UserError(_damaged(f"What the run recorded of its embeddings ({uri})")) from error
    # The storage may have moved since; its own layout knows where the tables are now.
    words = dataset.words and layout.here(dataset.words)
    return replace(dataset, uri=layout.dataset(dataset.fingerprint), words=words), settings


def _tables(layout: Layout, run_id: str) -> Tables:
    try:
        return collect(layout, run_id)
    except (FileNotFoundError, DamagedPartError) as error:
        raise UserError(_damaged(f"A part of the run's staged rows ({error})")) from error


def _damaged(what: str) -> str:
    return (
        f"{what} is missing or damaged, and nothing is exported from it. Give the sweep's command again, which "
        "computes anew what does not hold, and export then."
    )


def _same_model(row: Mapping[str, Any], was_trusted: bool, is_trusted: bool) -> ModelFolder:
    """The run's model, of the very revision that it saw, with its own code where the run ran it."""
    spec = parse_source(row["model_id"]).pinned(row["model_revision"])
    model = resolve_model(spec, trust_remote_code=was_trusted and is_trusted)
    if was_trusted and not is_trusted and brings_code(Path(model.folder)):
        raise UserError(
            f"The run's embeddings were made by Python code that {row['model_id']} brings, and an export runs it "
            "again. If you trust it, add --trust-remote-code."
        )
    if model.revision != row["model_revision"]:
        raise UserError(
            f"{row['model_id']} is not what the run saw: its files have changed since (revision "
            f"{model.revision[:12]} against {row['model_revision'][:12]}). Sweep again, and export that run."
        )
    return model
