"""Manifests: what an embedding set is made of, and what a shard cost, as JSON that appears whole or not at all."""

import json
from collections.abc import Mapping
from typing import Any

from storage.errors import UserError
from storage.files import read_bytes, write_file


class DamagedManifestError(UserError):
    """What lies in a manifest's place is not what was written there."""


def write_manifest(uri: str, manifest: Mapping[str, Any]) -> None:
    """Write a manifest as JSON, whole or not at all."""
    text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_file(uri, text.encode())


def read_manifest(uri: str) -> dict[str, Any]:
    """A manifest as it was written; `FileNotFoundError` when there is none yet.

    Raises:
        DamagedManifestError: it is no JSON object.
    """
    try:
        found = json.loads(read_bytes(uri))
    except (ValueError, RecursionError) as error:
        raise DamagedManifestError(f"{uri} is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise DamagedManifestError(f"{uri} is damaged: it holds no JSON object.")
    return found
