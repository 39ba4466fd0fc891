"""`path:`: a folder or a file on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from storage.errors import UserError
from storage.sources.source import Fetched, Kind, Source, local_place


class PathSource(Source):
    """A model is a folder in Hugging Face's layout; a data set a folder or one file."""

    scheme = "path"
    about = "a local folder"
    is_local = True
    ways: ClassVar[Mapping[Kind, str]] = {
        "model": "path:FOLDER",
        "dataset": "path:FOLDER (train|validation|test.{parquet,csv,jsonl,tsv}), path:FILE",
    }

    def fetch(self, kind: Kind, patterns: Sequence[str]) -> Fetched:
        """It is used where it lies."""
        place = local_place(self.location)
        if kind == "model" and not place.is_dir():
            raise UserError(
                f"There is no folder {place} (from {self.spec}). Write path:FOLDER with a folder that exists."
            )
        if not place.exists():
            raise UserError(f"There is no file or folder {place} (from {self.spec}). Check the path.")
        return Fetched(place)

    def below(self, root: Path) -> str:
        """A relative path starts at the root, whether or not something lies there."""
        relative = not local_place(self.location).is_absolute()
        return f"path:{root / self.location}" if relative else self.spec
