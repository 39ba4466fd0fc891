"""Prompts from the command to tables, answer and exported model; and the search for the one to take."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import transformers as hf
from prefect.settings import temporary_settings
from sentence_transformers import SentenceTransformer

from flows.export import export_model
from flows.grid_parameters import GridParameters
from flows.parameters import SweepParameters
from flows.search import SearchOutcome, search
from flows.search_parameters import SearchParameters
from flows.terminal.show_search import prompt_sentence, search_as_json, show_search
from storage.embeddings import read_layer
from storage.errors import UserError
from storage.layout import Layout
from storage.results import query
from tasks.choosing.comparison import Comparison, mcnemar_mid_p
from tasks.choosing.prompt_choice import PromptAnswer, compare_prompts
from tasks.exporting.predict import embed
from tasks.reporting.answer import answer_sentence
from tasks.reporting.run_record import collect
from tests.flows.conftest import command_here, sweep_here

TEMPLATE, BEHIND = "on the wave {text} in the field", "{text} and it was"


@pytest.fixture(scope="module")
def searched(
    tiny_model: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str
) -> SearchOutcome:
    asked: dict[str, Any] = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}"}
    storage = str(tmp_path_factory.mktemp("searched"))
    with temporary_settings({"PREFECT_API_URL": prefect_server}):
        # The model has no prompt of its own: the others have their turn all the same.
        prompts = ("none", TEMPLATE, "model", BEHIND)
        return search(SearchParameters(**asked, prompt=prompts, dtype="float32", storage=storage))


def storage_of(outcome: SearchOutcome) -> Layout:
    return outcome.chosen.layout


def test_each_prompt_has_a_run_of_its_own_and_the_best_train_score_is_the_answer(
    searched: SearchOutcome,
) -> None:
    assert [each.prompt for each in searched.answers] == ["none", TEMPLATE, BEHIND]
    assert len({each.run_id for each in searched.answers}) == 3
    assert list(searched.failed) == ["model"]
    assert "brings no prompt of its own" in str(searched.failed["model"])
    (best,) = [each for each in searched.answers if each.is_answer]
    assert best.score == max(each.score for each in searched.answers)
    assert searched.chosen.run_id == best.run_id
    assert searched.answers[0].over_no_prompt is None
    # The view says the same as the search.
    rows = query(storage_of(searched).results, "FROM prompt_comparison")
    assert rows["run_id"].to_list() == [
        each.run_id for each in sorted(searched.answers, key=lambda each: -each.score)
    ]
    assert rows["is_answer"].to_list() == [True, False, False]
    by_run = {row["run_id"]: row for row in rows.iter_rows(named=True)}
    plain = searched.answers[0].accuracy
    for each in searched.answers:
        row = by_run[each.run_id]
        assert (row["chosen_layer"], row["pooling"], row["train_score"]) == (
            each.layer,
            each.pooling,
            each.score,
        )
        assert row["chosen_accuracy"] == pytest.approx(each.accuracy, abs=1e-12)
        assert row["accuracy_against_no_prompt"] == pytest.approx(each.accuracy - plain, abs=1e-12)
    templates = [by_run[each.run_id]["prompt"] for each in searched.answers]
    assert templates == [None, TEMPLATE, BEHIND]


def test_what_a_prompt_was_worth_is_counted_on_the_same_test_rows(searched: SearchOutcome) -> None:
    layout = storage_of(searched)
    right = []
    for each in searched.answers:
        part = Layout.part(each.pooling, each.norm_state, each.layer)
        rows = pl.read_parquet(layout.staged(each.run_id, "prediction", part)).sort("row_id")
        right.append((rows["label"] == rows["predicted"]).to_numpy())
    for answer, own in zip(searched.answers[1:], right[1:], strict=True):
        over = answer.over_no_prompt
        assert over is not None
        assert over.difference == pytest.approx(own.mean() - right[0].mean())
        only = int((own & ~right[0]).sum()), int((right[0] & ~own).sum())
        assert over.p_value == mcnemar_mid_p(*only)


def test_the_embeddings_are_those_of_the_whole_sentence(searched: SearchOutcome, tiny_model: Path) -> None:
    """Of a tokenizer of words, where tokenising apart and together is the same."""
    layout = storage_of(searched)
    row = query(layout.results, f"SELECT * FROM run WHERE run_id = '{searched.answers[1].run_id}'").row(
        0, named=True
    )
    shards = tuple(
        str(each)
        for each in sorted(Path(layout.root, "embeddings", row["embedding_set_id"]).glob("*.parquet"))
    )
    found = read_layer(shards, layer=2, norm_state="as_returned", pooling="last")
    texts = pl.read_parquet(layout.dataset(row["dataset_fingerprint"]))["text"]
    tokenizer = hf.AutoTokenizer.from_pretrained(tiny_model)
    model = hf.AutoModel.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for at in (0, 100, 300):
        sentence = TEMPLATE.replace("{text}", texts[int(found.row_id[at])])
        with torch.inference_mode():
            states = model(**tokenizer(sentence, return_tensors="pt"), output_hidden_states=True)
        expected = states.hidden_states[2][0, -1].numpy()
        assert np.abs(found.embeddings[at] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_answer_names_its_prompt(searched: SearchOutcome, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = answer_sentence(searched.chosen.tables)
    best = next(each for each in searched.answers if each.is_answer)
    assert ("with the prompt “" in sentence) == (best.prompt != "none")
    show_search(searched, storage_of(searched).root)
    shown = " ".join(capsys.readouterr().out.split())
    assert prompt_sentence(searched.answers) in shown
    assert "model is left out: path:" in shown
    assert sentence in shown
    told = json.loads(json.dumps(search_as_json(searched)))
    assert [each["prompt"] for each in told["prompts"]] == ["none", TEMPLATE, BEHIND]
    assert told["run_id"] == best.run_id


def test_the_winner_of_a_race_is_the_answer_whatever_its_score(searched: SearchOutcome) -> None:
    layout = storage_of(searched)
    swept = {each.prompt: collect(layout, each.run_id) for each in searched.answers}
    worst = min(searched.answers, key=lambda each: each.score).prompt
    found = compare_prompts(layout, swept, best=worst)
    assert [each.prompt for each in found if each.is_answer] == [worst]
    assert [each.score for each in found] == [each.score for each in searched.answers]


def answer(prompt: str, *, over: Comparison | None = None, is_answer: bool = True) -> PromptAnswer:
    return PromptAnswer(prompt, "run", "mean", "as_returned", 3, 0.5, 0.7, over, is_answer)


@pytest.mark.parametrize(
    ("best", "told"),
    [
        (
            answer("task", over=Comparison(0.057, 0.03, 0.08, 1e-4)),
            "Take the prompt task: 5.7 points better than without a prompt (95 % interval +3.0 to +8.0, p < 0.001).",
        ),
        (
            answer("a {text}", over=Comparison(0.01, -0.01, 0.03, 0.3)),
            "Take the prompt “a {text}”: level with no prompt within noise (+1.0 points, 95 % interval −1.0 to +3.0, "
            "p = 0.30).",
        ),
        (
            answer("task", over=Comparison(-0.02, -0.03, -0.01, 0.01)),
            "Take the prompt task: but the test rows speak against it, 2.0 points worse than without (95 % interval "
            "−3.0 to −1.0, p = 0.010).",
        ),
        (answer("task"), "Take the prompt task."),
        (answer("none"), "Take no prompt: on train rows the other does not separate better."),
    ],
)
def test_the_sentence(best: PromptAnswer, told: str) -> None:
    assert prompt_sentence([answer("other", is_answer=False), best]) == told


@pytest.mark.parametrize("pooling", ["last", "text_mean"])
def test_a_model_exported_with_its_prompt_gives_the_sweeps_embeddings(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str, pooling: str
) -> None:
    asked: dict[str, Any] = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}"}
    asked |= {"prompt": TEMPLATE, "pooling": (pooling,), "norm_state": ("final_norm",), "dtype": "float32"}
    outcome = sweep_here(prefect_server, tmp_path / "out", **asked)
    evidence = export_model(outcome.layout, outcome.run_id, tmp_path / "model")
    row = outcome.tables["run"].row(0, named=True)
    shards = tuple(
        str(each)
        for each in sorted(Path(outcome.layout.root, "embeddings", row["embedding_set_id"]).glob("*.parquet"))
    )
    swept = read_layer(shards, layer=evidence.cut.deepest, norm_state="final_norm", pooling=pooling)
    texts = pl.read_parquet(outcome.layout.dataset(row["dataset_fingerprint"]))["text"]
    some = [texts[int(each)] for each in swept.row_id[:40]]
    # The mean of a part of the tokens is pooled by code in the folder.
    model = SentenceTransformer(
        str(tmp_path / "model"), device="cpu", trust_remote_code=pooling == "text_mean"
    )
    for found in (model.encode(some), embed(tmp_path / "model", some)):
        assert np.abs(found - swept.embeddings[:40]).max() <= 1e-5 * np.abs(swept.embeddings[:40]).max()
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"puts every text into the prompt `{TEMPLATE}`" in card


def test_a_grid_may_hold_a_pair_with_several_prompts_and_once_with_each(tmp_path: Path) -> None:
    def block(prompt: str) -> dict[str, Any]:
        return {"models": ["path:a"], "datasets": ["path:b"], "sweep": {"prompt": prompt}}

    pairs = GridParameters.model_validate({"blocks": [block("none"), block("task")]}).pairs()
    assert [each.prompt for each in pairs] == ["none", "task"]
    with pytest.raises(UserError, match="path:a × path:b with task more than once"):
        GridParameters.model_validate({"blocks": [block("task"), block("task")]}).pairs()


def test_where_no_prompt_can_be_swept_with_the_first_reason_is_told(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str
) -> None:
    asked: dict[str, Any] = {"model": f"path:{tiny_model}", "dataset": f"path:{tiny_dataset}"}
    with (
        temporary_settings({"PREFECT_API_URL": prefect_server}),
        pytest.raises(UserError, match="brings no prompt of its own"),
    ):
        search(SearchParameters(**asked, prompt=("model",), storage=str(tmp_path)))


def test_what_is_no_prompt_is_refused() -> None:
    for wrong in ("query: ", "{text} and {text}", "Task"):
        with pytest.raises(ValueError, match=r"a template holds \{text\} once"):
            SweepParameters(model="path:a", dataset="path:b", prompt=wrong)
        with pytest.raises(ValueError, match="there are none, one-word, task, model"):
            SearchParameters(model="path:a", dataset="path:b", prompt=("none", wrong))


def test_a_dry_run_counts_the_prompts_tokens(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    asked = ["--model", f"path:{tiny_model}", "--dataset", f"path:{tiny_dataset}", "--dry-run"]
    prompts = ["--prompt", "none", "--prompt", TEMPLATE]
    done = command_here("search", *asked, *prompts, "--storage", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    tokens = [
        int(line.split()[1].replace(",", "")) for line in done.stdout.splitlines() if line.startswith("texts")
    ]
    assert len(tokens) == 2
    assert tokens[1] - tokens[0] == 360 * 6
    assert f"prompt     {TEMPLATE}" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_dry_run_leaves_out_what_the_search_would(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    asked = ["--model", f"path:{tiny_model}", "--dataset", f"path:{tiny_dataset}", "--dry-run"]
    asked += ["--storage", str(tmp_path / "out"), "--prompt", "model"]  # which this one does not bring
    done = command_here("search", *asked, "--prompt", "none")
    assert done.returncode == 0, done.stderr
    assert "model is left out: " in done.stdout
    assert done.stdout.count("Nothing was run") == 1
    alone = command_here("search", *asked)
    assert alone.returncode == 1
    assert "brings no prompt of its own" in alone.stderr
