"""One file of labelled text → a frame: text tables, JSON, CoNLL and Parquet, by its ending in any case, also packed."""

import bz2
import gzip
import json
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from storage.errors import UserError
from tasks.data import conll
from tasks.data.delimited import SEPARATORS, read_delimited
from tasks.data.half_characters import check_whole

log = logging.getLogger(__name__)

ENDINGS = (".parquet", ".csv", ".tsv", ".tab", ".jsonl", ".json", *conll.ENDINGS)
"""All but the first also with one of PACKED behind them."""
PACKED = {".gz": gzip.decompress, ".bz2": bz2.decompress}
# Marks at a file's beginning that say how its characters are written, the longer ones first.
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8",
}
# Bytes that the guess at an encoding looks at.
_GUESSED_BYTES = 2**20


def ending_of(path: Path) -> str:
    """`.csv` of `Train.CSV` and of `train.csv.gz`; empty where a file is none of ENDINGS."""
    plain, packed = _unpacked_name(path)
    found = next((each for each in ENDINGS if plain.endswith(each)), "")
    return "" if found == ".parquet" and packed else found


def stem_of(path: Path) -> str:
    """`train` of `Train.csv.gz`."""
    return _unpacked_name(path)[0].removesuffix(ending_of(path))


def _unpacked_name(path: Path) -> tuple[str, str]:
    """`train.csv` and `.gz` of `Train.csv.gz`."""
    name = path.name.lower()
    packed = next((each for each in PACKED if name.endswith(each)), "")
    return name.removesuffix(packed), packed


def read_file(path: Path, spec: str, encoding: str | None = None) -> pl.DataFrame:
    """Read one file; text and JSON give strings as they are written, Parquet its own types.

    Raises:
        UserError: it is none of ENDINGS, or it cannot be read: which line, and the way out.
    """
    where = f"{path} (from {spec})"
    ending = ending_of(path)
    if not ending:
        raise UserError(
            f"{where} is none of {', '.join(ENDINGS)}. Convert it to one of them: a spreadsheet is saved as CSV."
        )
    try:
        if ending == ".parquet":
            return pl.read_parquet(path, glob=False)
        packed = _unpacked_name(path)[1]
        raw = PACKED[packed](path.read_bytes()) if packed else path.read_bytes()
    except pl.exceptions.PanicException as error:
        raise UserError(
            f"{where} cannot be read as parquet: it is damaged. Copy or save it again."
        ) from error
    except (pl.exceptions.PolarsError, OSError, EOFError, ValueError, zlib.error) as error:
        kind = {"": ending[1:], ".gz": "gzip", ".bz2": "bzip2"}[_unpacked_name(path)[1]]
        raise UserError(f"{where} cannot be read as {kind}: {str(error).strip().splitlines()[0]}") from error
    text = decoded(raw, encoding, where)
    if ending in SEPARATORS:
        return read_delimited(text, ending, where, lambda remark: log.warning("%s", remark))
    if ending in conll.ENDINGS:
        return conll.read_conll(text, ending, where)
    return _frame(list(_json_rows(text, ending, where)), where)


def decoded(raw: bytes, encoding: str | None, where: str) -> str:
    """The text of a file: in the encoding that is named, else in that of its mark, else in UTF-8.

    Raises:
        UserError: it is not of that encoding; the message says which it seems to be.
    """
    mark = next((each for each in _MARKS if raw.startswith(each)), None)
    asked = encoding or (_MARKS[mark] if mark is not None else "utf-8")
    try:
        text = raw.decode(asked).removeprefix("\ufeff")
    except LookupError as error:
        raise UserError(
            f"There is no encoding {encoding!r} (--encoding). Try utf-8, cp1252 or utf-16."
        ) from error
    except UnicodeError as error:
        raise UserError(f"{where} is not in {asked} ({error}).{_way_out(raw)}") from error
    if "\0" in text:
        raise UserError(f"{where} holds NUL characters, so it is hardly text in {asked}.{_way_out(raw)}")
    return text


def _way_out(raw: bytes) -> str:
    import charset_normalizer  # slow, and hardly ever needed

    guess = charset_normalizer.from_bytes(raw[:_GUESSED_BYTES]).best()
    if guess is None or guess.encoding in ("ascii", "utf_8"):
        return " Save it as UTF-8 without such characters, or say --encoding NAME."
    return f" It seems to be {guess.encoding}: say --encoding {guess.encoding}, or save it as UTF-8."


def _is_flat_list(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(each, dict | list) for each in value)


def _json_rows(text: str, ending: str, where: str) -> Iterator[dict[str, Any]]:
    """Objects of an array, or one a line. Numbers stay what is written, as strings."""
    if text.lstrip().startswith("["):
        try:
            rows = _json(text)
        except ValueError as error:
            raise UserError(f"{where} is no JSON: {error}.") from error
        for number, row in enumerate(rows, start=1):
            yield _object(row, f"{where}, element {number:,}")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _json(line)
        except ValueError as error:
            more = "" if ending == ".jsonl" else " Give an array of objects, or one object a line."
            raise UserError(f"{where}, line {number:,} is no JSON: {error}.{more}") from error
        yield _object(row, f"{where}, line {number:,}")


def _json(text: str) -> Any:
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=lambda _: None)


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f'{where} is not an object of named values, such as {{"text": "…", "label": "…"}}.')
    return row


def _frame(rows: list[dict[str, Any]], where: str) -> pl.DataFrame:
    """One column a name; null where an object lacks it. Booleans become `true` and `false`, as JSON writes them."""
    if not rows:
        raise UserError(f"{where} is empty: it holds no row.")
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        for number, value in enumerate(values, start=1):
            check_whole(str(value), f"Row {number:,} of {where}, column {name!r},")
        are_lists = any(isinstance(value, list) for value in values)
        if are_lists and all(value is None or _is_flat_list(value) for value in values):
            lists = [None if value is None else [_as_written(each) for each in value] for value in values]
            columns[name] = pl.Series(name, lists, dtype=pl.List(pl.String))
        elif any(isinstance(value, dict | list) for value in values):
            columns[name] = pl.Series(name, values, dtype=pl.Object)
        else:
            columns[name] = pl.Series(name, [_as_written(value) for value in values], dtype=pl.String)
    return pl.DataFrame(columns)


def _as_written(value: Any) -> str | None:
    return str(value).lower() if isinstance(value, bool) else value
