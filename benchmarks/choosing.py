"""What choosing a layer costs: `run()` measures every bar of this part, one object a bar.

Choosing is all of a sweep but extraction and the proof on test rows: silhouettes, criteria and the choice, from
embeddings in storage. It stands against probing every layer with scikit-learn, on the same rows of the same files: with
a penalty of five, chosen on a held-out fifth of the train rows, and a single fit with the penalty that scikit-learn
comes with. A whole sweep stands against `plmsommelier suggest --probe lr`, both as commands on one CSV; the local
server that records the sweep is running already, and its start is reported apart.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks.bars import Bar, bar, seconds_of_command
from benchmarks.scoring import MODEL, emotion
from flows.parameters import SweepParameters
from flows.run_id import describe_run
from flows.running.server import local_server
from flows.settled import scoring_of, settle_settings
from flows.unrecorded_sweep import in_threads
from storage.layout import Layout
from storage.staged import keyed, stage
from tasks.choosing.curve_choice import choose
from tasks.curves import CurveOfRun, LayerOfRun, curves_of, layers_of
from tasks.data.dataset import prepare_dataset
from tasks.embedding.embedding_set import embed_shard
from tasks.embedding.model import resolve_model
from tasks.embedding.set_plan import plan_embedding_set
from tasks.embedding.settings import resolve_settings
from tasks.machine import CORES
from tasks.numerics.cores import side_by_side
from tasks.scoring.features import Features
from tasks.scoring.folds import FOLDS
from tasks.scoring.layer_scores import (
    ScoringSettings,
    on_idle_cores,
    read_rows,
    score_silhouettes,
    score_with_criteria,
)
from tasks.scoring.probe import PENALTIES
from tasks.vocabulary import Metric, Pooling

ROWS = (4_000, 500)
SOMMELIER_ROWS = 1_000
MOST_SHARE = 0.10
LEAST_SPEED_UP = 5.0
REPEATS = 2
# Of choosing and probing, whose ratio two turns left uncertain by a tenth.
TURNS = 5
# Of all eleven the weak ones would be most of scikit-learn's time; our probe tries them only where they pay.
FIVE_PENALTIES = PENALTIES[:5]
PROBES = {"scikit-learn, penalty chosen of five": True, "scikit-learn, one fit": False}


def run() -> list[Bar]:
    """All bars of choosing. About seventeen minutes on two cores."""
    return cost() + end_to_end()


def cost() -> list[Bar]:
    """Seconds of choosing over those of probing every layer, in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        data.mkdir()
        for split, count in zip(("train", "test"), ROWS, strict=True):
            emotion(split).head(count).write_parquet(data / f"{split}.parquet")
        parameters = SweepParameters(
            model=MODEL, dataset=f"path:{data}", pooling=(Pooling.MEAN,), storage=scratch
        )
        run_with = _extracted(parameters)
        layers, _ = run_with(parameters.metric)
        # With every metric of a sweep, and without the one that no rule reads beside the cosine.
        metrics = {"": parameters.metric, ", no Euclidean silhouette": (Metric.COSINE,)}
        # Whether one BLAS thread or all of them are faster depends on the machine: a layer tells.
        threads = {
            name: min((1, None), key=partial(_probing, layers[-1:], chosen))
            for name, chosen in PROBES.items()
        }
        ours: dict[str, list[float]] = {what: [] for what in metrics}
        peer: dict[str, list[float]] = {name: [] for name in PROBES}
        for _ in range(TURNS):
            for what, asked in metrics.items():
                scoring = scoring_of(parameters.model_copy(update={"metric": asked}))
                ours[what].append(_choosing(*run_with(asked), scoring))
            for name, chosen in PROBES.items():
                peer[name].append(_probing(layers, chosen, threads[name]))
    return [
        bar(
            f"choosing among {len(layers)} layers of {ROWS[0]:,} rows{what}, over probing each ({name})",
            min(ours[what]),
            min(peer[name]),
            min(ours[what]) / min(peer[name]),
            MOST_SHARE,
            min(ours[what]) / min(peer[name]) <= MOST_SHARE,
            {"ours": ours[what], "scikit_learn": peer[name], "scikit_learn_threads": threads[name]},
        )
        for name in PROBES
        for what in metrics
    ]


def _extracted(
    parameters: SweepParameters,
) -> Callable[[tuple[Metric, ...]], tuple[list[LayerOfRun], CurveOfRun]]:
    """Extract the embeddings. What comes back gives, for some metrics, the layers and the curve of a run not scored."""
    layout = Layout(parameters.storage)
    dataset = prepare_dataset(parameters.dataset, layout, **parameters.rows_asked)
    model = resolve_model(parameters.model)
    settings = resolve_settings(settle_settings(parameters, dataset, model))
    planned = plan_embedding_set(layout, dataset, model, settings)
    for shard in planned.shards:
        embed_shard(layout, planned, shard, dataset, model, settings)

    def run_with(metrics: tuple[Metric, ...]) -> tuple[list[LayerOfRun], CurveOfRun]:
        run = parameters.model_copy(update={"metric": metrics})
        (curve,) = curves_of(
            layout,
            describe_run(run, planned.id).id,
            planned,
            run.pooling,
            run.norm_state,
            run.seed,
            dataset,
            is_cut=False,
        )
        shutil.rmtree(layout.staged_runs, ignore_errors=True)
        return layers_of([curve], planned, dataset, range(model.layers + 1)), curve

    return run_with


def _choosing(layers: list[LayerOfRun], curve: CurveOfRun, settings: ScoringSettings) -> float:
    """Seconds of silhouettes, criteria and choice."""
    for layer in layers:  # a sweep's probes are there by then, and no rule that is timed reads them
        unread = pl.DataFrame({"held_out_accuracy": [None]}, schema={"held_out_accuracy": pl.Float64})
        stage(layer.layout, layer.run_id, "probe", layer.part, keyed(layer.key(), unread))
    started = time.perf_counter()
    in_threads([partial(_score, layer, settings) for layer in on_idle_cores(layers, CORES)])
    choose(curve)
    return time.perf_counter() - started


def _score(layer: LayerOfRun, settings: ScoringSettings) -> None:
    train, _ = read_rows(layer)
    features = Features(train.X, train.y)
    side_by_side(
        layer.threads,
        partial(score_silhouettes, layer, train, features.rows, settings),
        partial(score_with_criteria, layer, train, features, settings.criteria),
    )


def _probing(layers: list[LayerOfRun], chosen: bool, threads: int | None) -> float:
    """Seconds of a logistic regression a layer, fitted on standardised train rows and measured on test rows."""
    started = time.perf_counter()
    with threadpool_limits(threads, user_api="blas"):
        for layer in layers:
            train, test = read_rows(layer)
            probe: BaseEstimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
            if chosen:
                inverse = [1.0 / (penalty * len(train.y)) for penalty in FIVE_PENALTIES]
                held_out = StratifiedShuffleSplit(1, test_size=1 / FOLDS, random_state=0)
                probe = GridSearchCV(
                    probe, {"logisticregression__C": inverse}, scoring="neg_log_loss", cv=held_out
                )
            probe.fit(train.X, train.y)
            probe.score(test.X, test.y)
    return time.perf_counter() - started


def end_to_end() -> list[Bar]:
    """A whole sweep of a CSV over `plmsommelier suggest --probe lr` of it, command against command, in turn.

    The peer pools by the mean alone, as the first of ours; a sweep that is told nothing takes two poolings.
    """
    rows = emotion("train").head(SOMMELIER_ROWS).with_row_index("ID")
    asked = {"mean pooling, as the peer": ["--pooling", "mean"], "two poolings, the default": []}
    ours: dict[str, list[float]] = {name: [] for name in asked}
    peer: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        csv = Path(scratch) / "emotion.csv"
        rows.select("ID", pl.col("text").alias("sequence"), pl.col("label_name").alias("label")).write_csv(
            csv
        )
        started = time.perf_counter()
        with local_server(Layout(scratch).server) as recording:
            server = time.perf_counter() - started
            for number in range(REPEATS):
                for name, more in asked.items():
                    command = ["-m", "flows.cli", "sweep", "--model", MODEL, "--dataset", f"path:{csv}"]
                    command += ["--text-column", "sequence", "--label-column", "label", *more]
                    command += ["--storage", str(Path(scratch) / f"storage-{number}-{len(more)}")]
                    ours[name].append(seconds_of_command(command, **recording.variables))
                command = ["-m", "plmsommelier.cli", "suggest", str(csv), str(resolve_model(MODEL).folder)]
                command += ["--task", "classification", "--probe", "lr", "--no-progress"]
                peer.append(seconds_of_command(command, HF_HUB_OFFLINE="1"))
    return [
        bar(
            f"sweep of {SOMMELIER_ROWS:,} rows end to end ({name}), times as fast as plmsommelier suggest --probe lr",
            min(seconds),
            min(peer),
            min(peer) / min(seconds),
            LEAST_SPEED_UP,
            min(peer) / min(seconds) >= LEAST_SPEED_UP,
            {"ours": seconds, "plmsommelier": peer, "server_start_seconds": server},
        )
        for name, seconds in ours.items()
    ]
