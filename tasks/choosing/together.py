"""Layers side by side: which ones tell more together with the chosen one, by train rows, and what that was worth.

Ridge regression and the probe are given the standardised features of several layers in one row; nothing else changes.
A second layer is found by the left-out log loss of both (`tasks/scoring/ridge.py`), a third by that of all three, and
each is taken where the gain exceeds its paired error.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from prefect import get_run_logger, task

from storage.embeddings import hand_back_read_memory
from storage.layout import Layout
from storage.staged import is_staged, read_staged, rows_of, stage
from tasks.choosing.audit import Right
from tasks.choosing.choice import rank
from tasks.choosing.comparison import NO_DIFFERENCE, Comparison, compare
from tasks.choosing.curve_choice import CurveChoice, right_on_test
from tasks.curves import LayerOfRun
from tasks.data.units import ROWS, Units, read_units
from tasks.machine import CORES
from tasks.numerics.cores import cores, hand_back_freed_memory, own_threads
from tasks.retries import LONG_S, RETRIED
from tasks.scoring.features import Features
from tasks.scoring.layer_scores import SplitRows, read_rows
from tasks.scoring.probe import fit_probe_on
from tasks.scoring.ridge import ridge_leave_one_out
from tasks.scoring.silhouette import stratified_rows
from tasks.scoring.target import Target
from tasks.scoring.target_probe import fit_target_probe
from tasks.vocabulary import ProbeProtocol

MOST_TOGETHER = 3
SURE_GAIN = 1.0
"""In paired standard errors. docs/study.md, Layers side by side, has what 0, 2 and 3 come to."""
MOST_ROWS = 5_000
"""Train rows that the search reads; of more, so many drawn by class. It solves some thirty problems of much width."""
COARSE = 6
"""Layers of each curve that are tried at first; those around the best come after them."""

PART = "representation"
"""The table, and the name of the one part that a run stages of it."""

Rows = npt.NDArray[np.float32]
Losses = npt.NDArray[np.float64]
Read = Callable[[LayerOfRun], Rows]


@dataclass(frozen=True)
class Together:
    """Some layers side by side, by train rows alone."""

    layers: tuple[LayerOfRun, ...]
    """In the order in which they were found."""
    log_loss: float
    """Mean left-out log loss of ridge regression on all of them, in nats."""
    gain: float
    """By how much it is below that of all but the last; 0 of one layer."""
    gain_error: float
    """Standard error of the gain over the same rows."""
    is_sure: bool
    """Whether the gain exceeds it so often as was asked for; of one, true."""


def grow(
    first: LayerOfRun,
    losses: Losses,
    candidates: Sequence[LayerOfRun],
    read: Read,
    labels: npt.NDArray[np.integer],
    *,
    target: Target | None = None,
    units: Units = ROWS,
    most: int = MOST_TOGETHER,
    sure_gain: float = SURE_GAIN,
) -> list[Together]:
    """One layer, then it and one more, and so on to `most`; the last one is the first that is not sure, if any is.

    losses: of the first layer alone, [N]. read: the train rows [N, D] of a layer. labels: [N]. target: of the same
    rows, where they are to tell something else. units: what of the rows is independent, and how much each
    counts. sure_gain: how many paired standard errors a layer has
    to gain.
    """
    found = [_alone(first, units.of(losses))]
    while found[-1].is_sure and len(found) < most:
        layers = found[-1].layers
        beside = _best_beside(
            [read(each) for each in layers], labels, target, units, layers, candidates, read
        )
        if beside is None:
            break
        best, of_all = beside
        less = units.of(losses - of_all)
        error = float(less.std(ddof=1) / np.sqrt(len(less)))
        gain = float(less.mean())
        found.append(
            Together(
                (*layers, best), float(units.of(of_all).mean()), gain, error, is_sure=gain > sure_gain * error
            )
        )
        losses = of_all
    return found


def _alone(layer: LayerOfRun, losses: Losses) -> Together:
    return Together((layer,), float(losses.mean()), 0.0, 0.0, is_sure=True)


def _best_beside(
    blocks: Sequence[Rows],
    labels: npt.NDArray[np.integer],
    target: Target | None,
    units: Units,
    taken: Sequence[LayerOfRun],
    candidates: Sequence[LayerOfRun],
    read: Read,
) -> tuple[LayerOfRun, Losses] | None:
    """The layer that gives the lowest mean loss beside those taken, and the losses [N]; None where no other is left.

    Some layers of each curve are tried first, then those around the best, nearer and nearer.
    """
    tried: dict[LayerOfRun, Losses] = {}
    depth = max(each.layer for each in candidates) + 1
    step = -(-depth // COARSE)
    some = _coarse(candidates, step)
    while True:
        new = [each for each in some if each not in tried and each not in taken]
        with cores(torch.device("cpu")) as shared:
            found = shared.map(
                lambda each: left_out_losses([*blocks, read(each)], labels, target, units), new
            )
        tried.update(zip(new, found, strict=True))
        if not tried:
            return None
        best = min(tried, key=lambda each: float(units.of(tried[each]).mean()))
        if step == 1:
            return best, tried[best]
        step = -(-step // 2)
        some = _around(best, candidates, step)


def left_out_losses(
    blocks: Sequence[Rows],
    labels: npt.NDArray[np.integer],
    target: Target | None = None,
    units: Units = ROWS,
) -> Losses:
    """Of each train row, in nats: float64 [N], of layers [N, D] side by side."""
    features = Features(
        np.concatenate(blocks, axis=1), labels, target=target, groups=units.groups, weights=units.weights
    )
    return ridge_leave_one_out(features).log_loss


def _coarse(candidates: Sequence[LayerOfRun], step: int) -> list[LayerOfRun]:
    """Of each curve its last layer and every `step`-th before it."""
    some = []
    for _, curve in groupby(candidates, key=lambda each: (each.pooling, each.norm_state)):
        some += sorted(curve, key=lambda each: -each.layer)[::step]
    return some


def _around(best: LayerOfRun, candidates: Sequence[LayerOfRun], step: int) -> list[LayerOfRun]:
    at = (best.layer - step, best.layer + step)
    return [
        each
        for each in candidates
        if (each.pooling, each.norm_state) == (best.pooling, best.norm_state) and each.layer in at
    ]


def choose_together(
    candidates: Sequence[LayerOfRun], chosen: Sequence[CurveChoice], most: int
) -> list[Together]:
    """What stands well beside the answer's layer, from train rows alone; nothing where it is staged already.

    candidates: every layer of the run, curve by curve. chosen: of each curve, in their order.
    """
    first = answer_layer(candidates, chosen)
    if is_staged(first.layout, first.run_id, PART, PART):
        return []
    left_out = read_staged(first.layout, first.run_id, "ridge_row", first.part).sort("row_id")
    losses = left_out["log_loss"].to_numpy().astype(np.float64)
    if most == 1:
        return [_alone(first, read_units(first.dataset)[: len(losses)].of(losses))]
    _hand_back()  # of scoring: what other threads have freed this one does not find
    train = read_rows(first)[0]
    labels, target, units = train.y, train.target, train.units
    own_threads(CORES)  # reading a layer asks for one thread
    del train  # its rows are read again, as many as are drawn
    drawn = stratified_rows(labels, MOST_ROWS, first.seed)
    labels, units = labels[drawn], units[drawn]
    if target is not None:
        target = replace(target, values=target.values[drawn])

    def read(layer: LayerOfRun) -> Rows:
        return read_rows(layer)[0].X[drawn]

    if len(drawn) < len(losses):
        losses = left_out_losses(
            [read(first)], labels, target, units
        )  # left out of as many rows as the others' are
    return grow(first, losses, candidates, read, labels, target=target, units=units, most=most)


def is_found_together(layer: LayerOfRun, most: int) -> bool:
    """Whether no embeddings are needed for it: it is staged, for the run that the layer is of, or one layer is all."""
    return most == 1 or is_staged(layer.layout, layer.run_id, PART, PART)


def answer_layer(candidates: Sequence[LayerOfRun], chosen: Sequence[CurveChoice]) -> LayerOfRun:
    """The layer that the run's answer takes: of the default choices the best score, of equals the shallowest.

    Of poolings that come to the same, as of texts of one token, the first by the name of its parts, as in `collect`.
    """
    curves = [
        list(layers) for _, layers in groupby(candidates, key=lambda each: (each.pooling, each.norm_state))
    ]
    told = [
        (
            -rank(choice.default.score, choice.default.priced_accuracy),
            choice.default.layer,
            Layout.part(layers[0].pooling, layers[0].norm_state),
            place,
        )
        for place, (layers, choice) in enumerate(zip(curves, chosen, strict=True))
        if not choice.default.is_constant
    ]
    _, layer, _, place = min(told)
    return next(each for each in curves[place] if each.layer == layer)


def audit_together(found: Sequence[Together], protocol: ProbeProtocol) -> None:
    """Stage `representation`: a probe of each on the test rows, against the single layer and the last of its curve.

    protocol: that of the run's probes, with which they are compared.

    The largest whose every step was sure is the answer. What was not sure is audited as well, for whoever wants to know
    what it would have been worth.
    """
    if not found:
        return
    single = found[0].layers[0]
    at_last = replace(single, layer=_last_layer(single))
    units = read_units(single.dataset)[single.dataset.train_rows :]

    def staged(layer: LayerOfRun) -> Right:
        return units.of(right_on_test(layer.layout, layer.run_id, layer.part))

    alone, last = staged(single), staged(at_last)
    answer = max(len(each.layers) for each in found if each.is_sure)
    rows = []
    for each in found:
        started = time.perf_counter()
        is_single = len(each.layers) == 1
        right = alone if is_single else units.of(_probe(each.layers, protocol))
        over_single = NO_DIFFERENCE if is_single else compare(right, alone)
        over_last = NO_DIFFERENCE if each.layers == (at_last,) else compare(right, last)
        rows.append(
            {
                "size": len(each.layers),
                "is_answer": len(each.layers) == answer,
                "poolings": [layer.pooling.value for layer in each.layers],
                "norm_states": [layer.norm_state.value for layer in each.layers],
                "layers": [layer.layer for layer in each.layers],
                "log_loss": each.log_loss,
                "log_loss_gain": each.gain,
                "log_loss_gain_error": each.gain_error,
                "accuracy": float(np.clip(right.mean(), 0.0, 1.0)),
                "n_test": single.dataset.test_rows,
                **_named("gain_over_single", over_single),
                **_named("gain_over_last", over_last),
                "seconds": time.perf_counter() - started,
            }
        )
    key = single.key().select("run_id")
    stage(single.layout, single.run_id, PART, PART, rows_of(PART, key, rows))


def _named(name: str, found: Comparison) -> dict[str, float]:
    return {
        name: found.difference,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_p_value": found.p_value,
    }


def _last_layer(layer: LayerOfRun) -> int:
    probes = read_staged(
        layer.layout, layer.run_id, "probe", Layout.part(layer.pooling, layer.norm_state) + "-"
    )
    return int(probes["layer"].to_numpy().max())


def _probe(layers: Sequence[LayerOfRun], protocol: ProbeProtocol) -> Right:
    """As `right_on_test`, of a probe on the layers side by side."""
    _hand_back()  # of the search, which was as large
    train, test = _side_by_side(layers)
    own_threads(CORES)
    if test.target is not None:
        features = Features(train.X, train.y, target=train.target, groups=train.units.groups)
        return fit_target_probe(features, test.X, test.target).judged.right
    features = Features(train.X, train.y, groups=train.units.groups, weights=train.units.weights)
    del train  # its rows are the features' alone
    if protocol is not ProbeProtocol.SGD:  # which takes the rows as they are
        features.keep_axes_alone()
    found = fit_probe_on(
        features, test.X, test.y, protocol=protocol, test_weights=test.units.weights, seed=layers[0].seed
    )
    return found.predictions == test.y


def _hand_back() -> None:
    hand_back_read_memory()
    hand_back_freed_memory()


def _side_by_side(layers: Sequence[LayerOfRun]) -> tuple[SplitRows, SplitRows]:
    """Rows of train and test with the features of all layers, of which never more than one is held besides."""
    wide: list[SplitRows] = []
    for place, layer in enumerate(layers):
        splits = read_rows(layer)
        width = splits[0].X.shape[1]
        if not wide:
            shapes = [(len(split.y), len(layers) * width) for split in splits]
            wide = [
                replace(split, X=np.empty(shape, np.float32))
                for split, shape in zip(splits, shapes, strict=True)
            ]
        for into, split in zip(wide, splits, strict=True):
            into.X[:, place * width : (place + 1) * width] = split.X
        del splits, split  # before the next ones are read
    train, test = wide
    return train, test


@task(name="choose-together", timeout_seconds=LONG_S, **RETRIED)
def choose_together_task(
    candidates: list[LayerOfRun], chosen: list[CurveChoice], most: int
) -> list[Together]:
    """Which layers tell more side by side with the answer's, from train rows alone."""
    found = choose_together(candidates, chosen, most)
    for each in found[1:]:
        taken = "taken" if each.is_sure else "not taken"
        get_run_logger().info(
            "%s layers side by side: left-out log loss %.4f ± %.4f lower, %s",
            len(each.layers),
            each.gain,
            each.gain_error,
            taken,
        )
    return found


@task(name="audit-together", timeout_seconds=LONG_S, **RETRIED)
def audit_together_task(found: list[Together], protocol: ProbeProtocol) -> None:
    """What layers side by side were worth on the test rows."""
    audit_together(found, protocol)
