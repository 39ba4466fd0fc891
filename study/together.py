"""`python -m study.together STORAGE`: what a second and a third layer beside the answer's add, on every finished run.

Read from the embeddings that a grid kept (`keep_embeddings: true`). What was found is kept beside the runs, and
`results/together.csv` has a row a run and number of layers.
"""

import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl

from storage.layout import Layout
from storage.staged import read_staged
from study.curves import Curve, read_curves
from study.measures import mean_of_sets
from tasks.choosing.comparison import compare
from tasks.choosing.together import MOST_TOGETHER, SURE_GAIN, Losses, Rows, Together, grow, left_out_losses
from tasks.curves import LayerOfRun
from tasks.data.dataset import Dataset
from tasks.machine import CORES
from tasks.numerics.cores import own_threads
from tasks.scoring.layer_scores import read_rows
from tasks.scoring.probe import fit_probe
from tasks.vocabulary import NormState, Pooling, Task

RESULTS = Path(__file__).parent / "results" / "together.csv"


def main(storage: str) -> None:
    """Find the layers of every run that has none kept yet, then write the table."""
    curves: dict[str, list[Curve]] = {}
    for curve in read_curves(storage):
        curves.setdefault(curve.run_id, []).append(curve)
    rows = []
    for run_id, own in curves.items():
        kept = Path(storage, "together", f"{run_id}.json")
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(_find(Layout(storage), run_id, own)))
            print(own[0].model, own[0].dataset, flush=True)
        rows += json.loads(kept.read_text())
    table = pl.DataFrame(rows).sort("model", "dataset", "size")
    table.write_csv(RESULTS, float_precision=5)
    _tell(table)


def candidates_of(layout: Layout, run_id: str, curves: list[Curve]) -> list[LayerOfRun]:
    """Every layer of some curves of a run whose embeddings were kept, curve by curve."""
    run = read_staged(layout, run_id, "run").row(0, named=True)
    described = read_staged(layout, run_id, "dataset").row(0, named=True)
    described["classes"] = tuple(described["classes"])
    described["uri"] = layout.dataset(described["fingerprint"])
    described["task"] = Task(described["task"])
    dataset = Dataset(
        **{field.name: described[field.name] for field in fields(Dataset) if field.name in described}
    )
    folder = Path(layout.root, "embeddings", run["embedding_set_id"])
    shards = tuple(str(each) for each in sorted(folder.glob("*.parquet")))
    return [
        LayerOfRun(
            layout,
            run_id,
            shards,
            dataset,
            Pooling(curve.pooling),
            NormState(curve.norm_state),
            layer,
            0,
        )
        for curve in curves
        for layer in range(curve.last + 1)
    ]


def _find(layout: Layout, run_id: str, curves: list[Curve]) -> list[dict[str, object]]:
    candidates = candidates_of(layout, run_id, curves)
    losses = np.concatenate([curve.scores["log_loss"] for curve in curves])
    first = candidates[int(losses.argmin())]
    own = next(
        curve for curve in curves if (curve.pooling, curve.norm_state) == (first.pooling, first.norm_state)
    )
    train, test = read_rows(first)
    own_threads(CORES)

    def read(layer: LayerOfRun) -> Rows:
        return read_rows(layer)[0].X

    alone: Losses = left_out_losses([train.X], train.y)
    found = grow(first, alone, candidates, read, train.y, most=MOST_TOGETHER, sure_gain=-np.inf)
    right = [own.correct[first.layer]]
    for each in found[1:]:
        splits = [read_rows(layer) for layer in each.layers]
        own_threads(CORES)
        X, T = (np.concatenate([split[i].X for split in splits], axis=1) for i in (0, 1))
        right.append(fit_probe(X, train.y, T, test.y).predictions == test.y)
    return [
        _row(own, each, correct, right[0], own.correct[-1])
        for each, correct in zip(found, right, strict=True)
    ]


def _row(
    curve: Curve, found: Together, right: np.ndarray, single: np.ndarray, last: np.ndarray
) -> dict[str, object]:
    over_single, over_last = compare(right, single), compare(right, last)
    return {
        "model": curve.model,
        "dataset": curve.dataset,
        "size": len(found.layers),
        "layers": " + ".join(f"{each.layer} {each.pooling} {each.norm_state}" for each in found.layers),
        "gain_in_errors": found.gain / found.gain_error if found.gain_error else 0.0,
        "log_loss": found.log_loss,
        "accuracy": float(right.mean()),
        "gain_over_single": over_single.difference,
        "p_value": over_single.p_value,
        "gain_over_last": over_last.difference,
    }


def _tell(table: pl.DataFrame) -> None:
    """Gains over the single layer and the last one, with each bar of sureness."""
    models = table["model"].unique(maintain_order=True).to_list()
    for name, own in [("both", table), *((model, table.filter(model=model)) for model in models)]:
        for bar in (0.0, SURE_GAIN, 2.0, 3.0):
            parts = own.group_by("model", "dataset")
            chosen = pl.DataFrame([_answer(part.sort("size"), bar) for _, part in parts])
            # A set that two models have seen counts once.
            means = chosen.group_by("dataset").agg(pl.col("gain_over_single", "gain_over_last").mean())
            mean, low, high = mean_of_sets(means["gain_over_single"].to_list())
            worse = chosen.filter(pl.col("gain_over_single") < 0, pl.col("p_value") < 0.05)
            least, size = chosen["gain_over_single"].to_numpy().min(), chosen["size"].to_numpy().mean()
            print(
                f"{name}, {len(means)} sets, from {bar:.0f} errors on: {100 * mean:+.2f} points over one "
                f"({100 * low:+.2f} to {100 * high:+.2f}), worst {100 * least:+.2f}, {size:.1f} layers, "
                f"significantly worse on {len(worse)}; over the last "
                f"{100 * means['gain_over_last'].to_numpy().mean():+.2f}"
            )


def _answer(part: pl.DataFrame, bar: float) -> dict[str, object]:
    rows = part.to_dicts()
    taken = rows[0]
    for row in rows[1:]:
        if row["gain_in_errors"] <= bar:
            break
        taken = row
    return taken


if __name__ == "__main__":
    main(sys.argv[1])
