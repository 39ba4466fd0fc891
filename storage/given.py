"""What somebody had in memory, kept as a folder that is named by its content: the same input has the same place."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from storage.cache import cache_folder
from storage.layout import Layout

# Of `datasets`: a fingerprint that differs from session to session.
_NO_CONTENT = {"state.json"}


def given_folder(layout: Layout) -> Path:
    """Where inputs of a storage are kept: beside its results, or in the cache where those are on an object store."""
    return (cache_folder() if layout.is_remote else Path(layout.root)) / "given"


def keep_given(folder: Path, name: str, write: Callable[[Path], object]) -> Path:
    """The folder below `folder` that holds what `write` puts into an empty one: `name`, and a hash of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part.") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        write(made)
        content = hashlib.sha256()
        for file in sorted(each for each in made.rglob("*") if each.is_file()):
            if file.name not in _NO_CONTENT:
                with file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256")
                content.update(f"{file.relative_to(made)} {digest.hexdigest()}\n".encode())
        done = folder / f"{name}-{content.hexdigest()[:12]}"
        if not done.exists():
            made.rename(done)
    return done
