"""Where strangers' bytes come in: each entry takes any, and ends well or with a `UserError`.

Every other exception is a find.
"""

import bz2
import gzip
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from flows.grid_parameters import locate_dataset, read_grid
from flows.terminal.query_rows import format_rows
from storage.errors import UserError, is_about_a_place
from storage.layout import Layout
from storage.results import merge, query
from storage.sources.gguf import GgufSource
from storage.sources.grammar import parse_source
from storage.sources.path import PathSource

FILES = (
    "rows.csv",
    "rows.tsv",
    "rows.tab",
    "rows.jsonl",
    "rows.json",
    "rows.parquet",
    "rows.csv.gz",
    "rows.csv.bz2",
)
"""The first byte of a table says which of them the others are; of the packed ones they are what is packed."""
PACKED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress}
# A query may be right and take for ever.
QUERY_SECONDS = 3


def table(data: bytes) -> None:
    """A file of labelled text, as `--dataset path:FILE` reads, cleans and splits it."""
    from tasks.data.dataset import read_dataset  # with Prefect, half a minute under a fuzzer's eyes

    name = FILES[data[0] % len(FILES)] if data else FILES[0]
    content = PACKED.get(Path(name).suffix, bytes)(data[1:])
    with tempfile.TemporaryDirectory() as folder, suppress(UserError):
        file = Path(folder) / name
        file.write_bytes(content)
        read_dataset(f"path:{file}", Layout(folder))


def source(data: bytes) -> None:
    """A spec of a model or a data set, and what is asked of it before anything is read."""
    spec = _argument(data)
    for kind in ("model", "dataset"):
        with suppress(UserError), _told_of_places():
            found = parse_source(spec, kind)
            assert parse_source(found.spec, kind) == found
            assert found.short_name
            found.hub_id, found.page(kind), found.pinned("0123")
            # What lies elsewhere on this machine is no concern of a fuzzer.
            if not (found.is_local and Path(found.location).is_absolute()):
                if isinstance(found, PathSource | GgufSource):
                    found.fetch(kind, ())
                found.describe(kind)
            locate_dataset(spec, "sets")


def grid(data: bytes) -> None:
    """A grid's YAML file."""
    with tempfile.TemporaryDirectory() as folder, suppress(UserError):
        file = Path(folder) / "grid.yaml"
        file.write_bytes(data)
        for pair in read_grid(str(file)).pairs():
            assert pair.model


def sql(data: bytes) -> None:
    """A query of `layerscout sql`, in the three forms of its answer."""
    database = _database()
    with suppress(UserError, KeyboardInterrupt), _interrupted_after(QUERY_SECONDS):
        rows = query(database, _argument(data))
        for form in ("table", "csv", "json"):
            format_rows(rows.head(100), form)


ENTRIES: dict[str, Callable[[bytes], None]] = {each.__name__: each for each in (table, source, grid, sql)}


@contextmanager
def _told_of_places() -> Iterator[None]:
    """Such as a name that is too long, which each command tells in a sentence."""
    try:
        yield
    except OSError as error:
        if not is_about_a_place(error):
            raise


def _argument(data: bytes) -> str:
    """As Python reads the bytes of a command line."""
    return data.decode("utf-8", "surrogateescape")


@contextmanager
def _interrupted_after(seconds: int) -> Iterator[None]:
    """As by Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@cache
def _database() -> str:
    """A database with one made-up run, which lives as long as the process."""
    from tests.storage.sweep_rows import sweep_rows

    folder = tempfile.TemporaryDirectory(prefix="layerscout-fuzz-")
    _FOLDERS.append(folder)
    place = f"{folder.name}/results.duckdb"
    merge(place, "monday", sweep_rows())
    return place


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
