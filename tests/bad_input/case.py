"""One case: what lies there, the command, and what is seen of it. Each runs in a folder of its own."""

import io
import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from flows.cli import main

UNFORESEEN = "This was not foreseen"


@dataclass(frozen=True)
class Case:
    """Something bad, in words; `arrange` puts it into the current folder; the command is told it."""

    kind: str
    given: str
    command: str
    arrange: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Seen:
    """What a command said, its exit code, and what became of the files below its folder."""

    code: int
    said: str
    """The error; else the warnings, and what was printed: of an inspection the rows and classes, of a plan nothing."""
    appeared: tuple[str, ...]
    """Files that were not there before."""
    changed: tuple[str, ...]
    """Files that are not what they were, or gone."""


def see(case: Case, folder: Path) -> Seen:
    """Arrange the case in an empty folder and run its command there, in this process."""
    with chdir(folder):
        case.arrange()
        before = _files(folder)
        words = shlex.split(case.command)
        with _captured() as (out, error, warned):
            code = _exit_code(words)
        after = _files(folder)
    if code:
        said = [error.getvalue().rpartition("layerscout: ")[2]]
    else:
        shown = {"inspect": _read, "sweep": lambda _: "A plan is shown."}.get(words[1], str)
        said = [*warned, shown(out.getvalue())]
    return Seen(
        code,
        " ".join(" ".join(said).replace(f"{folder}/", "").split()),
        tuple(name for name in after if name not in before),
        tuple(name for name in before if after.get(name) != before[name]),
    )


def _read(shown: str) -> str:
    """`Read: 16 train, 4 test rows of good, bad.` of what `layerscout inspect` prints."""
    lines = shown.splitlines()
    rows = next(line.removeprefix("rows").strip() for line in lines if line.startswith("rows "))
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("class ")) + 1 :]
    classes = [line.rsplit(maxsplit=3)[0].strip() for line in table if line.endswith("%")]
    return f"Read: {rows} rows of {', '.join(classes)}."


def _exit_code(words: list[str]) -> int:
    asked = sys.argv
    sys.argv = words
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = asked
    return 0


class _Kept(logging.Handler):
    """Keeps what each record says."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def _captured() -> Iterator[tuple[io.StringIO, io.StringIO, list[str]]]:
    """What goes to standard output, to standard error, and into the log as a warning."""
    handler = _Kept(logging.WARNING)
    ours = [logging.getLogger(name) for name in ("flows", "tasks", "storage")]
    for each in ours:
        each.addHandler(handler)
    try:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as error:
            yield out, error, handler.messages
    finally:
        for each in ours:
            each.removeHandler(handler)


def _files(folder: Path) -> dict[str, bytes]:
    """Every file below, but locks, which say nothing."""
    found = sorted(each for each in folder.rglob("*") if each.is_file() and each.suffix != ".lock")
    return {str(each.relative_to(folder)): each.read_bytes() for each in found}
