"""`python -m study.peers STORAGE`: other ways to choose layers beside our own, on the same embeddings.

- LOES, Layerwise Optimal Embedding Selection (Batra et al. 2026, arXiv 2605.23033) in our reading, with the weights it
  comes with: one, two and three layers.
- PLMSommelier, its own library: one layer, by either of its probes, of which a random fifth of the train rows is held
  out. Resampling tells how sure it is and leaves its choice as it is, and is left out.

All choose by train rows among the layers of one pooling, `mean` as returned, and the same probe judges them on test
rows. Read from the embeddings that a grid kept (`keep_embeddings: true`). What was found is kept beside the runs, and
`results/peers.csv` has a row a run, peer and number of layers.
"""

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.layout import Layout
from study.curves import Curve, read_curves
from study.measures import mean_of_sets
from study.together import candidates_of
from tasks.choosing.comparison import compare
from tasks.choosing.together import MOST_TOGETHER, Rows, grow, left_out_losses
from tasks.curves import LayerOfRun
from tasks.machine import CORES
from tasks.numerics.cores import own_threads
from tasks.scoring.layer_scores import read_rows
from tasks.scoring.probe import fit_probe

RESULTS = Path(__file__).parent / "results" / "peers.csv"
RIDGE, ISOTROPY, REDUNDANCY, TRIANGLES = 1e-3, 1.0, 0.5, 0.1
"""LOES's weights: of ridge regression, and of what is added to its error."""
DRAWN_TRIANGLES = 200
SOMMELIER_PROBES = ("knn", "lr")
"""The first is its default."""
SOMMELIER_HELD_OUT = 0.2

Matrix = NDArray[np.float64]


def main(storage: str) -> None:
    """Choose with both on every run that has nothing kept yet, then write the table and tell the means over sets."""
    rows = []
    for curve in read_curves(storage):
        if (curve.pooling, curve.norm_state) != ("mean", "as_returned"):
            continue
        kept = Path(storage, "peers", f"{curve.run_id}.json")
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(_beside(Layout(storage), curve)))
            print(curve.model, curve.dataset, flush=True)
        rows += json.loads(kept.read_text())
    table = pl.DataFrame(rows).sort("peer", "size", "model", "dataset")
    table.write_csv(RESULTS, float_precision=5)
    for name, own in [("all", table), *((str(model), part) for (model,), part in table.group_by("model"))]:
        for (peer, size), part in own.group_by("peer", "size", maintain_order=True):
            # A set that two models have seen counts once.
            by_set = part.group_by("dataset").agg(pl.col("ours", "theirs", "above").mean())
            ours, theirs = (float(by_set[each].to_numpy().mean()) for each in ("ours", "theirs"))
            mean, low, high = mean_of_sets(by_set["above"].to_list())
            worse = part.filter(pl.col("above") < 0, pl.col("p_value") < 0.05)
            worst = 100 * part["above"].to_numpy().min()
            print(
                f"{name}, {len(by_set)} sets, {peer}, {size} layers: ours {ours:.1%}, theirs {theirs:.1%}, "
                f"{100 * mean:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f}), worst {worst:+.2f}, significantly "
                f"worse on {len(worse)} of {len(part)}"
            )


def _beside(layout: Layout, curve: Curve) -> list[dict[str, object]]:
    candidates = candidates_of(layout, curve.run_id, [curve])
    train, test = zip(*(read_rows(each) for each in candidates), strict=True)
    own_threads(CORES)
    labels, truth = train[0].y, test[0].y

    def read(layer: LayerOfRun) -> Rows:
        return train[layer.layer].X

    first = candidates[int(curve.scores["log_loss"].argmin())]
    alone = left_out_losses([read(first)], labels)
    grown = grow(first, alone, candidates, read, labels, most=MOST_TOGETHER, sure_gain=-np.inf)
    ours = [each.layer for each in grown[-1].layers]
    embeddings = [each.X for each in train]
    loes = loes_layers(embeddings, labels, MOST_TOGETHER)
    chosen = [("LOES", loes[:size]) for size in range(1, MOST_TOGETHER + 1)]
    for probe in SOMMELIER_PROBES:
        chosen.append((f"PLMSommelier, {probe}", [sommelier_layer(embeddings, labels, probe)]))

    @cache
    def right(layers: tuple[int, ...]) -> NDArray[np.bool_]:
        X, T = (np.concatenate([split[layer].X for layer in layers], axis=1) for split in (train, test))
        found: NDArray[np.bool_] = fit_probe(X, labels, T, truth).predictions == truth
        return found

    rows: list[dict[str, object]] = []
    for peer, theirs in chosen:
        own = ours[: len(theirs)]
        a, b = right(tuple(own)), right(tuple(theirs))
        found = compare(a, b)
        rows.append(
            {
                "model": curve.model,
                "dataset": curve.dataset,
                "peer": peer,
                "size": len(theirs),
                "our_layers": " ".join(map(str, own)),
                "their_layers": " ".join(map(str, theirs)),
                "ours": float(a.mean()),
                "theirs": float(b.mean()),
                "above": found.difference,
                "p_value": found.p_value,
            }
        )
    return rows


def sommelier_layer(layers: Sequence[NDArray[np.floating]], labels: NDArray[np.integer], probe: str) -> int:
    """The layer that PLMSommelier suggests of layers [N, D] each: the shallowest within 2 % of its best score."""
    from plmsommelier.data import Dataset
    from plmsommelier.select import select_layer

    turn = np.random.default_rng(0).permutation(len(labels))
    fitted, held_out = np.split(turn, [int(len(turn) * (1 - SOMMELIER_HELD_OUT))])
    stacked = np.stack(layers)
    told = Dataset("", "classification", [], labels[fitted], [], labels[held_out])
    found = select_layer(told, stacked[:, fitted], stacked[:, held_out], probe=probe, n_seeds=0)
    return int(found.best_layer)


def loes_layers(layers: Sequence[NDArray[np.floating]], labels: NDArray[np.integer], most: int) -> list[int]:
    """The layers that LOES takes, in its order.

    layers: float [N, D] each. labels: int [N]. The next layer has the least sum of: the squared error of ridge
    regression, on the train rows themselves, from what the layers taken leave of it to what they leave unexplained; 1 −
    isotropy, the mean of its covariance's eigenvalues over their deviation; half its largest likeness to a layer taken,
    ‖XᵀS‖ / ‖X‖‖S‖; less a tenth of the mean area of triangles between class means, of which it draws some.
    """
    wide = [each.astype(np.float64) for each in layers]
    isotropies = [_isotropy(each) for each in wide]
    classes, codes = np.unique(labels, return_inverse=True)
    left = np.eye(len(classes))[codes]
    left -= left.mean(0)
    taken: list[int] = []
    while len(taken) < min(most, len(layers)):
        found: dict[int, tuple[float, Matrix]] = {}
        beside = np.concatenate([wide[each] for each in taken], axis=1) if taken else None
        for layer in set(range(len(wide))) - set(taken):
            own = wide[layer] - wide[layer].mean(0)
            if beside is not None:
                own -= _fitted(beside - beside.mean(0), own, ridge=1e-6)
            unexplained = left - _fitted(own, left, ridge=RIDGE)
            score = float(np.square(unexplained).mean()) + ISOTROPY * (1 - isotropies[layer])
            if taken:
                score += REDUNDANCY * max(_likeness(wide[layer], wide[each]) for each in taken)
                score -= TRIANGLES * _triangles(own + wide[layer].mean(0), codes)
            found[layer] = score, unexplained
        best = min(found, key=lambda each: (found[each][0], each))
        taken.append(best)
        left = found[best][1]
    return taken


def _fitted(X: Matrix, Y: Matrix, ridge: float) -> Matrix:
    """What ridge regression on centred X says of centred Y."""
    gram = X.T @ X
    gram[np.diag_indices_from(gram)] += ridge
    fitted: Matrix = X @ np.linalg.solve(gram, X.T @ Y)
    return fitted


def _isotropy(X: Matrix) -> float:
    values = np.linalg.eigvalsh(np.cov(X.T, bias=True)).clip(1e-6)
    return float(values.mean() / (values.std() + 1e-6))


def _likeness(X: Matrix, S: Matrix) -> float:
    return float(np.linalg.norm(X.T @ S) / (np.linalg.norm(X) * np.linalg.norm(S)))


def _triangles(X: Matrix, codes: NDArray[np.integer]) -> float:
    """Mean area of triangles between the means of three classes drawn with replacement; 0 of two classes."""
    count = int(codes.max()) + 1
    if count < 3:
        return 0.0
    means = np.stack([X[codes == each].mean(0) for each in range(count)])
    drawn = np.random.default_rng(0).integers(0, count, (min(DRAWN_TRIANGLES, 3 * count), 3))
    a, b = means[drawn[:, 0]] - means[drawn[:, 1]], means[drawn[:, 0]] - means[drawn[:, 2]]
    square = (a**2).sum(1) * (b**2).sum(1) - (a * b).sum(1) ** 2
    return float(0.5 * np.sqrt(square.clip(0)).mean())


if __name__ == "__main__":
    main(sys.argv[1])
