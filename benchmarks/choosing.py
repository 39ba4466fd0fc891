"""What choosing a layer costs: `run()` measures every bar of this part, one object a bar.

Choosing is all of a sweep but extraction and the proof on test rows: silhouettes, criteria and the choice, from
embeddings in storage. It stands against a logistic regression of scikit-learn a layer, on the same rows of the same
files. A whole sweep stands against `plmsommelier suggest --probe lr`, both as commands on one CSV; the local server
that records the sweep is running already, and its start is reported apart.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.bars import Bar, bar
from benchmarks.plain_sweep import in_threads
from benchmarks.scoring import MODEL, emotion
from flows.layer_sweep import CRITERIA, curves_of, describe_run, layers_of, settings_of
from flows.parameters import SweepParameters
from flows.server import local_server
from storage.embeddings import read_layer
from storage.layout import Layout
from tasks.dataset import prepare_dataset
from tasks.embedding_set import embed_shard, plan_embedding_set, resolve_settings
from tasks.features import Features
from tasks.layer_scores import LayerOfRun, read_rows, score_silhouettes, score_with_criteria
from tasks.model import resolve_model
from tasks.pooling import Pooling
from tasks.verdict import choose

ROWS = (4_000, 500)
SOMMELIER_ROWS = 1_000
MOST_SHARE = 0.10
LEAST_SPEED_UP = 5.0
REPEATS = 2


def run() -> list[Bar]:
    """All bars of choosing. About nine minutes on two cores."""
    return [cost(), end_to_end()]


def cost() -> Bar:
    """Seconds of choosing over those of probing every layer."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        data.mkdir()
        for split, count in zip(("train", "test"), ROWS, strict=True):
            emotion(split).head(count).write_parquet(data / f"{split}.parquet")
        ours, layers = _choosing(
            SweepParameters(model=MODEL, dataset=f"path:{data}", pooling=(Pooling.MEAN,), storage=scratch)
        )
        # Whether one BLAS thread or all of them are faster depends on the machine: a layer tells.
        threads = min((1, None), key=lambda count: _probing(layers[-1:], count))
        peer = _probing(layers, threads)
    return bar(
        f"choosing among {len(layers)} layers, {ROWS[0]:,} rows, over probing each with scikit-learn (at most)",
        ours,
        peer,
        ours / peer,
        MOST_SHARE,
        ours / peer <= MOST_SHARE,
        {"ours": ours, "scikit_learn": peer, "scikit_learn_threads": threads},
    )


def _choosing(parameters: SweepParameters) -> tuple[float, list[LayerOfRun]]:
    """Seconds of silhouettes, criteria and choice of embeddings that are there already; and the layers."""
    layout = Layout(parameters.storage)
    dataset = prepare_dataset(parameters.dataset, layout, **parameters.rows_asked)
    model = resolve_model(parameters.model)
    settings = resolve_settings(settings_of(parameters))
    planned = plan_embedding_set(layout, dataset, model, settings)
    for shard in planned.shards:
        embed_shard(layout, planned, shard, dataset, model, settings)
    (curve,) = curves_of(layout, describe_run(parameters, planned.id).id, planned, parameters)
    layers = layers_of([curve], planned, dataset, range(model.layers + 1))
    started = time.perf_counter()

    def score(at: LayerOfRun) -> None:
        train, _ = read_rows(at)
        score_silhouettes(at, train, parameters.metric)
        score_with_criteria(at, train, Features(train.X, train.y), CRITERIA)

    in_threads([partial(score, at) for at in layers])
    choose(curve)
    return time.perf_counter() - started, layers


def _probing(layers: list[LayerOfRun], threads: int | None) -> float:
    """Seconds of a logistic regression a layer, fitted on standardised train rows and measured on test rows."""
    started = time.perf_counter()
    with threadpool_limits(threads, user_api="blas"):
        for at in layers:
            found = read_layer(
                at.shard_uris, layer=at.layer, norm_state=at.norm_state.value, pooling=at.pooling.value
            )
            train = found.row_id < at.dataset.train_rows
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
            probe.fit(found.embeddings[train], found.label[train])
            probe.score(found.embeddings[~train], found.label[~train])
    return time.perf_counter() - started


def end_to_end() -> Bar:
    """A whole sweep of a CSV over `plmsommelier suggest --probe lr` of it, command against command, in turn."""
    rows = emotion("train").head(SOMMELIER_ROWS).with_row_index("ID")
    ours: list[float] = []
    peer: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        csv = Path(scratch) / "emotion.csv"
        rows.select("ID", pl.col("text").alias("sequence"), pl.col("label_name").alias("label")).write_csv(
            csv
        )
        started = time.perf_counter()
        with local_server(Path(scratch) / "prefect") as url:
            server = time.perf_counter() - started
            for number in range(REPEATS):
                command = ["-m", "flows.cli", "sweep", "--model", MODEL, "--dataset", f"path:{csv}"]
                command += ["--text-column", "sequence", "--label-column", "label"]
                command += ["--storage", str(Path(scratch) / f"storage-{number}")]
                ours.append(_timed(command, PREFECT_API_URL=f"{url}/api"))
                command = ["-m", "plmsommelier.cli", "suggest", str(csv), str(resolve_model(MODEL).folder)]
                command += ["--task", "classification", "--probe", "lr", "--no-progress"]
                peer.append(_timed(command, HF_HUB_OFFLINE="1"))
    ratio = min(peer) / min(ours)
    return bar(
        f"sweep of {SOMMELIER_ROWS:,} rows end to end, times as fast as plmsommelier suggest --probe lr",
        min(ours),
        min(peer),
        ratio,
        LEAST_SPEED_UP,
        ratio >= LEAST_SPEED_UP,
        {"ours": ours, "plmsommelier": peer, "server_start_seconds": server},
    )


def _timed(command: list[str], **variables: str) -> float:
    """Seconds of a Python command, which has to succeed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2_000:]}")
    return seconds
