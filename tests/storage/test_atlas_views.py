"""The views `atlas` and `pareto` against loops over the rows of random runs."""

import json
import random
from pathlib import Path

import polars as pl
import pytest

from storage.results import merge, query
from tests.storage.sweep_rows import sweep_rows

HALF_A_POINT = 0.005
DEVICES = {"a": "cpu", "b": "cpu", "c": "cuda", "d": "cpu", "saved": "cpu", "cut": "cpu"}


Drawn = tuple[str, dict[str, dict[str, pl.DataFrame]]]
"""The database, and the tables that were merged into it by run."""


def a_run(run_id: str, draw: random.Random, layers: int) -> dict[str, pl.DataFrame]:
    """As many runs are: of a shared data set and a model of its own, with accuracies among which there are ties."""
    accuracy = tuple(draw.randrange(500, 530) / 1000 for _ in range(layers + 1))
    rows = sweep_rows(run_id, layers=layers, accuracy=accuracy)
    best = accuracy.index(max(accuracy))
    audit = rows["audit"].with_columns(
        best_layer=pl.lit(best), best_accuracy=pl.lit(max(accuracy)), regret=max(accuracy) - accuracy[2]
    )
    shared = {"dataset_fingerprint": pl.lit("same rows"), "device_kind": pl.lit(DEVICES[run_id])}
    described = {"dtype": pl.lit("float32"), "model_revision": pl.lit(run_id)}
    asked = json.dumps({"max_layer": 3} if run_id == "cut" else {"max_layer": None})
    return rows | {
        "audit": audit,
        "run": rows["run"].with_columns(parameters=pl.lit(asked), **shared, **described),
        "model": rows["model"].with_columns(revision=pl.lit(run_id), family=pl.lit(f"family {run_id}")),
        "dataset": rows["dataset"].with_columns(fingerprint=pl.lit("same rows")),
        "embedding_set": rows["embedding_set"].with_columns(
            tokens=pl.lit(0 if run_id == "saved" else draw.randrange(1_000, 9_000)),
            seconds=pl.lit(draw.uniform(1, 9)),
        ),
        "score_audit": rows["score_audit"].clear(),
        "zone_audit": rows["zone_audit"].clear(),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    draw = random.Random(0)
    runs = {run_id: a_run(run_id, draw, draw.randrange(4, 9)) for run_id in DEVICES}
    place = str(tmp_path_factory.mktemp("atlas") / "results.duckdb")
    for run_id, rows in runs.items():
        merge(place, run_id, rows)
    return place, runs


def by_run(rows: list[dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        found.setdefault(str(row["run_id"]), []).append(row)
    return found


def test_the_atlas_says_of_every_layer_what_a_loop_over_its_curve_says(drawn: Drawn) -> None:
    place, runs = drawn
    told = by_run(query(place, "SELECT * FROM atlas").to_dicts())
    assert set(told) == set(runs)
    for run_id, tables in runs.items():
        accuracy = tables["probe"]["accuracy"].to_list()
        layers = len(accuracy) - 1
        embedded = tables["embedding_set"].row(0, named=True)
        assert [row["layer"] for row in told[run_id]] == list(range(layers + 1))
        for layer, row in enumerate(told[run_id]):
            assert row["depth"] == pytest.approx(layer / layers)
            assert row["accuracy"] == accuracy[layer]
            assert row["regret"] == pytest.approx(max(accuracy) - accuracy[layer])
            assert row["gain_over_last"] == pytest.approx(accuracy[layer] - accuracy[-1])
            assert row["is_best"] == (layer == accuracy.index(max(accuracy)))
            assert row["is_chosen"] == row["is_turning"] == (layer == 2)
            assert row["is_answer"]
            assert (row["family"], row["kind"], row["classes"]) == (f"family {run_id}", "two classes", 2)
            assert row["text_tokens"] == (embedded["tokens"] / embedded["rows"] or None)


def test_the_front_and_the_cheapest_near_the_best_are_those_of_a_search_through_all(drawn: Drawn) -> None:
    place, runs = drawn
    cuts = []
    for run_id, tables in runs.items():
        embedded, layers = tables["embedding_set"].row(0, named=True), tables["run"]["layers"].item()
        blocks = min(3, layers) if run_id == "cut" else layers
        for layer, accuracy in enumerate(tables["probe"]["accuracy"]):
            if embedded["tokens"]:
                cost = 1000 * embedded["seconds"] / embedded["rows"] * layer / blocks
                cuts.append((run_id, layer, cost, accuracy))
    told = {(row["run_id"], row["layer"]): row for row in query(place, "SELECT * FROM pareto").to_dicts()}
    assert set(told) == {cut[:2] for cut in cuts}
    nearest = 0
    for run_id, layer, cost, accuracy in cuts:
        row = told[run_id, layer]
        beside = [each for each in cuts if DEVICES[each[0]] == DEVICES[run_id]]
        best = max(each[3] for each in beside)
        better = [
            each
            for each in beside
            if each[2] <= cost * (1 + 1e-12)
            and each[3] >= accuracy
            and (each[2] < cost * (1 - 1e-12) or each[3] > accuracy)
        ]
        near = [each for each in beside if best - each[3] <= HALF_A_POINT + 1e-9]
        cheapest = min(near, key=lambda each: (each[2], -each[3], each[0]))
        assert row["milliseconds_per_text"] == pytest.approx(cost)
        assert row["below_best"] == pytest.approx(best - accuracy)
        assert row["on_front"] == (not better)
        assert row["is_cheapest_near_best"] == (cheapest[:2] == (run_id, layer))
        assert row["is_chosen"] == (layer == 2)
        nearest += row["is_cheapest_near_best"]
    assert nearest == len(set(DEVICES.values()))


def test_one_model_costs_the_same_for_a_token_whatever_a_single_run_took(tmp_path: Path) -> None:
    draw, place = random.Random(2), str(tmp_path / "results.duckdb")
    embedded = {"a": (2_000, 4.0), "b": (6_000, 4.0)}
    for run_id, (tokens, seconds) in embedded.items():
        rows = a_run(run_id, draw, 4)
        merge(
            place,
            run_id,
            rows
            | {
                "run": rows["run"].with_columns(model_revision=pl.lit("m")),
                "model": rows["model"].with_columns(revision=pl.lit("m")),
                "embedding_set": rows["embedding_set"].with_columns(
                    tokens=pl.lit(tokens), seconds=pl.lit(seconds)
                ),
            },
        )
    told = query(place, "SELECT run_id, milliseconds_per_text FROM pareto WHERE layer = 4 ORDER BY run_id")
    assert told["milliseconds_per_text"].to_list() == pytest.approx(
        [1000 * tokens / 150 * 8.0 / 8_000 for tokens, _ in embedded.values()]
    )
