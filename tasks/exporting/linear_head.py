"""The linear head of an exported model: fitted to what the cut puts out, audited again, written without pickle."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import save_file

from storage.embeddings import Layer, read_layer
from storage.errors import UserError
from storage.layout import Layout
from storage.staged import DamagedPartError, read_staged
from tasks.choosing.audit import Right
from tasks.data.stored_table import targets_of
from tasks.data.units import read_units
from tasks.embedding.embedding_set import delete_embeddings, embed_shard
from tasks.embedding.set_plan import plan_embedding_set
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.settings import Settings
from tasks.embedding.tokens import OVERLAP
from tasks.exporting import predict
from tasks.exporting.cut import SavedCut
from tasks.exporting.recorded_run import RecordedRun, audited_accuracy, probe_row
from tasks.exporting.reduction import Reduction
from tasks.exporting.states import Cut
from tasks.reporting.answer import percent
from tasks.scoring.features import Features
from tasks.scoring.probe import Probe, fit_probe_on
from tasks.scoring.target import Target, interval
from tasks.scoring.target_probe import TargetProbe, fit_target_probe
from tasks.vocabulary import LongTexts, ProbeProtocol

Head = Probe | TargetProbe

# Of the test rows that another device's rounding may give another label; damage gives more.
MOST_OTHER = 0.05


def kept_features(run: RecordedRun, cut: Cut) -> Layer:
    """The embeddings of every row, [N, S·D] of S layers, as the run left them."""
    return _read(tuple(run.layout.shard(run.planned.id, shard.index) for shard in run.planned.shards), cut)


def plan_features(run: RecordedRun, cut: Cut) -> EmbeddingSet:
    """The shards of `fresh_features`."""
    return plan_embedding_set(run.layout, run.dataset, run.model, _settings(run, cut))


def fresh_features(
    run: RecordedRun, cut: Cut, planned: EmbeddingSet, advance: Callable[[int], None]
) -> Layer:
    """The embeddings of every row, made now and deleted again. advance: told the rows of each shard."""
    outcomes = []
    for shard in planned.shards:
        outcomes.append(embed_shard(run.layout, planned, shard, run.dataset, run.model, _settings(run, cut)))
        advance(shard.stop - shard.start)
    features = _read(tuple(outcome.uri for outcome in outcomes), cut)
    # Read before they are deleted: on a disk, arrays may still be views of the files.
    features = replace(features, embeddings=features.embeddings.copy())
    delete_embeddings([outcome.uri for outcome in outcomes])
    return features


def reduced(features: Layer, reduction: Reduction) -> Layer:
    """The same rows with fewer dimensions."""
    return replace(features, embeddings=reduction.apply(features.embeddings))


def train_rows(run: RecordedRun, features: Layer) -> NDArray[np.float32]:
    """The features of the train rows alone."""
    return features.embeddings[features.row_id < run.dataset.train_rows]


def right_by(head: Head, run: RecordedRun, features: Layer) -> Right:
    """Whether a head gave each test row its label, or how right it told each; where rows depend on each
    other, of each group."""
    if isinstance(head, TargetProbe):
        right: Right = head.judged.right
    else:
        right = head.predictions == features.label[features.row_id >= run.dataset.train_rows]
    return read_units(run.dataset)[run.dataset.train_rows :].of(right)


def fit_head(run: RecordedRun, cut: Cut, features: Layer) -> Head:
    """The probe of the sweep, fitted as the run fitted its own, on its train and test rows."""
    train = features.row_id < run.dataset.train_rows
    task, units = run.dataset.task, read_units(run.dataset)[features.row_id]
    target = None if task.is_one_class else targets_of(run.rows)[features.row_id]
    of_train = Features(
        features.embeddings[train],
        features.label[train],
        target=None if target is None else Target(task, target[train]),
        groups=units[train].groups,
        weights=units[train].weights,
    )
    found: Head
    if target is not None:
        found = fit_target_probe(of_train, features.embeddings[~train], Target(task, target[~train]))
    else:
        found = fit_probe_on(
            of_train,
            features.embeddings[~train],
            features.label[~train],
            protocol=ProbeProtocol(probe_row(run, cut)["protocol"]),
            test_weights=units[~train].weights,
            seed=run.seed,
        )
    if units.are_rows:
        return found
    _, low, high = interval(np.asarray(right_by(found, run, features), dtype=np.float64))
    return replace(found, accuracy_low=low, accuracy_high=high)


def refuse_another(run: RecordedRun, cut: Cut, head: Head) -> None:
    """Raises UserError where the head is not the probe that was audited, although it was fitted to the same layers."""
    audited = audited_accuracy(run, cut)
    if isinstance(head, TargetProbe):
        other = abs(head.accuracy - audited)
    elif len(cut.states) == 1:
        other = float((head.predictions != _audited_predictions(run, cut)).mean())
    else:  # of layers side by side the run has staged how many are right
        other = abs(head.accuracy - audited)
    if other > MOST_OTHER:
        raise UserError(
            f"The head does not agree with the run's audit: it gives {percent(other)} of the test texts another label "
            f"({percent(head.accuracy)} are right, {percent(audited)} were). Embeddings or staged rows of the run are "
            "not what it saw. Give the sweep's command again in a new --storage, and export that run. Nothing was "
            "written."
        )


def write_head(
    folder: Path,
    run: RecordedRun,
    saved: SavedCut,
    head: Head,
    reduction: Reduction | None = None,
    *,
    causal: bool = False,
    spaced: bool | None = None,
) -> None:
    """Write `head/weights.safetensors`, `head/head.json` and `predict.py` into the folder of a model.

    The logits of an embedding x are coefficients · (x − mean) / scale + intercepts; the weights are float64, the
    coefficients [K, D]. `head.json` names the K classes in the order of the rows; of what else stands there,
    `predict.py` reads `states`, `final_norm`, `max_length`, `runs_own_code`; where x is the features of two texts,
    `text_pairs`; where it is of words, `words`, and whether each but the first is handed over with a space before it
    (`spaced`); and where the run split long texts, `windows`, whose seams lie where they do for a model that is
    `causal` or not. Where a text is told several labels or a number, the logits are values: of each label, told where
    above `threshold`, or the number. A reduction is what makes x of the pooled states: weight · states + bias, in
    `head/reduction.safetensors`.
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
    if reduction is not None:
        save_file(
            {"weight": np.ascontiguousarray(reduction.weight), "bias": reduction.bias},
            place / "reduction.safetensors",
        )
    described = {
        "states": [each.described() for each in saved.states],
        "final_norm": saved.final_norm,
        "max_length": run.settings.max_length,
        **({"text_pairs": True} if run.of_pairs else {}),
        **({} if spaced is None else {"words": {"spaced": spaced}}),
        **_windows(run, saved, causal),
        **_told(run, head),
        "penalty": head.penalty,
        "train_rows": head.n_train,
        "test_rows": head.n_test,
        "test_accuracy": head.accuracy,
        "runs_own_code": run.model.runs_own_code,
    }
    (place / "head.json").write_text(
        json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    shutil.copyfile(predict.__file__, folder / "predict.py")


def _windows(run: RecordedRun, saved: SavedCut, causal: bool) -> dict[str, Any]:
    if run.settings.long_texts is not LongTexts.SPLIT:
        return {}
    around = list(saved.states[0].around)  # of the tokenizer: that of every state
    return {"windows": {"around": around, "overlap": OVERLAP, "causal": causal}}


def _told(run: RecordedRun, head: Head) -> dict[str, Any]:
    if isinstance(head, TargetProbe):
        names = {"labels": list(run.dataset.target_names), "threshold": head.rule.threshold}
        return {"task": run.dataset.task.value} | (names if run.dataset.target_names else {})
    return {
        "classes": [run.dataset.classes[label] for label in head.classes.tolist()],
        "iterations": head.iterations,
    }


def _audited_predictions(run: RecordedRun, cut: Cut) -> NDArray[np.integer]:
    """Of every test row, as the run staged them of its one layer."""
    (only,) = cut.states
    part = Layout.part(only.pooling, only.norm_state, only.layer)
    rows = run.rows[run.dataset.train_rows :]
    try:
        audited = read_staged(run.layout, run.row["run_id"], "prediction", part).sort("row_id")
        units = read_units(run.dataset)[run.dataset.train_rows :]
        right = float(units.of((audited["label"] == audited["predicted"]).to_numpy()).mean())
        same_rows = audited.select("row_id", "label").equals(rows.select("row_id", "label"))
        whole = same_rows and np.isclose(right, probe_row(run, cut)["accuracy"])
    except (FileNotFoundError, DamagedPartError, pl.exceptions.PolarsError):
        whole = False
    if not whole:
        raise UserError(
            f"The predictions that the run staged for layer {only.layer} are missing or damaged, so nothing can be "
            "held against its audit. Give the sweep's command again in a new --storage, and export that run."
        )
    predicted: NDArray[np.integer] = audited["predicted"].to_numpy()
    return predicted


def _settings(run: RecordedRun, cut: Cut) -> Settings:
    return replace(run.settings, poolings=cut.poolings, norm_states=cut.norm_states, max_layer=cut.deepest)


def _read(shards: tuple[str, ...], cut: Cut) -> Layer:
    layers = [
        read_layer(shards, layer=each.layer, norm_state=each.norm_state.value, pooling=each.pooling.value)
        for each in cut.states
    ]
    if len(layers) == 1:
        return layers[0]
    return replace(layers[0], embeddings=np.concatenate([each.embeddings for each in layers], axis=1))
