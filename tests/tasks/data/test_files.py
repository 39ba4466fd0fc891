import bz2
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from storage.errors import UserError
from tasks.data.files import read_file

ROWS = [("grüße", "01"), ("deux cafés", "1"), ("plain", "x")]
TABLE = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
OBJECTS = [{"text": text, "label": label} for text, label in ROWS]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.CSV", TABLE.encode()),
        ("rows.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
        ("rows.tsv.BZ2", bz2.compress(TABLE.replace(",", "\t").encode())),
        ("all*.csv", TABLE.encode()),
        ("rows[1].Tsv", TABLE.replace(",", "\t").encode()),
        ("rows.csv", b"\xef\xbb\xbf" + TABLE.encode()),
        ("rows.csv", TABLE.encode("utf-16")),
        ("rows.csv", TABLE.encode("utf-32")),
        ("rows.jsonl", b"\xef\xbb\xbf" + "\n".join(map(json.dumps, OBJECTS)).encode()),
        ("rows.JSONL.gz", gzip.compress("\n\n".join(map(json.dumps, OBJECTS)).encode(), mtime=0)),
        ("rows.json", json.dumps(OBJECTS, indent=1).encode()),
        ("rows.json", "\n".join(map(json.dumps, OBJECTS)).encode()),
    ],
)
def test_files_that_people_have(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    # What a name is taken for if it is taken for a pattern.
    (tmp_path / "allother.csv").write_text("text,label\nother,y\n")
    (tmp_path / "rows1.tsv").write_text("text\tlabel\nother\ty\n")
    assert read_file(tmp_path / name, "path:it").rows() == ROWS


def test_a_parquet_file_whose_name_is_like_a_pattern(tmp_path: Path) -> None:
    for name, label in (
        ("all*.parquet", "x"),
        ("allother.parquet", "y"),
        ("[a].parquet", "x"),
        ("a.parquet", "y"),
    ):
        pl.DataFrame({"text": ["a"], "label": [label]}).write_parquet(tmp_path / name)
    assert read_file(tmp_path / "all*.parquet", "path:it").rows() == [("a", "x")]
    assert read_file(tmp_path / "[a].parquet", "path:it").rows() == [("a", "x")]


def test_another_encoding_is_taken_when_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(TABLE.encode("cp1252"))
    assert read_file(tmp_path / "rows.csv", "path:it", "cp1252").rows() == ROWS


def test_numbers_in_json_stay_what_is_written(tmp_path: Path) -> None:
    lines = ['{"text": "a", "label": 1E2}', '{"text": "b", "label": 12345678901234567890}']
    lines += ['{"text": "c", "label": true}', '{"text": "d", "label": NaN}', '{"text": "e"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    labels = read_file(tmp_path / "rows.jsonl", "path:it")["label"].to_list()
    assert labels == ["1E2", "12345678901234567890", "true", None, None]


BAD: list[tuple[str, bytes, str]] = [
    (
        "rows.csv",
        "text,label\ncafé crème brûlée à la carte,x\n".encode("latin-1"),
        "say --encoding [a-z0-9_]+, or save",
    ),
    ("rows.csv", TABLE.encode("utf-16-le"), "is not in utf-8|NUL characters.*seems to be utf_16"),
    ("rows.csv.gz", TABLE.encode(), "cannot be read as gzip"),
    ("rows.csv.bz2", bz2.compress(TABLE.encode())[:-9], "cannot be read as bzip2"),
    ("rows.csv.gz", gzip.compress(TABLE.encode(), mtime=0)[:-12], "cannot be read as gzip"),
    ("rows.xlsx", b"PK", "is none of .*a spreadsheet is saved as CSV"),
    ("rows.parquet.gz", b"", "is none of"),
    ("rows.parquet", b"PAR1", "cannot be read as parquet"),
    ("rows.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", \n', "line 2 is no JSON"),
    ("rows.jsonl", b'"a"\n', "line 1 is not an object of named values"),
    ("rows.jsonl", b"\n\n", "holds no row"),
    (
        "rows.json",
        b'{"text": {"0":\n "a"}}',
        "line 1 is no JSON.*Give an array of objects, or one object a line",
    ),
    ("rows.json", b'["a"]', "element 1 is not an object"),
    ("rows.json", b'[{"text": "a"', "is no JSON"),
    ("rows.csv", b"", "is empty"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_file_that_cannot_be_read_says_why_and_the_way_out(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"(?s)rows.*{message}") as caught:
        read_file(tmp_path / name, "path:it")
    assert str(tmp_path / name) in str(caught.value)


def test_an_encoding_that_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(TABLE)
    with pytest.raises(UserError, match="no encoding 'klingon' \\(--encoding\\)"):
        read_file(tmp_path / "rows.csv", "path:it", "klingon")
    with pytest.raises(UserError, match="is not in ascii"):
        read_file(tmp_path / "rows.csv", "path:it", "ascii")


def test_what_is_read_otherwise_than_written_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rows.tsv").write_text('text\tlabel\n"open\tx\nb\ty\n')
    with caplog.at_level(logging.WARNING):
        assert read_file(tmp_path / "rows.tsv", "path:it").rows() == [('"open', "x"), ("b", "y")]
    assert "quotation marks are read as characters" in caplog.text


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_a_name_of_a_file_that_is_none(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "rows.csv")
    with pytest.raises(UserError, match="cannot be read as csv"):
        read_file(tmp_path / "rows.csv", "path:it")
