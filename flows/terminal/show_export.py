"""What the terminal shows of an exported model."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal.query_rows import printable
from tasks.exporting.model_card import Evidence, figures
from tasks.reporting.answer import p_value, points


def show_export(found: Evidence, out: Path) -> None:
    """What was exported, what it costs to run, and what it is worth."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    table.add_column(f"layer {found.layer}")
    table.add_column("whole model")
    for row in figures(found):
        table.add_row(*row)
    console.print(table)
    console.print()
    if found.chosen_as != found.norm_state:
        change, low, high, p = found.difference
        console.print(
            f"Chosen as {found.chosen_as}, exported as {found.norm_state} (a model that ends there applies its final "
            f"norm): {points(change)} points, 95 % interval {points(low)} to {points(high)}, {p_value(p)}.",
            soft_wrap=True,
        )
    if not found.has_sentence_transformers:
        console.print(
            f"Without sentence-transformers' files: it has no {found.pooling} pooling. predict.py has it.",
            soft_wrap=True,
        )
    flag = ""
    if found.runs_own_code:
        flag = " --trust-remote-code"
        console.print("The model runs Python code of its own, which lies in the folder.", soft_wrap=True)
    script = shlex.quote(f"{out}/predict.py")
    for name, place in (("folder", str(out)), ("try it", f'python {script}{flag} "a text"')):
        console.print(Text.assemble((f"{name:<11}", "bold"), printable(place)), soft_wrap=True)
