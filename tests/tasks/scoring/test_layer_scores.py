"""The steps between embeddings in storage and result rows, on embeddings that are made up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

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
from tasks.choosing.comparison import same_share_p_value
from tasks.choosing.curve_choice import audit, choose
from tasks.choosing.rules import DEFAULT_RULE
from tasks.curves import CurveOfRun, LayerOfRun
from tasks.data.dataset import Dataset
from tasks.scoring.criteria import CRITERIA
from tasks.scoring.layer_scores import ScoringSettings, is_scored, on_idle_cores, score_layer
from tasks.scoring.text_baseline import score_text
from tasks.vocabulary import Metric, NormState, Pooling, Precision, ProbeProtocol

LAYERS, TRAIN, TEST, WIDTH = 6, 180, 90, 8
SETTINGS = ScoringSettings(
    metrics=(Metric.COSINE, Metric.EUCLIDEAN),
    criteria=("ridge_loo", "ridge_loo_information", "logme", "whitened_silhouette"),
    protocol=ProbeProtocol.LOGISTIC,
    silhouette_rows=50_000,
    silhouette_precision=Precision.EXACT,
)
SPREAD = (3.0, 1.5, 0.7, 1.5, 3.0, 4.0)  # of the points around their class: layer 2 separates best


def made_up_layers(root: str) -> tuple[list[LayerOfRun], np.ndarray, np.ndarray]:
    """Every layer of a made-up run, in storage; its embeddings [layers, rows, width] and labels [rows]."""
    layout = Layout(root)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, TRAIN + TEST).astype(np.int32)
    centres = rng.normal(size=(3, WIDTH))
    noise = rng.normal(size=(TRAIN + TEST, WIDTH))
    states = np.stack([centres[labels] + spread * noise for spread in SPREAD]).astype(np.float32)
    uris = []
    for index, rows in enumerate(np.array_split(np.arange(TRAIN + TEST), 4)):
        uris.append(layout.shard("set", index))
        write_shard(uris[-1], {("as_returned", "mean"): states[:, rows]}, rows, labels[rows])
    table = pl.DataFrame({"row_id": range(TRAIN + TEST), "label": labels}).with_columns(
        # The words tell the label of two rows in three.
        text=pl.when(pl.col("row_id") % 3 > 0)
        .then(pl.lit("word") + pl.col("label").cast(str))
        .otherwise(pl.lit("none")),
        split=pl.when(pl.col("row_id") < TRAIN).then(pl.lit("train")).otherwise(pl.lit("test")),
    )
    table.write_parquet(layout.dataset("0" * 32), mkdir=True)
    dataset = Dataset(
        id="made-up",
        source="path",
        fingerprint="0" * 32,
        revision="",
        uri=layout.dataset("0" * 32),
        classes=("a", "b", "c"),
        text_column="text",
        label_column="label",
        train_rows=TRAIN,
        test_rows=TEST,
        test_is_made=False,
    )
    first = LayerOfRun(layout, "run", tuple(uris), dataset, Pooling.MEAN, NormState.AS_RETURNED, 0, 0, 1)
    return [replace(first, layer=layer) for layer in range(LAYERS)], states, labels


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[LayerOfRun], np.ndarray, np.ndarray]:
    """`made_up_layers`, scored."""
    layers, states, labels = made_up_layers(str(tmp_path_factory.mktemp("scores")))
    for layer in layers:
        assert not is_scored(layer, SETTINGS.criteria)
        score_layer(layer, SETTINGS)
        assert is_scored(layer, SETTINGS.criteria)
    score_text(layers[0].layout, "run", layers[0].dataset, 0)
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
    layer, fewer = replace(scored[0][0], shard_uris=("/nowhere",)), replace(SETTINGS, criteria=("logme",))
    score_layer(layer, fewer)
    with pytest.raises(FileNotFoundError):
        score_layer(replace(layer, run_id="another"), fewer)


@pytest.mark.parametrize(
    "table",
    ["silhouette", "silhouette_by_class", "silhouette_row", "criterion", "ridge_row", "probe", "prediction"],
)
def test_a_damaged_part_is_computed_again(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray], table: str
) -> None:
    layer = scored[0][1]
    place = Path(layer.layout.staged("run", table, layer.part))
    expected = pl.read_parquet(place)
    whole = place.read_bytes()
    middle = len(whole) // 2
    place.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
    assert not is_scored(layer, SETTINGS.criteria)
    score_layer(layer, SETTINGS)
    assert is_scored(layer, SETTINGS.criteria)
    found = pl.read_parquet(place)
    assert found.drop("seconds", strict=False).equals(expected.drop("seconds", strict=False))


def test_one_criterion_more_is_computed_and_the_others_stay(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    layer = replace(scored[0][1], run_id="grown")
    two, three = ("ridge_loo", "knn_loo"), ("ridge_loo", "logme", "knn_loo")
    score_layer(layer, replace(SETTINGS, criteria=two))
    before = read_staged(layer.layout, "grown", "criterion")
    assert before["name"].to_list() == list(two)
    assert (is_scored(layer, two), is_scored(layer, three)) == (True, False)
    score_layer(layer, replace(SETTINGS, criteria=three))
    assert is_scored(layer, three)
    after = read_staged(layer.layout, "grown", "criterion")
    assert after["name"].to_list() == ["ridge_loo", "knn_loo", "logme"]
    assert after.head(2).equals(before)
    of_whole_run = read_staged(layer.layout, "run", "criterion", layer.part).filter(name="logme")
    assert after["value"][2] == of_whole_run["value"].item()


def test_every_criterion_is_staged(scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray]) -> None:
    layer = replace(scored[0][2], run_id="every")
    score_layer(layer, replace(SETTINGS, criteria=tuple(CRITERIA)))
    found = read_staged(layer.layout, "every", "criterion")
    assert found["name"].to_list() == list(CRITERIA)
    assert found["value"].is_finite().all()
    assert (found["seconds"] > 0).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"silhouette_rows": 100}, "sampled 100 of 180"),
        ({"silhouette_precision": Precision.FAST}, "fast"),
        ({"silhouette_rows": 100, "silhouette_precision": Precision.FAST}, "fast, sampled 100 of 180"),
        ({"silhouette_rows": TRAIN}, "exact"),
    ],
)
def test_a_euclidean_silhouette_says_how_exact_it_is(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
    changed: dict[str, Any],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So few rows would be computed in float64.
    for module in ("numerics.distances", "scoring.layer_scores"):
        monkeypatch.setattr(f"tasks.{module}.FLOAT64_ROWS", 50)
    layer = replace(scored[0][2], run_id=said)
    score_layer(layer, replace(SETTINGS, **changed))
    found = read_staged(layer.layout, said, "silhouette").sort("metric")
    assert found["metric"].to_list() == ["cosine", "euclidean"]
    assert found["precision"].to_list() == ["exact", said]
    rows = changed.get("silhouette_rows", TRAIN)
    assert found["n"].to_list() == [TRAIN, rows]
    by_row = read_staged(layer.layout, said, "silhouette_row").filter(metric="euclidean")
    assert by_row.height == rows
    assert found["mean"][1] == pytest.approx(by_row["silhouette"].mean())
    # The stated error holds what the sample misses: it is that of as many rows, drawn anew.
    assert found["standard_error"][1] == pytest.approx(by_row["influence"].std(ddof=0) / rows**0.5)


def test_few_rows_are_exact_whatever_was_asked(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    layer = replace(scored[0][2], run_id="few")
    score_layer(layer, replace(SETTINGS, silhouette_precision=Precision.FAST))
    assert set(read_staged(layer.layout, "few", "silhouette")["precision"]) == {"exact"}


def test_a_sampled_silhouette_is_read_as_a_curve(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    settings = replace(SETTINGS, metrics=(Metric.EUCLIDEAN, Metric.COSINE), silhouette_rows=100)
    for layer in scored[0]:
        score_layer(replace(layer, run_id="sampled"), settings)
    layout = scored[0][0].layout
    curve = CurveOfRun(layout, "sampled", Pooling.MEAN, NormState.AS_RETURNED, False, 0)
    rows = read_staged(layout, "sampled", "silhouette_row").filter(metric="euclidean")
    assert rows.group_by("row_id").len()["len"].to_list() == [LAYERS] * 100  # the same rows of every layer
    score_text(layout, "sampled", scored[0][0].dataset, 0)
    chosen = choose(curve)
    assert chosen.default.layer == 2
    audit(curve, chosen)
    trends = read_staged(layout, "sampled", "trend")["curve"].unique().sort().to_list()
    assert trends == ["accuracy", "silhouette:cosine", "silhouette:euclidean"]
    assert "silhouette:euclidean" in read_staged(layout, "sampled", "score_audit")["score"].to_list()


def test_the_probe_that_is_asked_for_is_fitted(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    layer = replace(scored[0][2], run_id="sgd")
    score_layer(layer, replace(SETTINGS, protocol=ProbeProtocol.SGD))
    row = read_staged(layer.layout, "sgd", "probe").row(0, named=True)
    assert (row["protocol"], row["penalty"]) == ("sgd", 0.0)
    other = read_staged(layer.layout, "run", "probe", layer.part).row(0, named=True)
    assert other["protocol"] == "logistic"
    assert abs(row["accuracy"] - other["accuracy"]) < 0.1


def test_two_threads_stage_what_one_does_to_the_bit(
    scored: tuple[list[LayerOfRun], np.ndarray, np.ndarray],
) -> None:
    one = scored[0][3]
    two = replace(one, run_id="two", threads=2)
    score_layer(two, SETTINGS)
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
    layer = replace(scored[0][0], run_id="failing", threads=2)
    with pytest.raises(UserError, match="no criterion 'nonesuch'"):
        score_layer(layer, replace(SETTINGS, criteria=("nonesuch",)))
    assert is_staged(layer.layout, "failing", "silhouette", layer.part)
    assert not is_scored(layer, ("nonesuch",))


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
    assert [layer.threads for layer in found] == threads
    assert [replace(layer, threads=1) for layer in found] == layers


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
    predictions = read_staged(first.layout, "run", "prediction", f"{first.part[:-1]}2")
    right = (predictions["predicted"] == predictions["label"]).to_numpy()
    words = read_staged(first.layout, "run", "text_prediction")
    by_words = (words["predicted"] == words["label"]).to_numpy()
    assert default["gain_over_text"] == pytest.approx(right.mean() - by_words.mean())
    assert default["gain_over_text_low"] <= default["gain_over_text"] <= default["gain_over_text_high"]
    probe = read_staged(first.layout, "run", "probe").filter(layer=2).row(0, named=True)
    assert default["held_out_accuracy"] == probe["held_out_accuracy"]
    assert probe["held_out_rows"] == TRAIN
    held_out = round(probe["held_out_accuracy"] * TRAIN)
    expected = same_share_p_value(held_out, TRAIN, int(right.sum()), TEST)
    assert default["shift_p_value"] == expected
    curves = read_staged(first.layout, "run", "trend")["curve"].unique().sort().to_list()
    assert curves == ["accuracy", "silhouette:cosine", "silhouette:euclidean"]
