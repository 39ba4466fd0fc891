"""Layers side by side: found where they tell more together, left where they do not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from polars.testing import assert_frame_equal

import layerscout
from storage.embeddings import read_layer
from storage.layout import Layout
from storage.results import query
from tasks.choosing.choice import LayerChoice
from tasks.choosing.curve_choice import CurveChoice
from tasks.choosing.rules import DEFAULT_RULE
from tasks.choosing.together import SURE_GAIN, Together, answer_layer, grow, left_out_losses
from tasks.curves import LayerOfRun
from tasks.data.dataset import Dataset
from tasks.scoring.layer_scores import read_rows
from tasks.scoring.probe import fit_probe
from tasks.scoring.silhouette import stratified_rows
from tasks.vocabulary import NormState, Pooling, ProbeProtocol
from tests.flows.conftest import sweep_here

ROWS = 400
DATASET = Dataset(
    "path:a", "path", "a.parquet", "f", None, ("a", "b", "c", "d"), "text", "label", ROWS, 100, False
)
FIRST = LayerOfRun(Layout("nowhere"), "run", (), DATASET, Pooling.MEAN, NormState.AS_RETURNED, 2, 0)


def layer(number: int, pooling: Pooling = Pooling.MEAN) -> LayerOfRun:
    return replace(FIRST, layer=number, pooling=pooling)


def planted(
    told: dict[tuple[Pooling, int], int], depth: int, seed: int = 0
) -> tuple[dict[LayerOfRun, npt.NDArray[np.float32]], npt.NDArray[np.int64]]:
    """Layers of noise; those named tell one bit of the label, 0 … 3, each."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, ROWS)
    rows = {}
    for pooling in (Pooling.MEAN, Pooling.LAST):
        for number in range(depth):
            X = draw.standard_normal((ROWS, 6)).astype(np.float32)
            if (pooling, number) in told:
                bit = (labels >> told[pooling, number]) & 1
                X[:, 0] += 4 * bit
            rows[layer(number, pooling)] = X
    return rows, labels


def grown(
    rows: dict[LayerOfRun, npt.NDArray[np.float32]], labels: npt.NDArray[np.int64], **options: Any
) -> tuple[list[Together], set[LayerOfRun]]:
    """What was found, and which layers were read for it."""
    seen: set[LayerOfRun] = set()

    def read(each: LayerOfRun) -> npt.NDArray[np.float32]:
        seen.add(each)
        return rows[each]

    alone = left_out_losses([rows[FIRST]], labels)
    return grow(FIRST, alone, list(rows), read, labels, **options), seen


def test_the_layer_that_tells_the_rest_is_found_and_no_third_one() -> None:
    rows, labels = planted({(Pooling.MEAN, 2): 0, (Pooling.LAST, 4): 1}, depth=6)
    found, _ = grown(rows, labels)
    assert found[0].layers == (FIRST,)
    assert found[1].layers == (FIRST, layer(4, Pooling.LAST))
    assert [each.is_sure for each in found] == [True, True, False]
    assert found[1].log_loss < 0.5 * found[0].log_loss


def test_noise_beside_it_is_not_sure() -> None:
    taken = 0
    for seed in range(10):
        rows, labels = planted({(Pooling.MEAN, 2): 0}, depth=6, seed=seed)
        found, _ = grown(rows, labels)
        assert len(found) == 2
        taken += found[1].is_sure
    assert taken <= 1


@pytest.mark.parametrize("seed", range(3))
def test_few_layers_are_all_tried_and_the_gain_is_that_of_the_same_rows(seed: int) -> None:
    rows, labels = planted({(Pooling.MEAN, 2): 0, (Pooling.LAST, 1): 1}, depth=6, seed=seed)
    found, seen = grown(rows, labels, most=2)
    assert seen == set(rows)
    every = {each: left_out_losses([rows[FIRST], rows[each]], labels) for each in rows if each != FIRST}
    best = min(every, key=lambda each: every[each].mean())
    assert found[1].layers == (FIRST, best)
    less = left_out_losses([rows[FIRST]], labels) - every[best]
    assert found[1].gain == pytest.approx(less.mean(), rel=1e-9)
    assert found[1].gain_error == pytest.approx(less.std(ddof=1) / np.sqrt(ROWS), rel=1e-9)
    assert found[1].is_sure == (less.mean() > SURE_GAIN * found[1].gain_error)


def test_of_many_layers_some_are_tried_and_then_those_around_the_best() -> None:
    told = {(Pooling.MEAN, 2): 0} | {(Pooling.LAST, number): 1 for number in (16, 17, 18, 19, 20)}
    rows, labels = planted(told, depth=31)
    found, seen = grown(rows, labels, most=2)
    assert found[1].layers[1].pooling is Pooling.LAST
    assert found[1].layers[1].layer in range(16, 21)
    assert len(seen) < len(rows) / 2
    assert {layer(30), layer(30, Pooling.LAST)} <= seen


def test_no_other_layer_leaves_one() -> None:
    rows, labels = planted({(Pooling.MEAN, 2): 0}, depth=6)
    found, _ = grown({FIRST: rows[FIRST]}, labels)
    assert [each.layers for each in found] == [(FIRST,)]


def choice(
    number: int, score: float, priced: float | None = None, *, is_constant: bool = False
) -> CurveChoice:
    chosen = LayerChoice(DEFAULT_RULE, number, 0.9, 0.0, "", is_constant, score, priced)
    return CurveChoice((chosen,), {})


@pytest.mark.parametrize(
    ("of_mean", "of_last", "answer"),
    [
        (choice(3, 0.5), choice(1, 0.6), layer(1, Pooling.LAST)),
        (choice(3, 0.5), choice(1, 0.5), layer(1, Pooling.LAST)),
        (choice(3, 0.5), choice(1, 0.9, is_constant=True), layer(3)),
        # Where depth has a price, by what is left of the expected accuracy.
        (choice(0, 0.5, 0.7), choice(3, 0.6, 0.6), layer(0)),
        # Of one and the same: `last` is read before `mean`.
        (choice(2, 0.5), choice(2, 0.5), layer(2, Pooling.LAST)),
    ],
)
def test_it_starts_from_the_runs_answer(
    of_mean: CurveChoice, of_last: CurveChoice, answer: LayerOfRun
) -> None:
    every = [layer(number, pooling) for pooling in (Pooling.MEAN, Pooling.LAST) for number in range(4)]
    assert answer_layer(every, [of_mean, of_last]) == answer


def test_a_sweep_stages_what_stands_side_by_side_and_a_repeat_needs_no_embeddings(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str
) -> None:
    asked: dict[str, Any] = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}"}
    outcome = sweep_here(prefect_server, tmp_path, **asked)
    rows = outcome.tables["representation"].sort("size").to_dicts()
    audit = outcome.tables["audit"].filter("is_answer").row(0, named=True)
    choice = outcome.tables["layer_choice"].filter("is_answer").row(0, named=True)
    assert [each["size"] for each in rows] == list(range(1, len(rows) + 1))
    assert 2 <= len(rows) <= 3
    assert sum(each["is_answer"] for each in rows) == 1
    one = rows[0]
    assert (one["layers"], one["poolings"], one["norm_states"]) == (
        [choice["layer"]],
        [choice["pooling"]],
        [choice["norm_state"]],
    )
    assert one["accuracy"] == pytest.approx(audit["chosen_accuracy"])
    assert one["gain_over_last"] == pytest.approx(audit["gain_over_last"])
    assert (one["gain_over_single"], one["gain_over_single_p_value"]) == (0.0, 1.0)
    # The pair's accuracy is that of a probe on both layers' embeddings.
    row = outcome.tables["run"].row(0, named=True)
    folder = Path(outcome.layout.root, "embeddings", row["embedding_set_id"])
    dataset = outcome.tables["dataset"].row(0, named=True)
    splits = [
        read_rows(
            LayerOfRun(
                outcome.layout,
                outcome.run_id,
                tuple(str(each) for each in sorted(folder.glob("*.parquet"))),
                replace(DATASET, train_rows=dataset["train_rows"]),
                Pooling(pooling),
                NormState(state),
                number,
                0,
            )
        )
        for number, pooling, state in zip(
            rows[1]["layers"], rows[1]["poolings"], rows[1]["norm_states"], strict=True
        )
    ]
    train, test = (np.hstack([split[i].X for split in splits]) for i in (0, 1))
    probe = fit_probe(train, splits[0][0].y, test, splits[0][1].y)
    assert rows[1]["accuracy"] == pytest.approx(probe.accuracy)
    assert rows[1]["log_loss"] == pytest.approx(
        left_out_losses([split[0].X for split in splits], splits[0][0].y).mean(), rel=1e-6
    )
    assert rows[1]["log_loss_gain"] == pytest.approx(rows[0]["log_loss"] - rows[1]["log_loss"], abs=1e-6)
    # Compared is with the run's probes, whichever protocol they have.
    other = sweep_here(prefect_server, tmp_path, **asked, probe_protocol="sgd").tables["representation"]
    mirrored = fit_probe(train, splits[0][0].y, test, splits[0][1].y, protocol=ProbeProtocol.SGD)
    (two,) = other.filter(size=2).to_dicts()
    assert two["layers"] == rows[1]["layers"]
    assert two["accuracy"] == pytest.approx(mirrored.accuracy)
    # Without its embeddings the run is whole all the same.
    again = sweep_here(prefect_server, tmp_path, **asked, keep_embeddings=False)
    assert list(folder.glob("*.parquet")) == []
    third = sweep_here(prefect_server, tmp_path, **asked, keep_embeddings=False)
    assert list(folder.glob("*.parquet")) == []
    for found in (again, third):
        assert_frame_equal(
            found.tables["representation"].drop("seconds"),
            outcome.tables["representation"].drop("seconds"),
            check_row_order=False,
        )
    own = f"FROM representation WHERE run_id = '{outcome.run_id}' ORDER BY size"
    stored = query(outcome.layout.results, own)
    assert stored["layers"].to_list() == [each["layers"] for each in rows]


def test_one_layer_alone_is_one_row(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str
) -> None:
    asked: dict[str, Any] = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}", "together": 1}
    outcome = sweep_here(prefect_server, tmp_path, **asked)
    assert outcome.tables["representation"]["size"].to_list() == [1]
    assert outcome.tables["representation"]["is_answer"].to_list() == [True]


def test_of_many_rows_some_are_searched_and_losses_are_of_the_same_rows(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.choosing.together.MOST_ROWS", 60)
    answer = layerscout.sweep(
        f"path:{tiny_model}", f"path:{tiny_dataset}", pooling="mean", storage=tmp_path / "out"
    )
    two = answer.tables["representation"].filter(size=2).row(0, named=True)
    set_id = answer.tables["run"]["embedding_set_id"][0]
    uris = sorted(str(each) for each in Path(answer.layout.embedding_set(set_id)).glob("*.parquet"))
    read = [read_layer(uris, layer=i, norm_state="as_returned", pooling="mean") for i in two["layers"]]
    train = answer.tables["dataset"]["train_rows"][0]
    labels = read[0].label[:train]
    assert train > 60
    drawn = stratified_rows(labels, 60, 0)
    one, both = (
        left_out_losses([each.embeddings[:train][drawn] for each in layers], labels[drawn])
        for layers in (read[:1], read)
    )
    assert two["log_loss"] == pytest.approx(both.mean(), rel=1e-6)
    assert two["log_loss_gain"] == pytest.approx((one - both).mean(), rel=1e-5)
