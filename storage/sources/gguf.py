"""`gguf:`: one file of quantised weights on this machine."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from storage.errors import UserError
from storage.sources.source import Fetched, Kind, Source, local_place


class GgufSource(Source):
    """A model in one file, its tokenizer inside."""

    scheme = "gguf"
    about = "a model file"
    is_local = True
    ways: ClassVar[Mapping[Kind, str]] = {"model": "gguf:FILE"}

    def fetch(self, kind: Kind, patterns: Sequence[str]) -> Fetched:
        """It is used where it lies."""
        file = local_place(self.location)
        if not file.is_file():
            raise UserError(
                f"There is no file {file} (from {self.spec}). Write gguf:FILE with a file that exists."
            )
        return Fetched(file)

    def describe(self, kind: Kind) -> str:
        """Its size; what is inside takes half a minute to read."""
        return f"{self.fetch(kind, ()).place.stat().st_size / 2**20:,.0f} MiB of GGUF"
