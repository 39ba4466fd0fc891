"""What a sweep may be asked for, and what of it makes the run another one."""

import inspect
import json
import re
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from flows.cli import app
from flows.parameters import SweepParameters
from flows.run_id import describe_run
from flows.search_parameters import SearchParameters, with_prompts_of
from flows.settled import scoring_of
from storage.errors import UserError
from storage.migrations import result_tables
from tasks.data.dataset import prepare_dataset_task
from tasks.scoring.criteria import CRITERIA
from tasks.vocabulary import NormState, Pooling, Precision, ProbeProtocol


def asked(**changed: object) -> SweepParameters:
    return SweepParameters(model="path:model", dataset="path:data", **changed)


def test_the_description_names_every_criterion() -> None:
    words = re.findall(r"\w+", SweepParameters.model_fields["criterion"].description or "")
    assert sorted({word for word in words if "_" in word or word in CRITERIA}) == sorted(CRITERIA)


def test_names_may_be_spelt_as_help_spells_them() -> None:
    spelt = asked(pooling=("mean-tail", "mean_tail"), norm_state=["as-returned"])
    assert (spelt.pooling, spelt.norm_state) == ((Pooling.MEAN_TAIL,), (NormState.AS_RETURNED,))


def test_criteria_come_once_each_and_with_those_of_every_choice() -> None:
    always = ("ridge_loo", "ridge_loo_information")
    assert asked(criterion=("knn_loo", "logme", "knn_loo")).criterion == (*always, "knn_loo", "logme")
    assert asked(criterion=("logme", "ridge_loo")).criterion == (*always, "logme")


def test_criteria_are_part_of_the_run_and_their_order_is_not() -> None:
    default = describe_run(asked(), "set")
    turned = asked(criterion=("whitened_silhouette", "logme"))
    assert describe_run(turned, "set") == default
    assert describe_run(asked(criterion=("logme",)), "set").id != default.id
    assert default.parameters["criterion"] == [
        "logme",
        "ridge_loo",
        "ridge_loo_information",
        "whitened_silhouette",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"probe_protocol": ProbeProtocol.SGD},
        {"silhouette_rows": 1_000},
        {"silhouette_precision": Precision.FAST},
    ],
)
def test_what_changes_a_score_makes_another_run(changed: dict[str, object]) -> None:
    assert scoring_of(asked(**changed)) != scoring_of(asked())
    assert describe_run(asked(**changed), "set").id != describe_run(asked(), "set").id


def test_no_integer_is_taken_that_its_column_cannot_hold() -> None:
    """It would be found out at the merge, when all is computed."""
    columns = {name: kind for table in result_tables().values() for name, kind in table.columns.items()}
    form = SweepParameters.model_json_schema()["properties"]
    integers = [name for name, field in form.items() if '"integer"' in json.dumps(field)]
    assert {"token_budget", "max_length", "max_layer", "seed"} <= set(integers)
    for name in integers:
        largest = 2**31 - 1 if columns.get(name, pl.Int32) == pl.Int32 else 2**63 - 1
        largest = 2**63 - 1 if name in ("max_train_rows", "max_test_rows", "silhouette_rows") else largest
        with pytest.raises(ValidationError, match="less than or equal to"):
            asked(**{name: largest + 1})


def test_looking_at_attention_as_by_default_leaves_a_run_its_id() -> None:
    assert "attention_rows" not in describe_run(asked(), "set").parameters
    assert describe_run(asked(attention_rows=300), "set").id != describe_run(asked(), "set").id


@pytest.mark.parametrize("column", ["split_column", "group_column", "time_column"])
def test_a_column_that_splits_rows_is_part_of_a_run_where_it_is_named(column: str) -> None:
    assert column not in describe_run(asked(), "set").parameters
    named = describe_run(asked(**{column: "x"}), "set")
    assert (named.parameters[column], named.id != describe_run(asked(), "set").id) == ("x", True)


def test_the_task_that_prepares_a_data_set_takes_what_is_asked_of_its_rows() -> None:
    taken = set(inspect.signature(prepare_dataset_task.fn).parameters)
    assert taken == {"spec", "layout", *asked().rows_asked}


def test_a_price_on_depth_makes_another_run_of_the_same_scores() -> None:
    assert scoring_of(asked(depth_price=1.0)) == scoring_of(asked())
    assert asked(depth_price=3.0).price_of_depth(6) == pytest.approx(0.03)
    # It is for all blocks of the model, of which half run.
    assert asked(depth_price=3.0, max_layer=3).price_of_depth(6) == pytest.approx(0.015)
    assert describe_run(asked(depth_price=1.0), "set").id != describe_run(asked(), "set").id


def searched(**changed: object) -> SearchParameters:
    return SearchParameters(model="path:model", dataset="path:data", **changed)


def test_prompts_come_from_a_file_beside_those_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffTweet: {text}\\nIts emotion is\n\n tasks\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3: 'tasks' is no prompt"):
        with_prompts_of(searched(), file)
    file.write_text("Tweet: {text}\\nIts emotion is\n\n  task\n")
    ours = ("Tweet: {text}\nIts emotion is", "task")
    assert with_prompts_of(searched(), file).prompt == ("none", *ours)
    assert with_prompts_of(searched(prompt=("one-word", "task")), file).prompt == (
        "one-word",
        "task",
        ours[0],
    )
    # Those that are the default are asked for as well, where they are named.
    named = with_prompts_of(searched(prompt=("none", "one-word", "task")), file).prompt
    assert named == ("none", "one-word", "task", ours[0])


def test_the_command_line_says_which_prompts_were_asked_for() -> None:
    plain = ["search", "--model", "path:model", "--dataset", "path:data"]
    for flags, asked in (
        ([], False),
        (["--prompt", "none", "--prompt", "one-word", "--prompt", "task"], True),
    ):
        _, bound, _ = app.parse_args([*plain, *flags], exit_on_error=False, print_error=False)
        assert ("prompt" in bound.arguments["parameters"].model_fields_set) == asked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"\n \n", "holds no prompt"),
        (b"a\n", "line 1: 'a' is no"),
    ],
)
def test_a_file_without_prompts_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"prompts.txt .--prompt-file.*{message}"):
        with_prompts_of(searched(), tmp_path / "prompts.txt")


def test_one_text_column_is_recorded_as_it_was_before_there_could_be_several() -> None:
    default = describe_run(asked(), "set")
    assert default.parameters["text_column"] is None
    assert "joined_by" not in default.parameters
    one = describe_run(asked(text_column="body"), "set")
    assert one == describe_run(asked(text_column=("body",)), "set")
    assert one.parameters["text_column"] == "body"
    several = describe_run(asked(text_column=("a", "b")), "set")
    assert (several.parameters["text_column"], several.parameters["joined_by"]) == (["a", "b"], "\n")
    assert several.id != describe_run(asked(text_column=("a", "b"), joined_by=" "), "set").id


def test_a_race_and_the_order_of_rows_are_not_part_of_a_run_that_asks_for_neither() -> None:
    default = describe_run(asked(), "set")
    assert describe_run(asked(until_confident=0.8, within=1.0, budget=3.0), "set") == default
    assert not {"until_confident", "within", "budget", "row_order"} & default.parameters.keys()
    assert describe_run(asked(row_order="sampled"), "set").id != default.id


def test_a_chat_is_a_prompt_of_its_own_beside_the_plain_one() -> None:
    found = SearchParameters(
        model="path:model", dataset="path:data", prompt=("none", "chat:task", "a {text}"), chat=True
    )
    expected = ["none", "chat:task", "a {text}", "chat:none", "chat:a {text}"]
    assert [each.prompt for each in found.sweeps()] == expected
    with pytest.raises(ValidationError, match="no prompt; a template holds"):
        asked(prompt="chat:words")
