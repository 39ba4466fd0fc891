"""Rows of a query as people and programs read them. Without Prefect and torch, which a query need not wait for."""

import json
import math
import os
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import polars as pl
from rich.console import Console
from rich.table import Table
from rich.text import Text

from storage.errors import UserError
from storage.files import write_atomically, write_file
from storage.places import check_target

Form = Literal["table", "csv", "json", "parquet"]


def form_of(out: str) -> Form:
    """The form that a file's ending asks for.

    Raises:
        UserError: the ending is none of ours.
    """
    ending = out.rsplit(".", 1)[-1]
    known: dict[str, Form] = {"csv": "csv", "json": "json", "parquet": "parquet", "txt": "table"}
    if ending not in known:
        raise UserError(
            f"--out {out}: no form of rows has this ending. Use .csv, .json, .parquet or .txt, or name a --format."
        )
    return known[ending]


def check_out(out: str, database: str) -> None:
    """Rows are written to a file of their own, which is found out before the query runs.

    Raises:
        UserError: `out` is the database, or a file that belongs to it; or it cannot be written.
    """
    if "://" not in out and os.path.abspath(out).startswith(os.path.abspath(database)):
        raise UserError(f"--out {out} would overwrite the results database. Name another file.")
    check_target(out, "--out")


def write_rows(rows: pl.DataFrame, out: str, form: Form) -> None:
    """Write rows to a file, a path or a URI, whole or not at all."""
    if form == "parquet":
        write_atomically(out, rows.write_parquet)
        return
    write_file(out, (format_rows(rows, form) + "\n").encode())


def format_rows(rows: pl.DataFrame, form: Literal["table", "csv", "json"]) -> str:
    """Rows as text: a table for people, CSV with a header, or a JSON array of objects."""
    if form == "csv":
        # CSV has no lists, and no bytes.
        nested = [name for name, kind in rows.schema.items() if kind.is_nested()]
        told = {
            name: pl.Series(
                [
                    None if value is None else json.dumps(_for_json(value), ensure_ascii=False)
                    for value in rows[name].to_list()
                ],
                dtype=pl.String,
            )
            for name in nested
        }
        readable = rows.with_columns(**told).with_columns(pl.selectors.binary().bin.encode("hex"))
        return readable.write_csv().rstrip("\n")
    if form == "json":
        return json.dumps([_for_json(row) for row in rows.to_dicts()], allow_nan=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, kind in rows.schema.items():
        table.add_column(name, justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in rows.iter_rows():
        table.add_row(*(Text(printable(_cell(value))) for value in row))
    # A pipe has no width of its own: a table is cut for a terminal only.
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=1_000)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _for_json(value: Any) -> Any:
    """The value as JSON has it, which knows neither NaN nor infinity, nor Python's decimals, bytes and dates. DuckDB's
    sums of integers are decimals."""
    if isinstance(value, dict):
        return {key: _for_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_for_json(each) for each in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def printable(text: str) -> str:
    """Data must not steer the terminal that shows it: control characters stand as their escapes."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.00005 else f"{value:.4f}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
