"""`states:`: hidden states that another tool has taken and pooled, a file or a folder on this machine."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from storage.errors import UserError
from storage.sources.source import Fetched, Kind, Source, local_place


class StatesSource(Source):
    """In the place of a model: its layers' embeddings of the data set's rows."""

    scheme = "states"
    about = "saved states"
    is_local = True
    ways: ClassVar[Mapping[Kind, str]] = {"model": "states:FILE"}

    def fetch(self, kind: Kind, patterns: Sequence[str]) -> Fetched:
        """They are read where they lie."""
        place = local_place(self.location)
        if not place.exists():
            raise UserError(f"There is no file or folder {place} (from {self.spec}). Check the path.")
        return Fetched(place.absolute())


def are_saved_states(spec: str) -> bool:
    """Whether a model's spec names saved states."""
    return spec.strip().partition(":")[0] == StatesSource.scheme
