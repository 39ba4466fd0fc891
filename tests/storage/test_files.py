from pathlib import Path
from typing import BinaryIO

import pytest

from storage.files import GOOGLE_RETRY_SECONDS, exists, filesystem, list_files, read_bytes, write_atomically


def test_file_appears_whole(tmp_path: Path) -> None:
    uri = str(tmp_path / "a" / "b.txt")
    write_atomically(uri, lambda sink: _write(sink, b"one"))
    write_atomically(uri, lambda sink: _write(sink, b"two"))
    assert read_bytes(uri) == b"two"
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    uri = str(tmp_path / "b.txt")
    write_atomically(uri, lambda sink: _write(sink, b"one"))

    def break_off(sink: BinaryIO) -> None:
        sink.write(b"half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        write_atomically(uri, break_off)
    assert read_bytes(uri) == b"one"
    assert [each.name for each in tmp_path.iterdir()] == ["b.txt"]


def test_file_uri_is_the_same_place_as_its_path(tmp_path: Path) -> None:
    write_atomically(f"file://{tmp_path}/c.txt", lambda sink: _write(sink, b"three"))
    assert read_bytes(str(tmp_path / "c.txt")) == b"three"
    assert exists(f"file://{tmp_path}/c.txt")


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [
        ("gs://bucket/folder", GOOGLE_RETRY_SECONDS),
        ("gcs://bucket/folder?scheme=http", GOOGLE_RETRY_SECONDS),
        ("gs://bucket/folder?retry_limit_seconds=300", 300),
    ],
)
def test_google_is_asked_for_no_longer_than_told(uri: str, seconds: int) -> None:
    system, path = filesystem(uri)
    ((options,),) = [system.__reduce__()[1]]
    assert options["retry_time_limit"].total_seconds() == seconds
    assert path == "bucket/folder"


def test_listing_a_folder(tmp_path: Path) -> None:
    for name in ("x/2.parquet", "x/1.parquet", "x/y/3.parquet", "x/4.json"):
        write_atomically(f"{tmp_path}/{name}", lambda sink: _write(sink, b""))
    found = list_files(f"{tmp_path}/x", ".parquet")
    assert [each.removeprefix(f"{tmp_path}/x/") for each in found] == [
        "1.parquet",
        "2.parquet",
        "y/3.parquet",
    ]
    assert list_files(f"{tmp_path}/z") == []


def _write(sink: BinaryIO, content: bytes) -> None:
    sink.write(content)
