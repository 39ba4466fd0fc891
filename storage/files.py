"""Reading and atomic writing on any filesystem that pyarrow knows: a disk, S3, GCS, HDFS."""

import fcntl
import glob
import hashlib
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pyarrow import fs

from storage.errors import UserError

# The end of the name of a file in the making.
UNFINISHED = ".tmp"
HADOOP = ("hdfs://", "viewfs://")
GOOGLE = ("gs://", "gcs://")
# Without credentials, or a network, its client would go on asking for a quarter of an hour.
GOOGLE_RETRY_SECONDS = 20


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of `uri` and the path on it. A plain path, relative or absolute, is the local disk.

    Raises:
        UserError: pyarrow knows no such scheme, or lacks its libraries or an account.
    """
    if "://" in uri:
        try:
            return fs.FileSystem.from_uri(_bounded(uri))
        except (ValueError, NotImplementedError) as error:  # a scheme it does not know, or was built without
            raise _no_place(uri, error) from error
        except OSError as error:
            # S3 asks the network already here, and may answer later; HDFS only looks for its libraries.
            if not uri.startswith(HADOOP):
                raise
            raise _no_place(uri, error) from error
    return fs.LocalFileSystem(), os.path.abspath(uri)


def _no_place(uri: str, error: Exception) -> UserError:
    return UserError(
        f"{uri} is no place that files can be kept in here: {str(error).splitlines()[0]}. Use a folder, or a URI that "
        "pyarrow reads (such as s3://bucket/folder), with its libraries and credentials."
    )


def _bounded(uri: str) -> str:
    """The same place, asked for no longer than it may take to answer."""
    if not uri.startswith(GOOGLE) or "retry_limit_seconds" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={GOOGLE_RETRY_SECONDS}"


def exists(uri: str) -> bool:
    """Whether a file or folder lies at `uri`."""
    system, path = filesystem(uri)
    return system.get_file_info(path).type != fs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    """The whole file; `FileNotFoundError` when there is none."""
    system, path = filesystem(uri)
    with system.open_input_stream(path) as source:
        return source.read()


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file on this disk, as a hex string."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def list_files(uri: str, suffix: str = "") -> list[str]:
    """The files anywhere under a folder, as URIs in sorted order; an absent folder has none."""
    system, path = filesystem(uri)
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    inside = [info.path for info in found if info.is_file and info.path.endswith(suffix)]
    return sorted(uri.rstrip("/") + each.removeprefix(path.rstrip("/")) for each in inside)


def list_folders(uri: str) -> list[str]:
    """The names of the folders directly inside a folder, sorted; an absent folder has none."""
    system, path = filesystem(uri)
    found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def remove_file(uri: str) -> None:
    """Delete a file; an absent one is no error."""
    system, path = filesystem(uri)
    with suppress(FileNotFoundError):
        system.delete_file(path)


def write_file(uri: str, content: bytes) -> None:
    """Write a file that appears at `uri` whole or not at all."""
    write_atomically(uri, lambda sink: _write(sink, content))


def _write(sink: BinaryIO, content: bytes) -> None:
    sink.write(content)


def write_atomically(uri: str, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a file that appears at `uri` whole or not at all, whatever dies in between.

    On a disk: a temporary name beside it, fsync, rename, fsync of the folder; what a killed writer of the same file
    left under such a name is removed. An object store shows an object only when its upload is complete, so there
    the plain write is atomic.
    """
    system, path = filesystem(uri)
    if not isinstance(system, fs.LocalFileSystem):
        with system.open_output_stream(path) as sink:
            write(sink)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_strays(target)
    temporary, sink = _open_locked(target)
    try:
        with sink:
            write(sink)
            sink.flush()
            os.fsync(sink.fileno())
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _open_locked(target: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `target`, locked as long as it is open: the lock says that its writer is alive."""
    while True:
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{UNFINISHED}")
        sink = temporary.open("wb")
        if not _lock(sink.fileno(), wait=True) or os.fstat(sink.fileno()).st_nlink:
            return temporary, sink
        sink.close()  # somebody took it for a stray in the moment before it was locked


def _remove_strays(target: Path) -> None:
    for stray in target.parent.glob(f".{glob.escape(target.name)}.*{UNFINISHED}"):
        with suppress(FileNotFoundError), stray.open("rb") as unfinished:
            if _lock(unfinished.fileno(), wait=False):
                stray.unlink()


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file for its one writer; False where another holds it, or where the disk knows no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut; Windows opens no folders and needs no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
