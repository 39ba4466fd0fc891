"""docs/bad-input.md: a table for each kind, a row for each case."""

import tempfile
from itertools import groupby
from pathlib import Path

from tests.bad_input import commands, data, stored
from tests.bad_input.case import Case, Seen, see

PAGE = Path(__file__).parents[2] / "docs" / "bad-input.md"
CASES: list[Case] = [*data.CASES, *commands.CASES, *stored.CASES]
INTRODUCTION = """# What bad input does

Each row is a test (`tests/bad_input`), and the page is what they print: `python -m tests.bad_input` writes it. A
command ends with 0 (done, perhaps with a remark), 1 (an error) or 2 (a wrong command line). What appears
or changes on the disk is named; where nothing is named, all is as it was.
"""


def written() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for kind, cases in groupby(CASES, key=lambda case: case.kind):
        rows = [row(case) for case in cases]
        parts.append(f"\n## {kind}\n\n| given | exit | what is seen |\n|---|---|---|\n" + "".join(rows))
    return "".join(parts)


def row(case: Case) -> str:
    """The case's line of the page."""
    with tempfile.TemporaryDirectory(prefix="layerscout-") as folder:
        return as_row(case, see(case, Path(folder)))


def as_row(case: Case, seen: Seen) -> str:
    told = [("Appears", seen.appeared), ("Changes", seen.changed)]
    left = "".join(f" *{what}: {', '.join(names)}.*" for what, names in told if names)
    said = seen.said.replace("|", "\\|").replace("<", "&lt;")
    return f"| {case.given} | {seen.code} | {said}{left} |\n"
