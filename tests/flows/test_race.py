"""A search until it is confident: few rows, who is left behind, and a sweep that anybody may ask for afterwards."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prefect.settings import temporary_settings
from pydantic import ValidationError

from flows import race as racing
from flows.export import export_model
from flows.layer_sweep import SweepOutcome
from flows.parameters import SweepParameters
from flows.race import settle_race
from flows.search import SearchOutcome, raced_search, search
from flows.search_parameters import SearchParameters
from flows.terminal.show_search import prompt_sentence, search_as_json, show_search
from flows.unrecorded_sweep import unrecorded_sweep
from storage.errors import UserError
from storage.layout import Layout
from storage.results import query
from tasks.choosing import race as choosing
from tasks.choosing.prompt_choice import compare_prompts
from tasks.data.dataset import prepare_dataset
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.shards import Shard
from tasks.reporting.answer import answer_sentence
from tasks.scoring.left_out import FirstRows
from tasks.vocabulary import NormState, Pooling, Task
from tests.conftest import labelled_text
from tests.flows.conftest import ask, sweep_here, tables

TRAIN_ROWS, TEST_ROWS = 2_400, 150
PROMPTS = ("none", "{text} and it was")


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many-rows")
    labelled_text(TRAIN_ROWS, seed=1).write_csv(folder / "train.csv")
    labelled_text(TEST_ROWS, seed=2).write_csv(folder / "test.csv")
    return folder


@pytest.fixture(scope="module")
def asked(tiny_model: Path, many_rows: Path) -> dict[str, Any]:
    return {"model": f"path:{tiny_model}", "dataset": f"path:{many_rows}", "dtype": "float32"}


@pytest.fixture(scope="module")
def raced(
    asked: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> SearchOutcome:
    """Of rows that are called many here, so that nobody has to ask for it."""
    storage = str(tmp_path_factory.mktemp("raced"))
    with temporary_settings({"PREFECT_API_URL": prefect_server}), pytest.MonkeyPatch.context() as patched:
        patched.setattr(racing, "WORTH_A_RACE", TRAIN_ROWS - 1)
        return search(SearchParameters(**asked, prompt=(*PROMPTS, "model"), storage=storage))


def winner(outcome: SearchOutcome) -> str:
    (best,) = [each.prompt for each in outcome.answers if each.is_answer]
    return best


def steps_of(outcome: SearchOutcome) -> pl.DataFrame:
    return query(outcome.chosen.layout.results, "FROM race_step ORDER BY step, expected_accuracy DESC")


def embedded_rows(layout: Layout) -> dict[str, int]:
    """Rows that were computed for each embedding set; copies have the same seconds as what they were copied from."""
    found: dict[str, dict[float, int]] = {}
    for record in Path(layout.root, "embeddings").rglob("shard_*.json"):
        told = json.loads(record.read_text())
        found.setdefault(record.parent.name, {})[told["seconds"]] = told["rows"]
    return {name: sum(rows.values()) for name, rows in found.items()}


def test_it_ends_with_few_rows_and_says_why(raced: SearchOutcome) -> None:
    steps = steps_of(raced)
    assert steps["train_rows"].unique().sort().to_list() == [500, 1_000]
    assert steps["train_rows_in_all"].unique().to_list() == [TRAIN_ROWS]
    assert steps.filter("is_leader")["ended_by"].to_list() == [None, "confidence"]
    assert steps.filter("is_leader")["chance"][-1] >= 0.9
    # Words of their class stand anywhere in a text: its last word alone tells little.
    first = steps.filter(step=1)
    assert first.filter(~pl.col("stays"))["pooling"].unique().to_list() == ["last"]
    assert set(steps.filter(step=2).select("prompt", "pooling").iter_rows()) == set(
        first.filter("stays").select("prompt", "pooling").iter_rows()
    )
    assert list(raced.failed) == ["model"]
    sentence = answer_sentence(raced.chosen.tables)
    expected = steps.filter("is_leader")["expected_accuracy"][-1]
    assert (
        "1,000 of 2,400 train rows were enough to tell; with all of them ridge regression is expected to be right on "
        f"{100 * expected:.1f} %." in sentence
    )
    assert "It is judged by" not in sentence
    assert steps.filter("is_leader")["test_rows"].to_list() == [None, TEST_ROWS]


def test_what_all_rows_promise_is_told_of_the_leader(raced: SearchOutcome) -> None:
    """Whoever else is left in the last step, which ends with the one that is expected to do worst."""
    tables = raced.chosen.tables
    last = tables["race_step"].filter(pl.col("step") == 2)
    loser = last.filter("is_leader").with_columns(
        is_leader=False, expected_accuracy=0.1, norm_state=pl.lit("final_norm")
    )
    with_loser = {**tables, "race_step": pl.concat([tables["race_step"], loser])}
    assert answer_sentence(with_loser) == answer_sentence(tables)


def test_its_answer_is_judged_by_no_more_test_rows_than_the_interval_takes(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which train rows alone have said, and no test row was looked at to know when to stop."""
    # Wider than a sweep asks for: those of 3,600 rows, and not of 30,000.
    monkeypatch.setattr(choosing, "GAIN_WITHIN", 0.03)
    monkeypatch.setattr(choosing, "ACCURACY_WITHIN", 0.04)
    labelled_text(TRAIN_ROWS, seed=1).write_csv(tmp_path / "train.csv")
    labelled_text(3_600, seed=2).write_csv(tmp_path / "test.csv")
    parameters = SweepParameters(
        **asked | {"dataset": f"path:{tmp_path}"}, until_confident=0.6, storage=f"{tmp_path}/out"
    )
    outcome = unrecorded_sweep(parameters)
    audit = outcome.tables["audit"].filter("is_answer").row(0, named=True)
    probes = outcome.tables["probe"].filter(pooling=audit["pooling"])
    probe = probes.filter(layer=audit["chosen_layer"]).row(0, named=True)
    assert 500 <= probe["n_test"] < 3_600
    half = (audit["gain_high"] - audit["gain_low"]) / 2
    of_accuracy = (probe["accuracy_high"] - probe["accuracy_low"]) / 2
    # One of the two is as wide as was asked for, as nearly as left-out train rows can tell.
    assert max(half / 0.03, of_accuracy / 0.04) == pytest.approx(1, rel=0.25)
    last = outcome.tables["race_step"].sort("step").row(-1, named=True)
    assert (last["test_rows"], last["test_rows_in_all"]) == (probe["n_test"], 3_600)
    assert f"It is judged by {probe['n_test']:,} of 3,600 test rows." in answer_sentence(outcome.tables)
    # Its rows are those of the sweep that anybody may ask for.
    assert outcome.raced is not None
    by_hand = outcome.raced.parameters
    assert by_hand.max_test_rows == probe["n_test"]
    again = unrecorded_sweep(by_hand.model_copy(update={"storage": f"{tmp_path}/again"}))
    assert again.run_id == outcome.run_id
    assert again.tables["audit"].equals(outcome.tables["audit"])


def test_whoever_asks_for_so_many_test_rows_gets_them(asked: dict[str, Any], tmp_path: Path) -> None:
    few = SweepParameters(**asked, until_confident=0.6, max_test_rows=90, storage=str(tmp_path))
    outcome = unrecorded_sweep(few)
    assert outcome.tables["dataset"]["test_rows"].item() == 90
    assert "It is judged by" not in answer_sentence(outcome.tables)


def test_no_row_is_embedded_that_it_did_not_take_and_none_twice(raced: SearchOutcome) -> None:
    layout = raced.chosen.layout
    assert raced.chosen.raced is not None
    rows = embedded_rows(layout)
    for prompt, entry in raced.chosen.raced.entries.items():
        taken = steps_of(raced).filter(prompt=prompt)["train_rows"].max()
        assert rows.pop(entry.planned.id) == taken
    # The sweep's own set: the train rows are copies, the test rows are its own.
    ((swept, of_swept),) = rows.items()
    assert of_swept == 1_000 + TEST_ROWS
    begun = Path(layout.shard(raced.chosen.raced.begun.id, 0))
    assert Path(layout.shard(swept, 0)).read_bytes() == begun.read_bytes()


def test_what_follows_is_an_ordinary_sweep_that_anybody_may_ask_for(
    raced: SearchOutcome, asked: dict[str, Any], prefect_server: str, tmp_path: Path
) -> None:
    """With the very rows, and so the very tables, but for the steps that led to it."""
    prompt = winner(raced)
    outcome = sweep_here(
        prefect_server,
        tmp_path,
        **asked,
        prompt=prompt,
        max_train_rows=1_000,
        row_order="sampled",
        max_length=128,
    )
    assert outcome.raced is None
    ours, theirs = tables(raced.chosen.layout.root), tables(tmp_path)
    steps = ours.pop("race_step")
    assert len(steps)
    assert theirs.pop("race_step").is_empty()
    by_hand = json.loads(theirs["run"]["parameters"].item())
    assert json.loads(ours["run"]["parameters"].item()) == by_hand
    for name in ("silhouette", "criterion", "layer_choice", "baseline"):
        drop = [each for each in ("run_id",) if each in ours[name].columns]
        assert ours[name].drop(drop).equals(theirs[name].drop(drop)), name


def test_without_a_record_it_finds_the_same(
    raced: SearchOutcome, asked: dict[str, Any], tmp_path: Path
) -> None:
    """And embeddings that are not to be kept are gone, of every prompt, while a repeat finds what was left out."""
    search_again = SearchParameters(
        **asked, prompt=PROMPTS, until_confident=0.9, storage=str(tmp_path), keep_embeddings=False
    )
    outcome = unrecorded_sweep(*search_again.sweeps())
    assert outcome.run_id == raced.chosen.run_id
    assert outcome.tables["race_step"].equals(raced.chosen.tables["race_step"])
    assert not list(Path(tmp_path, "embeddings").rglob("shard_*.parquet"))
    again = unrecorded_sweep(*search_again.sweeps())
    assert again.tables["race_step"].equals(outcome.tables["race_step"])
    assert not list(Path(tmp_path, "embeddings").rglob("shard_*.parquet"))


def test_what_the_prompt_that_won_is_worth_is_told_by_the_same_rows_without_one(
    asked: dict[str, Any], tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last word of a text tells little of its class, and one that stands behind all of them sees the others."""
    asked = asked | {"pooling": ("last",), "together": 1, "until_confident": 0.9}
    parameters = SearchParameters(**asked, prompt=PROMPTS, storage=f"{tmp_path}/out")
    with temporary_settings({"PREFECT_API_URL": prefect_server}):
        found = search(parameters)
    plain, best = found.answers
    assert ([plain.prompt, best.prompt], best.is_answer, plain.is_answer) == ([*PROMPTS], True, False)
    assert best.over_no_prompt is not None
    assert best.over_no_prompt.difference == pytest.approx(best.accuracy - plain.accuracy)
    assert best.over_no_prompt.low > 0
    # An ordinary run, some of whose embeddings the race had.
    layout, raced = found.chosen.layout, found.chosen.raced
    assert raced is not None
    both = query(layout.results, "FROM prompt_comparison ORDER BY prompt NULLS FIRST")
    assert both["run_id"].to_list() == [plain.run_id, best.run_id]
    assert both["is_answer"].to_list() == [False, True]
    assert both["accuracy_against_no_prompt"][1] == pytest.approx(best.over_no_prompt.difference)
    set_id = query(layout.results, f"SELECT embedding_set_id FROM run WHERE run_id = '{plain.run_id}'").item()
    begun = raced.entries["none"].planned
    assert set_id != begun.id
    assert Path(layout.shard(set_id, 0)).read_bytes() == Path(layout.shard(begun.id, 0)).read_bytes()
    show_search(found, layout.root)
    assert prompt_sentence(found.answers) in " ".join(capsys.readouterr().out.split())
    # And the same without a record, with embeddings that are not kept.
    again = parameters.model_copy(update={"storage": f"{tmp_path}/again", "keep_embeddings": False})
    unrecorded = raced_search(again, unrecorded_sweep, unrecorded_sweep, compare_prompts)
    assert unrecorded.answers == found.answers
    assert not list(Path(tmp_path, "again", "embeddings").rglob("shard_*.parquet"))


def test_a_race_is_told_where_nothing_is_had_without_a_prompt(asked: dict[str, Any], tmp_path: Path) -> None:
    asked = asked | {"pooling": ("last",), "together": 1, "until_confident": 0.9}
    parameters = SearchParameters(**asked, prompt=PROMPTS, storage=str(tmp_path))

    def fails(asked: SweepParameters, begun: EmbeddingSet | None) -> SweepOutcome:
        assert (asked.prompt, begun is None) == ("none", False)
        raise UserError("every text is the same")

    found = raced_search(parameters, unrecorded_sweep, fails, compare_prompts)
    assert [each.prompt for each in found.answers] == [PROMPTS[1]]
    assert {prompt: str(error) for prompt, error in found.failed.items()} == {
        "none": "every text is the same"
    }


def test_a_killed_race_goes_on_with_what_it_had(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "WORTH_A_RACE", TRAIN_ROWS - 1)
    parameters = SweepParameters(**asked, storage=str(tmp_path))
    judged = racing.judge_step

    def struck(rows: int, *others: Any) -> Any:
        if rows == 1_000:
            raise KeyboardInterrupt
        return judged(rows, *others)

    monkeypatch.setattr(racing, "judge_step", struck)
    with pytest.raises(KeyboardInterrupt):
        unrecorded_sweep(parameters)
    written = {each: each.stat().st_mtime_ns for each in Path(tmp_path, "embeddings").rglob("*.parquet")}
    assert any("left_out" in str(each) for each in written)
    monkeypatch.setattr(racing, "judge_step", judged)
    outcome = unrecorded_sweep(parameters)
    assert outcome.raced is not None
    assert [step.rows for step in outcome.raced.course.steps] == [500, 1_000]
    assert all(each.stat().st_mtime_ns == then for each, then in written.items())


def test_a_budget_ends_it(asked: dict[str, Any], tmp_path: Path) -> None:
    outcome = unrecorded_sweep(
        SweepParameters(**asked, until_confident=0.85, budget=1e-6, storage=str(tmp_path))
    )
    assert outcome.raced is not None
    assert (outcome.raced.course.ended_by, len(outcome.raced.course.steps)) == ("budget", 1)
    assert "The budget was spent after 500 of 2,400 train rows." in answer_sentence(outcome.tables)


def test_a_race_reads_the_rows_that_it_says_where_a_sweep_was_before(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose shards end where they please; and a sweep after a race finds its own."""
    monkeypatch.setattr(racing, "step_sizes", lambda *_: [300, 700, TRAIN_ROWS])
    asked = asked | {"pooling": ("mean",), "together": 1}
    before = unrecorded_sweep(SweepParameters(**asked, row_order="sampled", storage=f"{tmp_path}/both"))
    parameters = SweepParameters(**asked, until_confident=0.85)
    apart = unrecorded_sweep(parameters.model_copy(update={"storage": f"{tmp_path}/apart"}))
    found = unrecorded_sweep(parameters.model_copy(update={"storage": f"{tmp_path}/both"}))
    assert found.run_id == apart.run_id != before.run_id
    assert found.tables["race_step"].equals(apart.tables["race_step"])
    assert found.tables["race_step"]["train_rows"].to_list() == [300, 700]


def test_rows_that_no_shard_ends_with_are_an_error(tmp_path: Path) -> None:
    """In the place of fewer rows than were asked for."""
    shards = (Shard(0, 0, 400, 4_000), Shard(1, 400, 900, 5_000))
    planned = EmbeddingSet("set", 1_024, 900, 9_000, 0.0, False, shards)
    first = FirstRows(Layout(str(tmp_path)), planned, Pooling.MEAN, NormState.AS_RETURNED, (0,), 400)
    assert len(first.shard_uris) == 1
    for rows in (300, 500, 1_000):
        with pytest.raises(
            ValueError, match=f"no shard of embedding set set ends with its first {rows} rows"
        ):
            _ = replace(first, rows=rows).shard_uris


def test_few_rows_are_all_read_at_once_and_deleted_once(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str
) -> None:
    asked = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}", "keep_embeddings": False}
    outcome = sweep_here(prefect_server, tmp_path, **asked, until_confident=0.6)
    assert not list(Path(tmp_path, "embeddings").rglob("shard_*.parquet"))
    assert outcome.raced is not None
    assert [step.rows for step in outcome.raced.course.steps] == [240]
    assert "It took all 240 train rows." in answer_sentence(outcome.tables)


def test_an_exports_head_is_fitted_to_all_rows_where_that_is_asked_for(
    raced: SearchOutcome, asked: dict[str, Any], many_rows: Path, tmp_path: Path
) -> None:
    layout, run_id = raced.chosen.layout, raced.chosen.run_id
    found = export_model(layout, run_id, tmp_path / "model", all_rows=True)
    # The probe of a sweep that reads all rows in the same turn.
    all_read = {"row_order": "sampled", "max_length": 128, "until_confident": "never", "together": 1}
    whole = unrecorded_sweep(
        SweepParameters(**asked, **all_read, prompt=winner(raced), storage=f"{tmp_path}/out")
    )
    state = found.cut.states[0]
    probe = whole.tables["probe"].filter(pooling=state.pooling.value, layer=state.layer)
    assert (found.train_rows, found.accuracy) == (TRAIN_ROWS, pytest.approx(probe["accuracy"].item()))
    told = "The head is fitted to all 2,400 train rows, of which the run read 1,000"
    assert told in (tmp_path / "model" / "README.md").read_text()
    assert json.loads((tmp_path / "model" / "head" / "head.json").read_text())["train_rows"] == TRAIN_ROWS
    # The embeddings that it took are gone, those of the run are there.
    assert {each.parent.name for each in Path(layout.root, "embeddings").rglob("shard_*.parquet")} == {
        *(each.planned.id for each in raced.chosen.raced.entries.values()),
        raced.chosen.tables["run"]["embedding_set_id"].item(),
    }


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_head_of_other_rows_than_were_audited_is_refused(
    raced: SearchOutcome, many_rows: Path, tmp_path: Path, split: str
) -> None:
    file = many_rows / f"{split}.csv"
    kept = file.read_bytes()
    pl.read_csv(file).with_columns(text=pl.col("text") + " anew").write_csv(file)
    try:
        with pytest.raises(UserError, match=r"has other rows than run .* \(--all-rows\)"):
            export_model(raced.chosen.layout, raced.chosen.run_id, tmp_path / "model", all_rows=True)
    finally:
        file.write_bytes(kept)


def test_its_steps_are_shown_in_terminal_report_and_prefect(
    raced: SearchOutcome, capsys: pytest.CaptureFixture[str], prefect_server: str
) -> None:
    show_search(raced, raced.chosen.layout.root)
    shown = " ".join(capsys.readouterr().out.split())
    assert "train rows layer expected near the best leader left behind" in shown
    assert "no prompt, last" in shown
    told = json.loads(json.dumps(search_as_json(raced)))
    assert [each["train_rows"] for each in told["race"] if each["is_leader"]] == [500, 1_000]
    page = Path(raced.chosen.files.html).read_text(encoding="utf-8")
    assert "How many rows it took" in page
    filters = {"artifacts": {"key": {"any_": ["race"]}, "flow_run_id": {"any_": [raced.chosen.flow_run_id]}}}
    artifacts = ask(prefect_server, "artifacts/filter", filters)
    assert len(artifacts) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"within": 1.0}, "until a confidence is reached: say which"),
        ({"budget": 10.0, "until_confident": "never"}, "until a confidence is reached: say which"),
        ({"model": "states:file.npz", "until_confident": 0.8, "pooling": "mean"}, "no row is left to embed"),
        ({"until_confident": 0.4}, "greater than or equal to 0.5"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(changed: dict[str, Any], message: str) -> None:
    pooling = {"pooling": ("mean",)} if "pooling" in changed else {}
    with pytest.raises(ValidationError, match=message):
        SweepParameters(**({"model": "path:model", "dataset": "path:data"} | changed | pooling))


@pytest.mark.parametrize(
    ("changed", "of_rows", "settled"),
    [
        ({}, {"train_rows": 5_001}, 0.9),
        ({}, {"train_rows": 5_000}, "never"),
        ({"max_train_rows": 9_000}, {"train_rows": 9_000}, "never"),
        ({"until_confident": "never"}, {"train_rows": 9_000}, "never"),
        ({"until_confident": None}, {"train_rows": 9_000}, "never"),  # as before there was a default
        ({"until_confident": 0.9, "max_train_rows": 400}, {"train_rows": 400}, 0.9),
        ({}, {"train_rows": 9_000, "weight_column": "weight"}, "never"),
        ({}, {"train_rows": 9_000, "group_column": "author"}, "never"),
        ({}, {"train_rows": 9_000, "task": Task.REGRESSION}, "never"),
        ({}, {"train_rows": 9_000, "task": Task.TOKEN_CLASSIFICATION, "words": "words.parquet"}, "never"),
        (
            {"model": "states:file.npz", "pooling": ("mean",), "dtype": "auto"},
            {"train_rows": 9_000},
            "never",
        ),
    ],
)
def test_many_rows_that_may_race_do_unless_it_is_said_how_many(
    asked: dict[str, Any],
    changed: dict[str, Any],
    of_rows: dict[str, Any],
    settled: float | str,
    tmp_path: Path,
) -> None:
    dataset = replace(prepare_dataset(asked["dataset"], Layout(str(tmp_path))), **of_rows)
    parameters = SweepParameters(**asked | {"storage": str(tmp_path)} | changed)
    assert settle_race(parameters, dataset) == parameters.model_copy(update={"until_confident": settled})
