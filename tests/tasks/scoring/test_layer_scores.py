"""The steps between embeddings in storage and result rows, on embeddings that are made up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from storage.embeddings import write_shard
from storage.errors import UserError
from storage.layout import Layout
from storage.staged import is_staged, read_staged
from tasks.choosing.curve_choice import audit, choose
from tasks.choosing.rules import DEFAULT_RULE
from tasks.curves import CurveOfRun, LayerOfRun
from tasks.data.dataset import Dataset
from tasks.scoring.layer_scores import is_scored, on_idle_cores, score_layer
from tasks.vocabulary import Metric, NormState, Pooling

LAYERS, TRAIN, TEST, WIDTH = 6, 180, 90, 8
SPREAD = (3.0, 1.5, 0.7, 1.5, 3.0, 4.0)  # of the points around their class: layer 2 separates best


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[LayerOfRun], np.ndarray, np.ndarray]:
    """Every layer of a made-up run, scored; its embeddings [layers, rows, width] and labels [rows]."""
    layout = Layout(str(tmp_path_factory.mktemp("scores")))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, TRAIN + TEST).astype(np.int32)
    centres = rng.normal(size=(3, WIDTH))
    noise = rng.normal(size=(TRAIN + TEST, WIDTH))
    states = np.stack([centres[labels] + spread * noise for spread in SPREAD]).astype(np.float32)
    uris = []
    for index, rows in enumerate(np.array_split(np.arange(TRAIN + TEST), 4)):
        uris.append(layout.shard("set", index))
        write_shard(uris[-1], {("as_returned", "mean"): states[:, rows]}, rows, labels[rows])
    dataset = Dataset(
        id="made-up",
        source="path",
        fingerprint="0" * 32,
        revision="",
        uri="",
        classes=("a", "b", "c"),
        text_column="text",
        label_column="label",
        train_rows=TRAIN,
        test_rows=TEST,
        test_is_made=False,
    )
    first = LayerOfRun(layout, "run", tuple(uris), dataset, Pooling.MEAN, NormState.AS_RETURNED, 0, 0, 1)
    layers = [replace(first, layer=layer) for layer in range(LAYERS)]
    for at in layers:
        assert not is_scored(at)
        score_layer(at, (Metric.COSINE, Metric.EUCLIDEAN), ("ridge_loo", "logme", "whitened_silhouette"))
        assert is_scored(at)
    return layers, states, labels


def test_silhouettes_are_of_train_rows_alone(scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray]) -> None:
    layers, states, labels = scored
    rows = read_staged(layers[0].layout, "run", "silhouette")
    assert rows.height == LAYERS * 2
    for row in rows.iter_rows(named=True):
        expected = silhouette_score(
            states[row["layer"], :TRAIN].astype(np.float64), labels[:TRAIN], metric=row["metric"]
        )
        assert row["mean"] == pytest.approx(expected, abs=1e-6)
        assert row["n"] == TRAIN
    by_class = read_staged(layers[0].layout, "run", "silhouette_by_class")
    whole = by_class.group_by("layer", "metric").agg(mean=(pl.col("mean") * pl.col("n")).sum() / TRAIN)
    joined = whole.join(rows, on=["layer", "metric"])
    assert (joined["mean"] - joined["mean_right"]).abs().max() < 1e-12


def test_probe_is_fitted_on_train_and_measured_on_test_rows(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    layers, states, labels = scored
    row = read_staged(layers[0].layout, "run", "probe", layers[3].part).row(0, named=True)
    assert (row["n_train"], row["n_test"]) == (TRAIN, TEST)
    scaler = StandardScaler().fit(states[3, :TRAIN])
    peer = LogisticRegression(C=1 / (row["penalty"] * TRAIN), tol=1e-8, max_iter=5_000)
    peer.fit(scaler.transform(states[3, :TRAIN]), labels[:TRAIN])
    expected = peer.predict(scaler.transform(states[3, TRAIN:]))
    predictions = read_staged(layers[0].layout, "run", "prediction", layers[3].part)
    assert predictions["row_id"].to_list() == list(range(TRAIN, TRAIN + TEST))
    assert (predictions["predicted"].to_numpy() == expected).mean() >= 1 - 1 / TEST
    assert row["accuracy"] == (predictions["predicted"] == predictions["label"]).mean()


def test_what_is_staged_is_not_computed_again(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    at = replace(scored[0][0], shard_uris=("/nowhere",))
    score_layer(at, (Metric.COSINE,), ("logme",))
    with pytest.raises(FileNotFoundError):
        score_layer(replace(at, run_id="another"), (Metric.COSINE,), ("logme",))


def test_two_threads_stage_what_one_does_to_the_bit(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    one = scored[0][3]
    two = replace(one, run_id="two", threads=2)
    score_layer(two, (Metric.COSINE, Metric.EUCLIDEAN), ("ridge_loo", "logme", "whitened_silhouette"))
    tables = (
        "silhouette",
        "silhouette_by_class",
        "silhouette_row",
        "criterion",
        "ridge_row",
        "probe",
        "prediction",
    )
    for table in tables:
        found = read_staged(two.layout, "two", table)
        assert found.equals(
            read_staged(one.layout, "run", table, one.part).with_columns(
                run_id=pl.lit("two"), **{name: found[name] for name in found.columns if name == "seconds"}
            )
        )


def test_the_first_failure_of_two_threads_is_raised(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    at = replace(scored[0][0], run_id="failing", threads=2)
    with pytest.raises(UserError, match="no criterion 'nonesuch'"):
        score_layer(at, (Metric.COSINE,), ("nonesuch",))
    assert is_staged(at.layout, "failing", "silhouette", at.part)
    assert not is_scored(at)


@pytest.mark.parametrize(
    ("cores", "threads"),
    [
        (1, [1, 1, 1, 1, 1, 1]),
        (2, [1, 1, 1, 1, 1, 1]),
        (4, [1, 1, 1, 1, 2, 2]),
        (5, [1, 1, 1, 1, 1, 2]),
        (8, [1, 1, 1, 1, 1, 1]),
        (12, [2, 2, 2, 2, 2, 2]),
    ],
)
def test_layers_of_the_last_round_share_the_cores_that_would_be_idle(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray], cores: int, threads: list[int]
) -> None:
    layers = scored[0]
    found = on_idle_cores(layers, cores)
    assert [at.threads for at in found] == threads
    assert [replace(at, threads=1) for at in found] == layers


def test_choice_reads_no_test_row_and_the_audit_reads_them(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    first = scored[0][0]
    curve = CurveOfRun(first.layout, "run", Pooling.MEAN, NormState.AS_RETURNED, False, 0)
    folder = Path(first.layout.staged_table("run", "prediction"))
    folder.rename(folder.with_name("hidden"))
    chosen = choose(curve)
    assert chosen.default.layer == 2
    folder.with_name("hidden").rename(folder)
    audit(curve, chosen)
    audits = read_staged(first.layout, "run", "audit")
    default = audits.filter("is_default").row(0, named=True)
    accuracy = read_staged(first.layout, "run", "probe").sort("layer")["accuracy"]
    assert default["rule"] == DEFAULT_RULE
    assert (default["chosen_layer"], default["chosen_accuracy"]) == (2, accuracy[2])
    assert default["regret"] == pytest.approx(accuracy.max() - accuracy[2])
    assert default["gain_low"] <= default["gain_over_last"] <= default["gain_high"]
    curves = read_staged(first.layout, "run", "trend")["curve"].unique().sort().to_list()
    assert curves == ["accuracy", "silhouette:cosine", "silhouette:euclidean"]
