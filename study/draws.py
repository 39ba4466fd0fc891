"""`python -m study.draws STORAGE`: the same choice from 250 and from 500 train rows, ten draws of each.

Read from the embeddings that a grid kept (`keep_embeddings: true`), `mean` and `last` pooling, as returned. What was
drawn is kept beside the runs, as `study.curves` keeps the whole curves; the test rows that judge are the same.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.embeddings import read_layer
from storage.layout import Layout
from storage.staged import read_staged
from study.curves import OF_ROWS, Curve, read_curves
from tasks.choosing.inflection import error_covariance
from tasks.machine import CORES
from tasks.numerics.cores import use_threads
from tasks.scoring.criteria import score_criteria
from tasks.scoring.features import Features
from tasks.scoring.ridge import ridge_leave_one_out

SIZES, DRAWS = (250, 500), 10
POOLINGS = ("mean", "last")
CRITERIA = ("logme", "whitened_silhouette", "class_mean_loo")
# A class of fewer rows than this in a draw is left out of it, as a data set's own is.
LEAST_ROWS = 2


def main(storage: str) -> None:
    """Score every draw of every finished run that is not scored yet."""
    layout = Layout(storage)
    for folder in sorted(Path(storage, "staged").iterdir()):
        if not (folder / "execution").is_dir():
            continue
        for pooling in POOLINGS:
            kept = _kept(storage, folder.name, pooling)
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                np.savez_compressed(kept, **_score(layout, folder.name, pooling))
                print(kept.name, flush=True)


def read_draws(storage: str) -> Iterator[tuple[int, Curve]]:
    """(rows asked for, the curve as those rows show it), every draw; its test rows are the whole curve's."""
    for curve in read_curves(storage):
        kept = _kept(storage, curve.run_id, curve.pooling)
        if curve.norm_state != "as_returned" or not kept.exists():
            continue
        with np.load(kept) as file:
            arrays = dict(file)
        for size in SIZES:
            for draw in range(DRAWS):
                prefix = f"{size}:{draw}:"
                own = {
                    name.removeprefix(prefix): each
                    for name, each in arrays.items()
                    if name.startswith(prefix)
                }
                scores = {name.removeprefix("score:"): each for name, each in own.items() if "score:" in name}
                errors = {
                    name.removeprefix("covariance:"): each
                    for name, each in own.items()
                    if "covariance:" in name
                }
                rows = int(own["rows"])
                yield size, replace(curve, scores=scores, covariances=errors, train_rows=rows, points={})


def _kept(storage: str, run_id: str, pooling: str) -> Path:
    return Path(storage, "draws", f"{run_id}-{pooling}.npz")


def _score(layout: Layout, run_id: str, pooling: str) -> dict[str, Any]:
    run = read_staged(layout, run_id, "run").row(0, named=True)
    shards = read_staged(layout, run_id, "embedding_set")["shards"].item()
    uris = [layout.shard(run["embedding_set_id"], index) for index in range(shards)]
    train = read_staged(layout, run_id, "ridge_row", f"{pooling}-as_returned-")["row_id"].n_unique()
    draws = [
        (f"{size}:{draw}:", np.random.default_rng(draw).choice(train, size, replace=False))
        for size in SIZES
        for draw in range(DRAWS)
        if size < train
    ]

    def score(layer: int) -> dict[str, dict[str, Any]]:
        use_threads(1)
        found = read_layer(uris, layer=layer, norm_state="as_returned", pooling=pooling)
        return {name: _draw(found.embeddings[rows], found.label[rows]) for name, rows in draws}

    layers = range(read_staged(layout, run_id, "probe", f"{pooling}-as_returned-").height)
    with ThreadPoolExecutor(CORES) as executor:
        by_layer = list(executor.map(score, layers))
    arrays: dict[str, NDArray[Any]] = {}
    for name, _ in draws:
        own = [each[name] for each in by_layer]
        arrays[f"{name}rows"] = np.array(own[0]["rows"])
        for criterion in CRITERIA:
            arrays[f"{name}score:{criterion}"] = np.array([each[criterion] for each in own])
        for column, score_name in OF_ROWS.items():
            rows = np.stack([each[column] for each in own]).astype(np.float64)
            arrays[f"{name}score:{score_name}"] = rows.mean(axis=1)
            arrays[f"{name}covariance:{score_name}"] = error_covariance(rows)
    return arrays


def _draw(X: NDArray[np.float32], y: NDArray[np.int32]) -> dict[str, Any]:
    enough = np.bincount(y)[y] >= LEAST_ROWS
    features = Features(X[enough], y[enough])
    ridge = features.once(ridge_leave_one_out)
    of_rows = {"correct": ridge.correct, "squared_error": ridge.squared_error, "log_loss": ridge.log_loss}
    return score_criteria(features, names=CRITERIA) | of_rows | {"rows": features.n}


if __name__ == "__main__":
    main(*sys.argv[1:2])
