"""What the terminal shows of an exported model."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.terminal.query_rows import printable
from tasks.exporting.model_card import Evidence, costs, figures


def show_export(found: Evidence, out: Path) -> None:
    """What was exported, what it costs to run, and what it is worth."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    table.add_column(found.cut.named)
    table.add_column("whole model")
    for row in figures(found):
        table.add_row(*row)
    console.print(table)
    console.print()
    for said in costs(found):
        console.print(said, soft_wrap=True)
    if found.needs_own_module:
        console.print(
            "sentence-transformers loads it with trust_remote_code=True: pooled_layers.py in the folder pools these "
            "states.",
            soft_wrap=True,
        )
    if found.is_more_side_by_side:
        console.print("The run found more in layers side by side: --together exports them.", soft_wrap=True)
    flag = ""
    if found.runs_own_code:
        flag = " --trust-remote-code"
        console.print("The model runs Python code of its own, which lies in the folder.", soft_wrap=True)
    script = shlex.quote(f"{out}/predict.py")
    texts = (
        '"one text" "its other text"' if found.of_pairs else '"some words"' if found.of_words else '"a text"'
    )
    for name, place in (("folder", str(out)), ("try it", f"python {script}{flag} {texts}")):
        console.print(Text.assemble((f"{name:<11}", "bold"), printable(place)), soft_wrap=True)
