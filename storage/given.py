"""What somebody had in memory, kept as a folder that is named by its content: the same input has the same place."""

import hashlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from storage.cache import cache_folder
from storage.errors import UserError
from storage.layout import Layout

_LONGEST = 100
_NAME = re.compile(rf"(?!\.)[^/\\\x00-\x1f]{{1,{_LONGEST}}}")
# Of `datasets`: a fingerprint that differs from session to session.
_NO_CONTENT = {"state.json"}


def given_folder(layout: Layout) -> Path:
    """Where inputs of a storage are kept: beside its results, or in the cache where those are on an object store."""
    return (cache_folder() if layout.is_remote else Path(layout.root)) / "given"


def keep_given(folder: Path, name: str, write: Callable[[Path], object]) -> Path:
    """The folder below `folder` that holds what `write` puts into an empty one: `name`, and a hash of the files.

    Raises:
        UserError: no folder can have the name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"name={name!r:.60} is to name a folder: give 1 to {_LONGEST} characters, no / and no \\ among them, and "
            "no dot before them."
        )
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
