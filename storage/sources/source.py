"""What every source of models and data sets is asked: one class a source, entered in `grammar.SOURCES`."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, Self

Kind = Literal["model", "dataset"]

# They say how a thing is stored, not what it is called.
_ENDINGS = {".gguf", ".parquet", ".csv", ".jsonl", ".tsv", ".tab", ".npy", ".npz", ".safetensors", ".zarr"}


def local_place(location: str) -> Path:
    """A location as a path of this machine; the `~` of somebody who has no home here stays as it is written."""
    return Path(location if "\0" in location else os.path.expanduser(location))


@dataclass(frozen=True)
class Fetched:
    """What a source has brought to this machine, and what a reader of it has to know."""

    place: Path
    """A folder, or one file: a table, or a model as GGUF."""
    revision: str = ""
    """What the source calls this state of it, such as a commit; empty where the files alone tell."""
    is_repository: bool = False
    """The folder is laid out as a repository of the hub, whose rules say what its splits are."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Of a data set, the file of each split inside the folder; empty where the files' names tell."""
    text_column: str | None = None
    label_column: str | None = None
    labels: tuple[str, ...] = ()
    """Rows of other labels are left out; all are read where it is empty."""


@dataclass(frozen=True)
class Source(ABC):
    """One parsed spec, `SCHEME:LOCATION`. Fetching and describing are all that a new source has to bring."""

    scheme: ClassVar[str]
    """What stands before the colon."""
    about: ClassVar[str]
    """What it is, in a few words behind the spec: `a local folder`."""
    ways: ClassVar[Mapping[Kind, str]]
    """How people write it, for each kind of thing that it can bring."""

    is_local: ClassVar[bool] = False
    """Its location is a place on this machine, which tells nobody else anything."""

    location: str
    """What stands behind the colon."""

    @classmethod
    def parse(cls, location: str) -> Self:
        """Read what stands behind the colon; `UserError` when it is not of the grammar."""
        return cls(location)

    @property
    def spec(self) -> str:
        """The spec as the user would write it."""
        return f"{self.scheme}:{self.location}"

    @property
    def short_name(self) -> str:
        """A few words for figures: the last part of the location, without the ending of a file."""
        last = PurePosixPath(self.location)
        return (last.stem if last.suffix in _ENDINGS else last.name) or self.location

    @property
    def hub_id(self) -> str | None:
        """`OWNER/NAME` on the Hugging Face hub, where the thing has its home there."""
        return None

    @abstractmethod
    def fetch(self, kind: Kind, patterns: Sequence[str]) -> Fetched:
        """Bring it onto this machine, once: what is there already is used.

        Args:
            kind: what is wanted of it.
            patterns: file names that a reader needs, as `fnmatch` reads them; a source that would have to transfer
                the others leaves them where they are.

        Raises:
            UserError: it is not there, it cannot be reached, or it is not what it should be.
        """

    def describe(self, kind: Kind) -> str | None:
        """What it is, as far as that is known without a network; None where only reading it tells.

        Raises:
            UserError: it is not there.
        """
        return None

    def page(self, kind: Kind) -> str | None:
        """Its page on the web; None where it has none."""
        return None

    def pinned(self, revision: str) -> str:
        """The spec of the very state that a run saw, where the source keeps older ones. revision: not empty."""
        return self.spec

    def below(self, root: Path) -> str:
        """The spec of its copy below a folder of data sets, where that applies and there is one; else its own."""
        return self.spec
