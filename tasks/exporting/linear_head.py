"""The linear head of an exported model: fitted to what the cut puts out, audited again, written without pickle."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import save_file

from storage.embeddings import Layer, read_layer
from storage.errors import UserError
from storage.layout import Layout
from storage.staged import DamagedPartError, read_staged
from tasks.choosing.comparison import compare
from tasks.embedding.embedding_set import (
    Settings,
    delete_embeddings,
    embed_shard,
    plan_embedding_set,
)
from tasks.embedding.set_records import EmbeddingSet
from tasks.exporting import predict_script
from tasks.exporting.recorded_run import Cut, RecordedRun, probe_row
from tasks.reporting.answer import p_value, percent, points
from tasks.scoring.probe import Probe, fit_probe
from tasks.vocabulary import ProbeProtocol

# Of the test rows that another device's rounding may give another label; damage gives more.
MOST_OTHER = 0.05


def kept_features(run: RecordedRun, cut: Cut) -> Layer:
    """The layer's embeddings of every row, as the run left them."""
    return _read(tuple(run.layout.shard(run.planned.id, shard.index) for shard in run.planned.shards), cut)


def plan_features(run: RecordedRun, cut: Cut) -> EmbeddingSet:
    """The shards of `fresh_features`."""
    return plan_embedding_set(run.layout, run.dataset, run.model, _settings(run, cut))


def fresh_features(
    run: RecordedRun, cut: Cut, planned: EmbeddingSet, advance: Callable[[int], None]
) -> Layer:
    """The layer's embeddings of every row, made now and deleted again. advance: told the rows of each shard."""
    outcomes = []
    for shard in planned.shards:
        outcomes.append(embed_shard(run.layout, planned, shard, run.dataset, run.model, _settings(run, cut)))
        advance(shard.stop - shard.start)
    features = _read(tuple(outcome.uri for outcome in outcomes), cut)
    # Read before they are deleted: on a disk, arrays may still be views of the files.
    features = replace(features, embeddings=features.embeddings.copy())
    delete_embeddings(outcomes)
    return features


def fit_head(run: RecordedRun, cut: Cut, features: Layer) -> Probe:
    """The probe of the sweep, fitted as the run fitted its own, on its train and test rows."""
    train = features.row_id < run.dataset.train_rows
    return fit_probe(
        features.embeddings[train],
        features.label[train],
        features.embeddings[~train],
        features.label[~train],
        protocol=ProbeProtocol(probe_row(run, cut)["protocol"]),
        seed=run.seed,
    )


def audit_again(run: RecordedRun, cut: Cut, head: Probe) -> tuple[float, float, float, float]:
    """The head's accuracy less the audited one on the same test rows, its 95 % interval and p."""
    label, predicted = _audited(run, cut)
    found = compare(head.predictions == label, predicted == label, seed=run.seed)
    return found.difference, found.low, found.high, found.p_value


def refuse_another(run: RecordedRun, cut: Cut, head: Probe) -> None:
    """Raises UserError where the head is not the probe that was audited, although it was fitted to the same layer."""
    _, predicted = _audited(run, cut)
    other = float((head.predictions != predicted).mean())
    if cut.norm_state == cut.chosen_as and other > MOST_OTHER:
        raise UserError(
            f"The head does not agree with the run's audit: it gives {percent(other)} of the test texts another label "
            f"({percent(head.accuracy)} are right, {percent(probe_row(run, cut)['accuracy'])} were). Embeddings or "
            "staged rows of the run are not what it saw. Give the sweep's command again in a new --storage, and export "
            "that run. Nothing was written."
        )


def refuse_worse(cut: Cut, accuracy: float, difference: tuple[float, float, float, float]) -> None:
    """Raises UserError if the layer is significantly worse as it is exported than as it was chosen.

    difference: what `audit_again` found; accuracy: of the head, 0–1.
    """
    change, low, high, p = difference
    if high < 0:
        raise UserError(
            f"Layer {cut.layer} was chosen as {cut.chosen_as.value}, but a model that ends there puts its states "
            f"through its final norm, and behind it the layer is worse: {percent(accuracy)} of test texts, "
            f"{points(change)} points (95 % interval {points(low)} to {points(high)}, {p_value(p)}). Sweep again with "
            f"--norm-state {cut.norm_state.value}, which finds the layer that is best behind the norm, or export this "
            f"one all the same with --layer {cut.layer}."
        )


def write_head(folder: Path, run: RecordedRun, cut: Cut, head: Probe) -> None:
    """Write `head/weights.safetensors`, `head/head.json` and `predict.py` into the folder of a model.

    The logits of an embedding x are coefficients · (x − mean) / scale + intercepts; the weights are float64, the
    coefficients [K, D]. `head.json` names the K classes in the order of the rows; of what else stands there,
    `predict.py` reads `pooling`, `max_length` and `runs_own_code`.
    """
    place = folder / "head"
    place.mkdir()
    weights = {
        "coefficients": head.coefficients,
        "intercepts": head.intercepts,
        "mean": head.mean,
        "scale": head.scale,
    }
    save_file(
        {name: np.ascontiguousarray(values, np.float64) for name, values in weights.items()},
        place / "weights.safetensors",
    )
    described = {
        "pooling": cut.pooling.value,
        "norm_state": cut.norm_state.value,
        "layer": cut.layer,
        "max_length": run.settings.max_length,
        "classes": [run.dataset.classes[label] for label in head.classes.tolist()],
        "penalty": head.penalty,
        "iterations": head.iterations,
        "train_rows": head.n_train,
        "test_rows": head.n_test,
        "test_accuracy": head.accuracy,
        "runs_own_code": run.model.runs_own_code,
    }
    (place / "head.json").write_text(
        json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    shutil.copyfile(predict_script.__file__, folder / "predict.py")


def _audited(run: RecordedRun, cut: Cut) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Label and prediction of every test row, as the run staged them."""
    part = Layout.part(cut.pooling, cut.chosen_as, cut.layer)
    rows = run.rows[run.dataset.train_rows :]
    try:
        audited = read_staged(run.layout, run.row["run_id"], "prediction", part).sort("row_id")
        right = float((audited["label"] == audited["predicted"]).to_numpy().mean())
        same_rows = audited.select("row_id", "label").equals(rows.select("row_id", "label"))
        whole = same_rows and np.isclose(right, probe_row(run, cut)["accuracy"])
    except (FileNotFoundError, DamagedPartError, pl.exceptions.PolarsError):
        whole = False
    if not whole:
        raise UserError(
            f"The predictions that the run staged for layer {cut.layer} are missing or damaged, so nothing can be held "
            "against its audit. Give the sweep's command again in a new --storage, and export that run."
        )
    return audited["label"].to_numpy(), audited["predicted"].to_numpy()


def _settings(run: RecordedRun, cut: Cut) -> Settings:
    return replace(run.settings, poolings=(cut.pooling,), norm_states=(cut.norm_state,), max_layer=cut.layer)


def _read(shards: tuple[str, ...], cut: Cut) -> Layer:
    return read_layer(shards, layer=cut.layer, norm_state=cut.norm_state.value, pooling=cut.pooling.value)
