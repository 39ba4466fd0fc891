"""What the terminal shows of a sweep."""

import shlex
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.layer_sweep import SweepOutcome
from flows.terminal.query_rows import printable
from tasks.measures import Measure
from tasks.reporting.answer import answer_sentence, layer_table, percent, split_words
from tasks.reporting.layer_curves import answer_curves
from tasks.reporting.report_parts import race_steps


def show_outcome(outcome: SweepOutcome, storage: str) -> None:
    """How many rows it took, if a race said so; the layer curve, the answer, and where everything is."""
    console = Console(highlight=False)
    if steps := race_steps(answer_curves(outcome.tables)):
        console.print(_race(steps))
        console.print()
    console.print(_curve(layer_table(outcome.tables), answer_curves(outcome.tables).measure))
    console.print()
    console.print(Text(printable(answer_sentence(outcome.tables))), soft_wrap=True)
    embedded = outcome.tables["embedding_set"].row(0, named=True)
    if embedded["tokens"]:  # of saved states nobody here read any
        cut, length = embedded["truncated_share"], embedded["max_length"]
        if embedded.get("split_share"):  # of an older version there is none
            console.print(split_words(embedded), soft_wrap=True)
        else:
            console.print(
                f"{100 * cut:.1f} % of the texts were cut at the maximum length of {length} tokens."
            )
    console.print()
    flag = "" if storage == "layerscout-out" else f" --storage {shlex.quote(storage)}"
    for name, place in (
        ("database", outcome.layout.results),
        ("query it", f'layerscout sql{flag} "SELECT * FROM leaderboard"'),
        ("report", outcome.files.html),
        ("Prefect UI", f"layerscout ui{flag}"),
    ):
        console.print(Text.assemble((f"{name:<11}", "bold"), printable(place)), soft_wrap=True)


def _race(steps: list[dict[str, Any]]) -> Table:
    """A line a step: its rows, who led, how surely, and who was left behind."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("train rows", "layer", "expected", "near the best"):
        table.add_column(heading, justify="right")
    table.add_column("leader", overflow="fold")
    table.add_column("left behind", overflow="fold")
    for step in steps:
        words = (step["leader"], "; ".join(step["left_behind"]))
        numbers = (
            f"{step['rows']:,}",
            f"{step['layer']}",
            percent(step["expected"]),
            f"{step['chance']:.0%}",
        )
        table.add_row(*numbers, *(Text(printable(each)) for each in words))
    return table


def _curve(rows: list[dict[str, Any]], measure: Measure) -> Table:
    """Layer, depth, each silhouette, accuracy with its 95 % interval, and what the layer is."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    metrics = [column for column in rows[0] if column.startswith("silhouette_")]
    for heading in (
        "layer",
        "depth",
        *(f"silhouette\n{each.removeprefix('silhouette_')}" for each in metrics),
    ):
        table.add_column(heading, justify="right")
    table.add_column(f"{measure.axis}\n(95 % interval)", justify="right")
    table.add_column("", max_width=34)
    for row in rows:
        accuracy = f"{row['accuracy']:.3f} ({row['accuracy_low']:.3f}–{row['accuracy_high']:.3f})"
        numbers = [
            f"{row['layer']}",
            f"{row['depth']:.2f}",
            *(f"{row[each]:.3f}" for each in metrics),
            accuracy,
        ]
        table.add_row(*numbers, row["marks"], style="bold green" if "chosen" in row["marks"] else None)
    return table


def outcome_as_json(outcome: SweepOutcome) -> dict[str, Any]:
    """The answer for machines: the answer's row of each table that has one, the layer curve, and the places."""
    answer = {
        table: outcome.tables[table].filter("is_answer").row(0, named=True)
        for table in ("layer_choice", "audit")
    }
    embedded = outcome.tables["embedding_set"].row(0, named=True)
    return {
        "run_id": outcome.run_id,
        "flow_run_id": outcome.flow_run_id,
        "answer": answer_sentence(outcome.tables),
        **answer,
        "truncated_share": embedded["truncated_share"],
        "split_share": embedded.get("split_share"),
        "layer_curve": layer_table(outcome.tables),
        "race": outcome.tables["race_step"].drop("run_id").to_dicts(),
        "database": outcome.layout.results,
        "report": outcome.files.html,
        "figure": outcome.files.png,
    }
