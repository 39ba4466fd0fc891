"""What cannot be written is told before the work."""

import os
from pathlib import Path

import pytest

from storage.errors import UserError, is_about_a_place, told_of_a_place
from storage.files import filesystem, write_file
from storage.places import check_folder, check_target, why_not_writable

LONG = "n" * 300


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.touch()
    return file


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may only be read, also where the tests run as root, whom no permission stops."""
    folder = tmp_path / "locked"
    folder.mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != folder and allowed(place, mode))
    return folder


def test_a_storage_is_made_and_left_as_it_was(tmp_path: Path) -> None:
    for name in ("new/folder", "a%20b", "50%", "#1", "[x]", "[/bad]", "it's", "naïve ×"):
        check_folder(str(tmp_path / name), "--storage")
        assert list((tmp_path / name).iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "File exists"),
        ("file/below", "Not a directory"),
        (LONG, "File name too long"),
        ("a\0b", "null byte"),
        ("what?", "DuckDB"),
        ("back\\slash", "DuckDB"),
    ],
)
def test_a_storage_that_cannot_be_written_is_refused(
    tmp_path: Path, a_file: Path, name: str, why: str
) -> None:
    with pytest.raises(UserError, match=rf"{why}.*--storage|--storage.*{why}"):
        check_folder(str(tmp_path / name), "--storage")


@pytest.mark.parametrize("uri", ["nowhere://x", "hdfs://localhost:1/x", "abfs://container/x", "s3:///x"])
def test_a_place_that_no_filesystem_here_knows_is_a_sentence(uri: str) -> None:
    with pytest.raises(UserError, match="no place that files can be kept in"):
        filesystem(uri)


def test_a_target_is_looked_at_and_not_touched(tmp_path: Path, a_file: Path, locked: Path) -> None:
    check_target(f"{tmp_path}/new/rows.csv", "--out")
    check_target(str(a_file), "--out")
    assert not (tmp_path / "new").exists()
    for target, why in (
        (str(tmp_path), "is a folder"),
        (f"{tmp_path}/new/", "is a folder"),
        (f"{a_file}/rows.csv", "is no folder"),
        (f"{locked}/rows.csv", "may not be written"),
        (f"{tmp_path}/{LONG}", "too long"),
    ):
        with pytest.raises(UserError, match=f"--out.*{why}"):
            check_target(target, "--out")


def test_doctor_and_export_ask_of_a_folder_that_need_not_be_there(
    tmp_path: Path, a_file: Path, locked: Path
) -> None:
    assert why_not_writable(tmp_path / "new" / "er") is None
    assert why_not_writable(a_file / "below") == f"{a_file} is no folder"
    assert why_not_writable(locked / "new") == f"{locked} may not be written"


def test_an_error_of_a_place_is_told_with_the_way_out(a_file: Path) -> None:
    with pytest.raises(OSError, match="file") as failed:
        write_file(f"{a_file}/below", b"")
    assert is_about_a_place(failed.value)
    assert told_of_a_place(failed.value).startswith(f"{a_file}")
    assert not is_about_a_place(FileNotFoundError(2, "No such file or directory"))
