"""`python -m tests.tasks.scoring.on_made_up_gpu`: scores on a GPU that is not there and on the CPU, as JSON."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from storage.staged import read_staged
from tasks.scoring.criteria import CRITERIA, OF_SINGLE_ROWS, score_criteria
from tasks.scoring.features import Features
from tasks.scoring.layer_scores import PROBE, SILHOUETTE, score_layer
from tasks.scoring.probe import fit_probe_on
from tasks.scoring.ridge import ridge_leave_one_out
from tasks.scoring.scoring_device import all_scores
from tasks.scoring.silhouette import silhouette
from tasks.scoring.target import Target
from tasks.scoring.target_probe import fit_target_probe
from tasks.vocabulary import Precision, ProbeProtocol, Task
from tests.tasks.scoring.made_up_gpu import MadeUpGpus, register
from tests.tasks.scoring.test_layer_scores import SETTINGS, made_up_layers

GPU = "gpu:0"


def clouds(rows: int, width: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, width] and labels; one feature is massive, one constant, and two rows are the same."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, classes, rows)
    X = draw.normal(size=(rows, width)) + 0.3 * draw.normal(size=(classes, width))[y]
    X[:, 0] *= 1_000
    X[:, 1] = 7
    X[1] = X[0]
    return X.astype(np.float32), y


def cases() -> dict[str, Callable[[str], dict[str, float]]]:
    """What is scored, by name: a function from a device to numbers."""
    many, few = clouds(1_600, 260), clouds(150, 300)
    X, y = clouds(400, 40)
    draw = np.random.default_rng(1)
    weights, groups = draw.uniform(0.5, 2, len(y)), draw.integers(0, 90, len(y))
    labels = Target(Task.MULTI_LABEL, (X[:, 2:6] + draw.normal(size=(len(y), 4)) > 0).astype(np.float64))
    number = Target(Task.REGRESSION, X[:, 2:3].astype(np.float64) + draw.normal(size=(len(y), 1)))

    def of_units(device: str, **units: np.ndarray) -> dict[str, float]:
        features = Features(X, y, device=device, **units)
        left_out = ridge_leave_one_out(features)
        probe = fit_probe_on(features, X[:100] + 0.1, y[:100])
        return {"ridge": left_out.accuracy, "loss": float(left_out.log_loss.sum()), "probe": probe.log_loss}

    def of_target(device: str, target: Target) -> dict[str, float]:
        features = Features(X, y, target=target, device=device)
        scores = score_criteria(features, names=["ridge_loo", "ridge_loo_r2", "ridge_loo_information"])
        found = fit_target_probe(features, X, target)
        return scores | {"accuracy": found.accuracy, "penalty": found.penalty}

    def of_others(device: str) -> dict[str, float]:
        rows, codes = many
        fast = silhouette(rows, codes, precision=Precision.FAST, device=device)
        sampled = silhouette(rows, codes, sample=500, device=device)
        by_steps = fit_probe_on(
            Features(X, y, device=device), X[:100] + 0.1, y[:100], protocol=ProbeProtocol.SGD
        )
        return {"fast": fast.mean, "sampled": sampled.standard_error, "sgd": by_steps.log_loss}

    return {
        "more rows than features": lambda device: all_scores(*many, device),
        "more features than rows": lambda device: all_scores(*few, device),
        "weights": lambda device: of_units(device, weights=weights),
        "groups": lambda device: of_units(device, groups=groups),
        "groups of weighted rows": lambda device: of_units(device, groups=groups, weights=weights),
        "several labels": lambda device: of_target(device, labels),
        "a number": lambda device: of_target(device, number),
        "other ways": of_others,
    }


def staged(device: str, folder: str) -> dict[str, list[object]]:
    """What `score_layer` stages of a layer on this device, but for its seconds and how many steps a fit took, which
    rounding decides: the numbers of each table."""
    layers, _, _ = made_up_layers(folder)
    layer = replace(layers[2], run_id=device.replace(":", "-"), device=device)
    names = tuple(name for name in CRITERIA if name not in OF_SINGLE_ROWS)
    score_layer(layer, replace(SETTINGS, criteria=names))
    tables = (*SILHOUETTE, *PROBE, "criterion", "ridge_row")
    found = {name: read_staged(layer.layout, layer.run_id, name).drop("run_id") for name in tables}
    return {
        name: table.drop("seconds", "iterations", strict=False).to_numpy().ravel().tolist()
        for name, table in found.items()
    }


def canaries() -> dict[str, bool]:
    """Whether what must not be raises, by what it is."""
    first, second = (torch.ones(3).to(f"gpu:{index}") for index in range(2))
    wrong = {
        "another device": lambda: first + second,
        "the host": lambda: first @ torch.ones(3),
        "as an array": first.numpy,
        "put in": lambda: torch.zeros(3).add_(first),
        "picked by it": lambda: torch.zeros(3)[first.long()],
        "put at places": lambda: first.__setitem__(torch.arange(2), torch.ones(2)),
    }
    seen = dict.fromkeys(wrong, False)
    for what, do in wrong.items():
        try:
            do()
        except (RuntimeError, TypeError):
            seen[what] = True
    return seen


def main() -> None:
    """Print `canaries`, `scores` by case and device, and the `tables` of a layer by device."""
    register()
    with MadeUpGpus(), tempfile.TemporaryDirectory() as folder:
        scores = {name: {at: score(at) for at in ("cpu", GPU)} for name, score in cases().items()}
        tables = {at: staged(at, folder) for at in ("cpu", GPU)}
        print(json.dumps({"canaries": canaries(), "scores": scores, "tables": tables}))


if __name__ == "__main__":
    main()
