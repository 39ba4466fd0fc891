"""The short grammar that names a model or a data set, and the registry of its sources."""

from storage.errors import UserError
from storage.sources.gguf import GgufSource
from storage.sources.hub import HubSource
from storage.sources.path import PathSource
from storage.sources.source import Kind, Source
from storage.sources.states import StatesSource
from storage.sources.wheels import WheelSource

SOURCES: dict[str, type[Source]] = {
    each.scheme: each for each in (HubSource, PathSource, GgufSource, StatesSource, WheelSource)
}
"""Every source by what stands before the colon: a class that is entered here can be named in every spec."""

_NOUNS: dict[Kind, str] = {"model": "model", "dataset": "data set"}


def parse_source(spec: str, kind: Kind | None = None) -> Source:
    """Split `SCHEME:LOCATION`, as each source reads it.

    Args:
        spec: as a person wrote it.
        kind: what it has to name; None takes either.

    Raises:
        UserError: it is not of the grammar, or its source brings no such kind of thing.
    """
    name, _, location = spec.strip().partition(":")
    found = SOURCES.get(name)
    if found is None or not location:
        raise UserError(f"{spec!r} is not a source. Write one of: {_grammar()}.")
    source = found.parse(location)
    if kind is not None and kind not in source.ways:
        raise UserError(f"{spec} is {source.about}. A {_NOUNS[kind]} is {ways_to_name(kind)}.")
    return source


def ways_to_name(kind: Kind) -> str:
    """How a model or a data set may be written: `hf:OWNER/NAME[@REVISION], path:FOLDER, … or wheel:NAME`."""
    *most, last = (each.ways[kind] for each in SOURCES.values() if kind in each.ways)
    return f"{', '.join(most)} or {last}" if most else last


def _grammar() -> str:
    # The first way of each is the plain one.
    return ", ".join(f"{next(iter(each.ways.values()))} ({each.about})" for each in SOURCES.values())
