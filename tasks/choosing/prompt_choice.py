"""The answers of sweeps that differ in their prompts alone: which prompt to take, and what it was worth."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt
import polars as pl
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from storage.layout import Layout
from tasks.choosing.choice import rank
from tasks.choosing.comparison import Comparison, compare
from tasks.choosing.curve_choice import right_on_test
from tasks.data.units import stored_units
from tasks.retries import RETRIED, SHORT_S
from tasks.vocabulary import NO_PROMPT


@dataclass(frozen=True)
class PromptAnswer:
    """The answer of one prompt's sweep beside the others'."""

    prompt: str
    """As it was asked for: a name or a template."""
    run_id: str
    pooling: str
    norm_state: str
    layer: int
    score: float
    """`ridge_loo_information` of left-out train rows there, at most 1: what prompts are compared by, where depth has no
    price."""
    accuracy: float
    """On test rows, 0–1."""
    over_no_prompt: Comparison | None
    """On the same test rows; None of the sweep without a prompt, and where there is no such sweep."""
    is_answer: bool
    """Whether its score is the highest, the first of equals; or it won a race."""


def compare_prompts(
    layout: Layout,
    swept: Mapping[str, Mapping[str, pl.DataFrame]],
    *,
    best: str | None = None,
) -> list[PromptAnswer]:
    """One answer a prompt, in the order of `swept`: the result tables of each prompt's run.

    Which is the answer is told by train rows alone, or has been by a race, which knows the `best`; what it was worth,
    by the predictions that the audits staged.
    """
    answers = {
        prompt: tables["layer_choice"].filter("is_answer").row(0, named=True)
        for prompt, tables in swept.items()
    }
    best = best or max(
        answers, key=lambda prompt: rank(answers[prompt]["score"], answers[prompt].get("priced_accuracy"))
    )
    right = {prompt: _right(layout, swept[prompt], answer) for prompt, answer in answers.items()}
    return [
        PromptAnswer(
            prompt=prompt,
            run_id=answer["run_id"],
            pooling=answer["pooling"],
            norm_state=answer["norm_state"],
            layer=answer["layer"],
            score=answer["score"],
            accuracy=float(right[prompt].mean()),
            over_no_prompt=compare(right[prompt], right[NO_PROMPT])
            if prompt != NO_PROMPT and NO_PROMPT in right
            else None,
            is_answer=prompt == best,
        )
        for prompt, answer in answers.items()
    ]


def _right(layout: Layout, tables: Mapping[str, pl.DataFrame], answer: Mapping[str, Any]) -> npt.NDArray[Any]:
    """As `right_on_test`, of units that are independent."""
    part = Layout.part(answer["pooling"], answer["norm_state"], answer["layer"])
    dataset = tables["dataset"].row(0, named=True)
    units = stored_units(layout.dataset(dataset["fingerprint"]))[dataset["train_rows"] :]
    return units.of(right_on_test(layout, answer["run_id"], part))


# Hashing the tables for a cache of results, which nobody reads, would cost more than passing them.
@task(name="compare-prompts", timeout_seconds=SHORT_S, cache_policy=NO_CACHE, **RETRIED)
def compare_prompts_task(
    layout: Layout, swept: Mapping[str, Mapping[str, pl.DataFrame]], best: str | None = None
) -> list[PromptAnswer]:
    """Lay the prompts side by side; show them in the Prefect UI."""
    found = compare_prompts(layout, swept, best=best)
    shown = []
    for each in found:
        row = asdict(each)
        over = row.pop("over_no_prompt") or {}
        shown.append(row | {f"over_no_prompt_{name}": value for name, value in over.items()})
    create_table_artifact(shown, key="prompts", description="What each prompt was worth.")
    answer = next(each for each in found if each.is_answer)
    get_run_logger().info("Prompt %s: layer %s, %.1f %%", answer.prompt, answer.layer, 100 * answer.accuracy)
    return found
