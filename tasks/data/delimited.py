"""A text table with separators (CSV, TSV, Orange's `.tab`) → one column of strings for each name in its header.

Values stay what is written: `01` and `1` are two labels. No value of a row moves into another without an error.
"""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from storage.errors import UserError

SEPARATORS = {".csv": ",;\t|", ".tsv": "\t,;|", ".tab": "\t,;|"}
"""What may part the columns of a file with such an ending, the likeliest first."""
# Rows that tell which of several characters in a header parts the columns.
TELLING_ROWS = 50
# The second and third line of Orange's tables: types and roles.
_ORANGE_TYPE = re.compile(r"|[dcst]|discrete|continuous|string|time|class|meta")
_ORANGE_ROLE = re.compile(r"|(class|meta|ignore|[cmi])?( ?\w+=\S*)*")

csv.field_size_limit(sys.maxsize)  # texts are long; the limit is of the whole process


@dataclass(frozen=True)
class _Record:
    """One row, and the lines of the file that it stands in, counted from 1."""

    first: int
    last: int
    fields: list[str]


def read_delimited(text: str, ending: str, where: str, note: Callable[[str], None]) -> pl.DataFrame:
    """Read the whole text of a file. ending: of SEPARATORS; where: how to name the file; note: takes a remark.

    Header names lose the blanks around them, empty fields become null, blank rows are none. Quotation marks are those
    of RFC 4180 (doubled inside a quoted field); in a file parted by tabs that does not keep to it they are characters.

    Raises:
        UserError: a row with more or fewer fields than the header, a quotation mark that does not end where its
            field does or that takes in whole rows, two columns of one name; the message names the line.
    """
    lines = io.StringIO(text, newline="").readlines()
    separator = _separator(lines, SEPARATORS[ending])
    try:
        records = list(_records(lines, separator))
        _check_swallowed(records, lines, separator)
    except csv.Error as error:
        if separator != "\t":
            raise UserError(
                f'{where}, {error}. A quotation mark inside a quoted text is doubled (""), and a text that begins '
                "with one is quoted as a whole. Mend that line, or save the file as tab-separated .tsv or as .jsonl."
            ) from error
        note(f"{where}: quotation marks are read as characters, since {error}")
        records = list(_records(lines, separator, quoting=csv.QUOTE_NONE))
    if not records:
        raise UserError(
            f"{where} is empty. Its first line should name the columns, such as text{separator}label."
        )
    names = _header(records[0].fields, where)
    rows = records[1:]
    if ending == ".tab" and _is_orange(rows):
        rows = rows[2:]
    values = [_fitted(row, names, where, separator) for row in rows]
    columns = zip(*values, strict=True) if values else ([] for _ in names)
    return pl.DataFrame(
        {name: pl.Series(column, dtype=pl.String) for name, column in zip(names, columns, strict=True)}
    )


def _separator(lines: list[str], known: str) -> str:
    heading = next((line for line in lines if line.strip()), "")
    there = [each for each in known if each in heading]
    if len(there) < 2:
        return there[0] if there else known[0]
    return next((each for each in there if _parts_evenly(lines, each)), there[0])


def _parts_evenly(lines: list[str], separator: str) -> bool:
    """Whether the first rows have as many fields as the header, and more than one."""
    rows = [row for row in csv.reader(lines[:TELLING_ROWS], delimiter=separator) if row]
    if len(lines) > TELLING_ROWS:
        rows = rows[:-1]  # a quoted field of the last may go on
    # None at all where a quoted field of the header goes on and on.
    widths = {len(row) for row in rows}
    return len(widths) == 1 and widths != {1}


def _records(
    lines: list[str], separator: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[_Record]:
    """Rows that are not blank. `csv.Error` says at which line a quotation mark is wrong."""
    reader = csv.reader(lines, delimiter=separator, strict=True, quoting=quoting)
    last = 0
    while True:
        first = last + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise csv.Error(_misquoted(first, reader.line_num, str(error))) from error
        if fields is None:
            return
        last = reader.line_num
        if any(each.strip() for each in fields):
            yield _Record(first, last, fields)


def _misquoted(first: int, last: int, reason: str) -> str:
    if "NUL" in reason:
        return f"line {first:,} holds a NUL character"
    if "unexpected end" in reason:
        return f"line {first:,} opens a quotation mark that is never closed"
    closed = f"line {first:,}" if first == last else f"line {first:,} opens one, and line {last:,}"
    return f"{closed} goes on behind a closing quotation mark"


def _check_swallowed(records: list[_Record], lines: list[str], separator: str) -> None:
    """Raise `csv.Error` where a quoted field holds a row: a line of as many fields, the label known from other rows.

    The label's column is taken to be that of the fewest kinds of values; where several are, all have to be known.
    """
    long = [each for each in records[1:] if each.last > each.first]
    if not long:
        return
    width = len(records[0].fields)
    rows = [each.fields for each in records[1:] if len(each.fields) == width]
    counted = {place: Counter(column) for place, column in enumerate(zip(*rows, strict=True))}
    repeated = {
        place: {value for value, count in values.items() if value and count > 1}
        for place, values in counted.items()
    }
    kinds = {place: len(counted[place]) for place, values in repeated.items() if values}
    telling = [place for place, number in kinds.items() if number == min(kinds.values())]

    def has_label(line: str, *, exactly: bool) -> bool:
        fields = line.rstrip("\r\n").split(separator)
        if not telling or len(fields) < width or (exactly and len(fields) > width):
            return False
        # The text, which may hold separators, stands before the label or behind it.
        sides = ([fields[place] for place in telling], [fields[place - width] for place in telling])
        return any(
            all(value in repeated[place] for value, place in zip(side, telling, strict=True))
            for side in sides
        )

    for record in long:
        first, *others = lines[record.first - 1 : record.last]
        # A text of several lines has its label behind the last one; a stray mark stands in a line that has its own.
        if has_label(first, exactly=False) and any(has_label(line, exactly=True) for line in others):
            raise csv.Error(
                f"line {record.first:,} opens a quotation mark that takes in whole rows, up to line {record.last:,}"
            )


def _header(fields: list[str], where: str) -> list[str]:
    names = [name.strip() or f"column_{i}" for i, name in enumerate(fields, start=1)]
    # A separator at the end of every line makes a last column without a name; it is named by its place.
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise UserError(f"{where} names two columns {doubled!r} in its first line. Rename one of them.")
    return names


def _is_orange(rows: list[_Record]) -> bool:
    return (
        len(rows) >= 2
        and all(_ORANGE_TYPE.fullmatch(each.strip()) for each in rows[0].fields)
        and all(_ORANGE_ROLE.fullmatch(each.strip()) for each in rows[1].fields)
    )


def _fitted(row: _Record, names: list[str], where: str, separator: str) -> list[str | None]:
    fields = row.fields
    if len(fields) > len(names) and not any(each.strip() for each in fields[len(names) :]):
        fields = fields[: len(names)]
    if len(fields) != len(names):
        part = {"\t": "a tab"}.get(separator, repr(separator))
        raise UserError(
            f"{where}, line {row.first:,} has {len(fields)} fields, and the first line names {len(names)} columns "
            f"({', '.join(names[:8])}). A text that holds {part} has to stand in quotation marks."
        )
    return [each or None for each in fields]
