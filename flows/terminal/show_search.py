"""What the terminal shows of a search."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.search import SearchOutcome
from flows.terminal.query_rows import printable
from flows.terminal.show_sweep import outcome_as_json, show_outcome
from tasks.choosing.prompt_choice import PromptAnswer
from tasks.reporting.answer import one_line, p_value, percent, points, shortened
from tasks.reporting.layer_curves import answer_curves
from tasks.vocabulary import CHAT, NO_PROMPT, PROMPTS


def show_search(outcome: SearchOutcome, storage: str) -> None:
    """What each prompt was worth, of a race the one that won; then its sweep, as a sweep alone is shown."""
    console = Console(highlight=False)
    is_compared = outcome.chosen.raced is None or len(outcome.answers) > 1
    if is_compared:
        console.print(_worth(outcome))
    for prompt, error in outcome.failed.items():
        console.print(Text(printable(f"{one_line(prompt)} is left out: {error}")), soft_wrap=True)
    if is_compared:
        console.print()
        console.print(Text(printable(prompt_sentence(outcome.answers))), soft_wrap=True)
    if is_compared or outcome.failed:
        console.print()
    show_outcome(outcome.chosen, storage)


def _worth(outcome: SearchOutcome) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    measured = f"test {answer_curves(outcome.chosen.tables).measure.name}"
    for heading in ("prompt", "pooling", "layer", "train score", measured, "over no prompt"):
        table.add_column(
            heading, justify="left" if heading in ("prompt", "pooling") else "right", overflow="fold"
        )
    for each in outcome.answers:
        over = "" if each.over_no_prompt is None else f"{points(each.over_no_prompt.difference)} points"
        cells = (
            one_line(each.prompt),
            each.pooling,
            str(each.layer),
            f"{each.score:.3f}",
            percent(each.accuracy),
            over,
        )
        style = "bold green" if each.is_answer else ""
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    return table


def prompt_sentence(answers: list[PromptAnswer]) -> str:
    """Which prompt train rows speak for, and what test rows say of it."""
    best = next(each for each in answers if each.is_answer)
    name = best.prompt if best.prompt.removeprefix(CHAT) in PROMPTS else shortened(best.prompt)
    if best.prompt == NO_PROMPT:
        others = "the other does not separate" if len(answers) == 2 else "none of the others separates"
        return f"Take no prompt: on train rows {others} better." if len(answers) > 1 else ""
    over = best.over_no_prompt
    if over is None:
        return f"Take the prompt {name}."
    interval = f"95 % interval {points(over.low)} to {points(over.high)}, {p_value(over.p_value)}"
    if over.low > 0:
        worth = f"{100 * over.difference:.1f} points better than without a prompt ({interval})"
    elif over.high < 0:
        worse = f"{-100 * over.difference:.1f} points worse than without"
        worth = f"but the test rows speak against it, {worse} ({interval})"
    else:
        worth = f"level with no prompt within noise ({points(over.difference)} points, {interval})"
    return f"Take the prompt {name}: {worth}."


def search_as_json(outcome: SearchOutcome) -> dict[str, Any]:
    """For machines: what each prompt was worth, and the sweep of the one to take."""
    return {
        "prompts": [asdict(each) for each in outcome.answers],
        "failed_prompts": {prompt: str(error) for prompt, error in outcome.failed.items()},
        "prompt_answer": prompt_sentence(outcome.answers),
        **outcome_as_json(outcome.chosen),
    }
