"""Which device scores layers: a GPU one after the other, or the cores of a CPU one each."""

import logging
from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from tasks.data.dataset import Dataset
from tasks.machine import device_lock, on_slot
from tasks.scoring.criteria import score_criteria
from tasks.scoring.features import Features
from tasks.scoring.probe import fit_probe_on
from tasks.scoring.silhouette import silhouette
from tasks.vocabulary import Metric

log = logging.getLogger(__name__)

CPU = "cpu"
LARGE_LAYER = 2**24
"""Values of a layer's train rows from which on a GPU is asked, 8,192 rows of 2,048 features. Of fewer it would wait for
small kernels to be launched, while each core has a layer of its own. A guess: no GPU has measured it."""
# Rows and features of the layer that is tried: more than are computed in float64 throughout.
_TRIED = (2_000, 300)
# Of a score, and of one that is next to nothing.
_CLOSE, _NOTHING = 1e-3, 1e-6


def scored_on(device: str, dataset: Dataset, width: int) -> str:
    """What layers of `width` features are scored on, where `device` embedded them: that, or `cpu`.

    Rows in groups are left to the cores: ridge regression without a group is a small system for each of them.
    """
    on_gpu = torch.device(device).type == "cuda" and dataset.group_key is None
    return device if on_gpu and dataset.train_rows * width >= LARGE_LAYER else CPU


def scoring_on(asked: str, score: Callable[[str], None]) -> None:
    """`score` on what is asked for, any GPU that is free or `cpu`; on the cores too where the GPU fails or errs.

    One layer at a time is on a GPU, and no forward pass beside it.
    """
    if asked != CPU:
        try:
            with on_slot(asked) as device, device_lock(torch.device(device)):
                try:
                    if scores_alike(device):
                        score(device)
                        return
                finally:
                    # For the other processes of this GPU. After some errors it raises too.
                    torch.cuda.empty_cache()
        except RuntimeError as error:  # its memory does not suffice, or one of its libraries failed
            log.warning("A layer is scored on the cores, since %s did not do it: %s", asked, error)
    score(CPU)


@cache
def scores_alike(device: str) -> bool:
    """Whether a made-up layer has the scores on this device that it has on the CPU, once a process.

    Its classes lie apart, so that no score is next to nothing and its error lost in what is let pass.
    """
    draw = np.random.default_rng(0)
    rows, width = _TRIED
    y = draw.integers(0, 4, rows)
    X = (draw.normal(size=(rows, width)) + 0.3 * draw.normal(size=(4, width))[y]).astype(np.float32)
    wanted = all_scores(X, y, CPU)
    try:
        found = all_scores(X, y, device)
    except torch.OutOfMemoryError:
        raise  # it says nothing of the numbers
    except RuntimeError as error:
        log.warning("Layers are scored on the cores: %s", error)
        return False
    differ = [
        name
        for name in wanted
        if not abs(found[name] - wanted[name]) <= _CLOSE * abs(wanted[name]) + _NOTHING
    ]
    if differ:
        log.warning("Layers are scored on the cores: %s has another %s", device, ", ".join(differ))
    return not differ


def all_scores(X: np.ndarray, y: np.ndarray, device: str) -> dict[str, float]:
    """Every criterion, every silhouette's mean and a probe's log loss, by name."""
    features = Features(X, y, device=device)
    scores = score_criteria(features)
    for metric in Metric:
        scores[metric.value] = silhouette(features.rows, y, metric, device=device).mean
    # By the labels of other rows, or the loss is next to nothing.
    scores["log_loss"] = fit_probe_on(features, X, y[::-1].copy()).log_loss
    return scores
