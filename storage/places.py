"""Whether files can be written at a place, found out before the work that would be lost there."""

import os
import uuid
from pathlib import Path

from pyarrow import ArrowException, fs

from storage.errors import UnreachableError, UserError
from storage.files import UNFINISHED, filesystem


def check_folder(root: str, named: str) -> None:
    """Find out that files can be kept in a storage or a cache; a folder is made where it is absent.

    Args:
        root: path or URI.
        named: what it comes from, such as `--storage`.

    Raises:
        UserError: it is a file, may not be written, or no filesystem here knows its URI.
    """
    if "://" in root:
        try:
            system, path = filesystem(root)
            system.get_file_info(path)
        except (OSError, ArrowException) as error:
            raise UnreachableError(f"{root} ({named}) cannot be reached: {_reason(error)}.") from error
        return
    if set("?\\") & set(os.path.abspath(root)):
        raise UserError(
            f"DuckDB opens no file below a folder with ? or \\ in its name: {root} ({named}). Name another."
        )
    folder = Path(root).absolute()
    probe = folder / f".{uuid.uuid4().hex}{UNFINISHED}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        raise UserError(
            f"Nothing can be written into {root} ({named}): {_reason(error)}. Name another folder, or change what lies "
            "there or its permissions."
        ) from error


def check_target(out: str, flag: str) -> None:
    """Find out that a file can be written.

    Args:
        out: path or URI of the file.
        flag: where it came from, such as `--out`.

    Raises:
        UserError: it is a folder, its folder is none or may not be written, or no filesystem here knows its URI.
    """
    if not isinstance(filesystem(out)[0], fs.LocalFileSystem):
        return
    file = Path(out)
    try:
        is_folder = file.is_dir() or out.endswith("/")
    except (OSError, ValueError) as error:
        raise UserError(f"{flag} {out} cannot be written: {_reason(error)}. Name another file.") from error
    if is_folder:
        raise UserError(f"{flag} {out} is a folder. Name a file, in it or elsewhere.")
    if (why := why_not_writable(file.parent)) is not None:
        raise UserError(f"{flag} {out} cannot be written: {why}. Name another file.")


def why_not_writable(folder: Path) -> str | None:
    """Why a file cannot be made in a folder of this machine, which need not be there yet; None where it can.

    Nothing is written to find out.
    """
    folder = folder.absolute()
    try:
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
    except (OSError, ValueError) as error:
        return _reason(error)
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} may not be written"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0].rstrip(". ")
