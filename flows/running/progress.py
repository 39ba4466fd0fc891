"""Progress on the terminal, line by line where there is none, and as an artifact of the run in the Prefect UI."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectHTTPStatusError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Standard output is for answers, so that `--json` can be piped.
console = Console(stderr=True)
# A log's line is whole, however long it is; a terminal's is broken between words.
console.soft_wrap = not console.is_terminal
# Each update is a request; a reader of the UI sees no difference between one a second and many.
SECONDS_PER_UPDATE = 1.0
# The page of an artifact shows what it was when it was opened; the page of a run's log follows, and so does a log file.
SECONDS_PER_LOG = 15.0


_held = threading.Event()


def hold() -> None:
    """Begin no further stage: the process is being cancelled, and will be ended where it stands."""
    _held.set()


def _wait_where_held() -> None:
    if _held.is_set():
        threading.Event().wait()  # for ever: whoever cancels ends the process


class Advance(Protocol):
    """Counts steps as done; those that an earlier run had computed (`reused`) cost no time and no tokens."""

    def __call__(self, steps: int, *, tokens: int = 0, reused: bool = False) -> None: ...


def _moves() -> bool:
    """Whether what was printed can move: on a terminal, and in a notebook that has widgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def working(label: str) -> AbstractContextManager[Any]:
    """A spinner for work whose length is not known; a line now and one every 15 s where nothing moves."""
    _wait_where_held()
    if _moves():
        return console.status(label)
    started = time.monotonic()
    return _telling(label, lambda now: f"{label}: {duration(now - started)} so far")


@contextmanager
def stage_progress(label: str, total: int, unit: str | None = None) -> Iterator[Advance]:
    """The progress of a flow's stage; with a `unit`, such as rows, also an artifact of the flow run."""
    _wait_where_held()
    pace = Pace(label, unit, total)
    artifact = ProgressArtifact(pace) if unit else None
    with progress_bar(pace) as move_bar:

        def advance(steps: int, *, tokens: int = 0, reused: bool = False) -> None:
            move_bar(steps, tokens=tokens, reused=reused)
            if artifact:
                artifact.show()

        yield advance


@contextmanager
def progress_bar(pace: "Pace") -> Iterator[Advance]:
    """A bar that moves with the pace; lines that tell it where nothing moves, the last when all is done."""
    if _moves():
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(pace.label, total=pace.total)

            def advance(steps: int, *, tokens: int = 0, reused: bool = False) -> None:
                pace.advance(steps, tokens=tokens, reused=reused)
                progress.advance(bar, steps)

            yield advance
        return
    # A stage that counts nothing worth a unit is over in a moment, and has one line.
    with _telling(pace.line(time.monotonic()) if pace.unit else pace.label, pace.line):
        yield pace.advance
    if pace.unit and pace.done == pace.total:
        tell(pace.line(time.monotonic()))


def tell(line: str) -> None:
    """One whole line on standard error."""
    console.print(line, markup=False, highlight=False)


@contextmanager
def _telling(first: str, told: Callable[[float], str]) -> Iterator[None]:
    """Tell a line now, and every 15 s of this block, whatever it waits for, what `told` says of that moment."""
    tell(first)
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(SECONDS_PER_LOG):
            tell(told(time.monotonic()))

    teller = threading.Thread(target=repeat, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


@dataclass
class Pace:
    """How far a stage of a run is, and how fast. Only what this run computed itself says how fast it is."""

    label: str
    unit: str | None
    total: int
    done: int = 0
    computed: int = 0
    tokens: int = 0
    """Tokens that the model has read in this run; 0 in a stage that reads none."""
    started: float = field(default_factory=time.monotonic)

    def advance(self, steps: int, *, tokens: int = 0, reused: bool = False) -> None:
        """See `Advance`."""
        self.done += steps
        if not reused:
            self.computed += steps
            self.tokens += tokens

    @property
    def percent(self) -> float:
        """Whole, and 100 only at the end: the UI prints every decimal that it is given."""
        return float(100 * self.done // self.total)

    def told(self, now: float) -> str:
        """Such as `1,200 of 6,444 rows, 4,980 tokens/s, about 2 min left`; `now` in monotonic seconds."""
        words = [" ".join([f"{self.done:,} of {self.total:,}", *([self.unit] if self.unit else [])])]
        elapsed = now - self.started
        if self.tokens and elapsed > 0:
            words.append(f"{self.tokens / elapsed:,.0f} tokens/s")
        if self.done == self.total:
            words.append(f"finished in {duration(elapsed)}")
        elif self.computed:
            words.append(f"about {duration(elapsed * (self.total - self.done) / self.computed)} left")
        elif elapsed >= SECONDS_PER_LOG:
            words.append(f"{duration(elapsed)} so far")
        if reused := self.done - self.computed:
            words.append(f"{reused:,} of an earlier run")
        return ", ".join(words)

    def line(self, now: float) -> str:
        """What is told, behind the stage's name."""
        return f"{self.label}: {self.told(now)}"


class ProgressArtifact:
    """The pace of one stage in the Prefect UI, under its own key; only inside a flow run.

    A server that is away for a moment must not end a run: what it does not take is logged, and the next update comes.
    """

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._updated = self._logged = time.monotonic()
        self._id: UUID | None = None
        self._send()

    def show(self) -> None:
        """Send how far it is, at most once a second, and always when it is finished; log it now and then."""
        now, finished = time.monotonic(), self.pace.done == self.pace.total
        if finished or now - self._updated >= SECONDS_PER_UPDATE:
            self._send()
        if finished or now - self._logged >= SECONDS_PER_LOG:
            self._logged = now
            get_run_logger().info("%s", self.pace.line(now))

    def _send(self) -> None:
        self._updated = time.monotonic()
        told = self.pace.told(self._updated)
        try:
            if self._id is None:
                # Prefect's functions are typed as what they return to async callers as well.
                created: Any = create_progress_artifact(
                    self.pace.percent, key=f"progress-{self.pace.label.lower()}", description=told
                )
                self._id = created
            else:
                update_progress_artifact(self._id, self.pace.percent, description=told)
        except (httpx.HTTPError, PrefectHTTPStatusError) as error:
            get_run_logger().warning("The Prefect server did not take the progress %r: %s", told, error)


def duration(seconds: float) -> str:
    """90 → `2 min`; to the second below a minute and a half."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
