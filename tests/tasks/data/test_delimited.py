import csv
import io
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.errors import UserError
from tasks.data.delimited import read_delimited


def read(text: str, ending: str = ".csv") -> tuple[pl.DataFrame, list[str]]:
    notes: list[str] = []
    return read_delimited(text, ending, "rows.csv", notes.append), notes


def rows_of(text: str, ending: str = ".csv") -> list[tuple[str | None, ...]]:
    return read(text, ending)[0].rows()


# Characters that part, quote and end; a text of blanks alone makes a blank row, which is none.
CELLS = st.text(st.sampled_from(" ,;\t|\"\n\r'ab1é"), min_size=1, max_size=12).filter(
    lambda cell: cell.strip()
)


# No text holds what the last column does: lines that are rows cannot be told from a quotation mark that was left open.
@given(
    rows=st.lists(st.tuples(CELLS, st.sampled_from(["yes", "no"])), min_size=1, max_size=8),
    separator=st.sampled_from(",;\t|"),
)
@example(rows=[("a", "yes"), ('"\na,b\n', "no")], separator=",")
@example(rows=[('"', "yes"), ('"', "yes"), ("1\r", "yes")], separator="\t")
@example(rows=[("b", "yes"), ("b", "yes"), ("\rb;\r", "yes")], separator=";")
@example(rows=[("b", "yes"), ("b", "no"), ("\rb;a\r", "yes")], separator=";")
def test_what_a_writer_of_csv_writes_is_read_again(rows: list[tuple[str, str]], separator: str) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    found, notes = read(written.getvalue())
    assert found.rows() == rows
    assert notes == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text,label\na,01\nb,1\nc,1E2\nd,007\n", [("a", "01"), ("b", "1"), ("c", "1E2"), ("d", "007")]),
        ("text;label\na, b;x\n", [("a, b", "x")]),
        ("text\tlabel\na, b\tx\n", [("a, b", "x")]),
        ("text|label\na, b|x\n", [("a, b", "x")]),
        ("text;score,label\nwell, yes;1,5\n", [("text;score", None)]),
        ('"text, whole";label\na;x\nb;y\n', [("a", "x"), ("b", "y")]),
        (" text , label \na,x\n", [("a", "x")]),
        ("text,label\r\na,x\r\n", [("a", "x")]),
        ("text,label\ra,x\rb,y", [("a", "x"), ("b", "y")]),
        ("text,label\n\n \na,x\n,\n", [("a", "x")]),
        ("text,label,,\na,x,,\nb,y,,\n", [("a", "x", None, None), ("b", "y", None, None)]),
        ("text,label\na,x,,\n", [("a", "x")]),
        ('text,label\n"said ""no""",x\n', [('said "no"', "x")]),
        ('text,label\nsaid "no",x\n', [('said "no"', "x")]),
        ('text,label\n"one\ntwo, three",x\nfour,y\n', [("one\ntwo, three", "x"), ("four", "y")]),
        ("text,label\na\x0bb\x85c\u2028d,x\n", [("a\x0bb\x85c\u2028d", "x")]),
    ],
)
def test_tables_as_people_write_them(text: str, expected: list[tuple[str | None, ...]]) -> None:
    if expected == [("text;score", None)]:
        # Either character parts this heading, and only one of them every row.
        assert read(text)[0].columns == ["text", "score,label"]
    else:
        assert rows_of(text) == expected


def test_a_text_of_several_lines_that_ends_like_a_row_is_one_text() -> None:
    texts = ["plain", "One, two, three, and so it begins.\n\nIt ends, like a row", "also plain"]
    rows = "".join(f'{label},"{text}",film {label},False\n' for text, label in zip(texts, "abc", strict=True))
    found, notes = read(f"label,text,name,whole\n{rows}")
    assert (found["text"].to_list(), notes) == (texts, [])


def test_a_quotation_mark_that_swallows_rows_of_a_tsv_is_a_character() -> None:
    opened = [
        '"So it begins\tgood',
        *(f"row {i}\tbad" for i in range(40)),
        'said "no"\tgood',
        'the end"\tbad',
    ]
    found, notes = read("text\tlabel\n" + "\n".join(opened) + "\n", ".tsv")
    assert found.rows() == [tuple(line.split("\t")) for line in opened]
    assert len(notes) == 1
    assert "quotation marks are read as characters" in notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'text,label\nz,x\n"a,x\nb,x\nc",x\n',
            r"line 3 opens a quotation mark that takes in whole rows.*line 5",
        ),
        ('text,label\na,x\n"b,x\nc,x\n', "line 3 opens a quotation mark that is never closed"),
        ('text,label\n"a" he said,x\n', "line 2 goes on behind a closing quotation mark"),
        ('text,label\n"a\nb" he said,x\n', "line 2 opens one, and line 3 goes on behind a closing"),
        (
            "text,label\na,x\nb, and c,y\n",
            r"line 3 has 3 fields, and the first line names 2 columns \(text, label\)",
        ),
        ("text,label\na,x\nb\n", "line 3 has 1 fields"),
        ("text\tlabel\na\tb\tx\n", "A text that holds a tab has to stand in quotation marks"),
        ("text,label,text\na,x,b\n", "names two columns 'text'"),
        ("", "is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"(?s)rows.csv.*{message}"):
        read(text)


def test_a_tab_file_loses_the_two_lines_on_types_and_roles_only_where_they_are_there() -> None:
    plain = "text\tlabel\na\tx\nb\ty\nc\tz\n"
    assert len(rows_of(plain, ".tab")) == 3
    for types, roles in (
        ("string\td", "meta\tclass"),
        ("string\tdiscrete", "\tclass"),
        ("s\tc", "meta title=True\t"),
    ):
        found = rows_of(plain.replace("text\tlabel\n", f"text\tlabel\n{types}\n{roles}\n"), ".tab")
        assert found == [("a", "x"), ("b", "y"), ("c", "z")]
    assert len(rows_of("text\tlabel\nstring\td\nmeta\tclass\na\tx\n", ".tsv")) == 3


def test_a_long_text_is_no_limit(tmp_path: Path) -> None:
    assert rows_of(f'text,label\n"{"long " * 50_000}",x\n')[0][0] == "long " * 50_000
