"""Result rows as each task wrote them: a killed run loses none, and the database can be rebuilt from them.

A part is Parquet that carries its own seal: among its metadata the SHA-256 of the file as it is with zeros in the
seal's place. Parquet has no checksum of all of a file, and damage that reaches its decoder can end the process.
"""

import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import polars as pl

from storage.errors import UserError
from storage.files import list_files, list_folders, read_bytes, write_file
from storage.layout import Layout
from storage.migrations import result_tables

_SEAL = "layerscout.sha256"
_OPEN = b"0" * 64
# As Thrift writes the pair: the key, then a field of 64 bytes.
_BEFORE_SEAL = _SEAL.encode() + b"\x18\x40"


class DamagedPartError(UserError):
    """What lies in a part's place is not what was staged there."""


def stage(layout: Layout, run_id: str, table: str, part: str, rows: pl.DataFrame) -> None:
    """Write the rows of one part of a table; they appear whole or not at all, and replace the part's old rows."""
    write_sealed(layout.staged(run_id, table, part), rows)


def write_sealed(uri: str, rows: pl.DataFrame) -> None:
    """Write rows as a part is written, in any place."""
    buffer = BytesIO()
    rows.write_parquet(buffer, metadata={_SEAL: _OPEN.decode()})
    write_file(uri, _sealed(buffer.getvalue()))


def ended_runs(layout: Layout) -> list[str]:
    """The runs that have come to their end once: what is staged last is there."""
    return [
        run_id
        for run_id in list_folders(layout.staged_runs)
        if list_files(layout.staged_table(run_id, "execution"), ".parquet")
    ]


def keyed(key: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` after the columns of `key`, which has one row."""
    # Not by an expression: Polars' own threads evaluate it, and wait for a core beside layers that are being scored.
    return pl.DataFrame([each.new_from_index(0, rows.height) for each in key] + rows.get_columns())


def rows_of(table: str, key: pl.DataFrame, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of a result table after the columns of `key`, each column of the table's own type.

    Without rows the columns are there all the same: a curve without a turn has an empty frame.
    """
    types = result_tables()[table].columns
    named = rows[0] if rows else [name for name in types if name not in key.columns]
    return keyed(key, pl.DataFrame(rows, schema={name: types[name] for name in named}))


def is_staged(layout: Layout, run_id: str, table: str, part: str) -> bool:
    """Whether a part's rows are there, whole."""
    try:
        _read(layout.staged(run_id, table, part))
    except (FileNotFoundError, DamagedPartError):
        return False
    return True


def read_part(layout: Layout, run_id: str, table: str, part: str) -> pl.DataFrame | None:
    """The rows of one part; None where they are not there, or damaged."""
    return read_sealed(layout.staged(run_id, table, part))


def read_sealed(uri: str) -> pl.DataFrame | None:
    """What `write_sealed` wrote; None where it is not there, or damaged."""
    try:
        return pl.read_parquet(BytesIO(_read(uri)))
    except (FileNotFoundError, DamagedPartError, pl.exceptions.PolarsError):
        return None


def read_staged(
    layout: Layout, run_id: str, table: str, prefix: str = "", *, without: Sequence[str] = ()
) -> pl.DataFrame:
    """The rows of every part of a table whose name begins with `prefix`, in the order of the names.

    A column that some parts lack, since an older version staged them, is null there. without: columns that are not
    read, such as keys that all of these rows share.

    Raises:
        FileNotFoundError: nothing is staged there.
        DamagedPartError: a part is not what was staged, or parts do not fit together.
    """
    folder = layout.staged_table(run_id, table)
    parts = [each for each in list_files(folder, ".parquet") if each.rsplit("/", 1)[1].startswith(prefix)]
    if not parts:
        raise FileNotFoundError(f"No staged rows of {table} ({prefix}*) in {folder}.")
    # Collected as one: Polars starts a query a part otherwise.
    scanned = [pl.scan_parquet(BytesIO(_read(part))) for part in parts]
    try:
        return pl.concat(scanned, how="diagonal").drop(without, strict=False).collect()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DamagedPartError(
            f"The staged rows of {table} in {folder} cannot be read together ({reason}). Delete that folder, and give "
            "the sweep's command again: what is not there is computed."
        ) from error


def _sealed(content: bytes) -> bytes:
    at = content.rindex(_BEFORE_SEAL) + len(_BEFORE_SEAL)
    return content[:at] + hashlib.sha256(content).hexdigest().encode() + content[at + len(_OPEN) :]


def _read(uri: str) -> bytes:
    """A part's bytes, which are as they were written; of an older version's, which bear no seal, the end is there."""
    content = read_bytes(uri)
    at = content.rfind(_BEFORE_SEAL) + len(_BEFORE_SEAL)
    if at < len(_BEFORE_SEAL):
        whole = content.endswith(b"PAR1")
    else:
        unsealed = content[:at] + _OPEN + content[at + len(_OPEN) :]
        whole = hashlib.sha256(unsealed).hexdigest().encode() == content[at : at + len(_OPEN)]
    if not whole:
        raise DamagedPartError(
            f"The staged part {uri} is damaged. Delete it, and give the sweep's command again: what is not there is "
            "computed."
        )
    return content
