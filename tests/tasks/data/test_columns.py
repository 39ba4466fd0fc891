"""Which columns are read, under which names, and what is made of them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import read_dataset
from tests.conftest import labelled_text
from tests.tasks.data.conftest import prepare, write_rows


def test_integer_labels_take_names_from_a_companion_column(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "text": list("abcdef"),
            "label": [7, 3, 7, 3, 7, 3],
            "label_name": ["up", "down", "up", "down", "up", "down"],
        }
    )
    write_rows(frame, tmp_path / "train.csv")
    write_rows(frame, tmp_path / "test.csv")
    found, table = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert found.classes == ("down", "up")
    assert table["label"].to_list()[:6] == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("Text", "text", "label"), None),
        (("Text", "TEXT", "label"), "Both Text and TEXT of .* may be the text. Say --text-column"),
        (("I love this", "good"), "If these are values of its first row, write a line with names above it"),
    ],
)
def test_columns_whose_names_do_not_tell(
    tmp_path: Path, columns: tuple[str, ...], message: str | None
) -> None:
    rows = [[f"{name} {i}" for name in columns[:-1]] + [("x", "y")[i % 2]] for i in range(10)]
    (tmp_path / "all.csv").write_text("\n".join(",".join(row) for row in [list(columns), *rows]))
    if message is None:
        assert read_dataset(f"path:{tmp_path / 'all.csv'}", Layout(""))[0].text_column == "text"
    else:
        with pytest.raises(UserError, match=message):
            read_dataset(f"path:{tmp_path / 'all.csv'}", Layout(""))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10", "2", "1"], ("1", "2", "10")),
        (["10", "2", "b"], ("10", "2", "b")),
        ([10, 2, 1], ("1", "2", "10")),
        ([10.0, 2.0, 1.0], ("1", "2", "10")),
        ([True, False, True], ("false", "true")),
    ],
)
def test_labels_have_the_order_that_people_count_in(
    tmp_path: Path, labels: list[Any], classes: tuple[str, ...]
) -> None:
    frame = pl.DataFrame({"text": list("abcdef"), "label": labels * 2})
    frame.write_parquet(tmp_path / "train.parquet")
    frame.write_parquet(tmp_path / "test.parquet")
    found, table = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert found.classes == classes
    assert [found.classes[label] for label in table["label"][:3]] == [
        str(each).lower().removesuffix(".0") for each in labels
    ]


def test_several_text_columns_are_read_as_one_text(tmp_path: Path) -> None:
    rows = labelled_text(60).rename({"text": "premise"}).with_columns(hypothesis=pl.lit("it was"))
    write_rows(rows, tmp_path / "all.csv")
    spec = f"path:{tmp_path / 'all.csv'}"
    found, table = prepare(spec, tmp_path / "out", text_column=("premise", "hypothesis"))
    assert found.text_column == "premise + hypothesis"
    assert set(table["text"]) == {f"{premise}\nit was" for premise in rows["premise"]}
    turned, other = prepare(
        spec, tmp_path / "out", text_column=["hypothesis", "premise"], joined_by=" [SEP] "
    )
    assert set(other["text"]) == {f"it was [SEP] {premise}" for premise in rows["premise"]}
    assert turned.fingerprint != found.fingerprint
    # One alone is what it always was, as a word or as one of several.
    assert (
        prepare(spec, tmp_path / "out", text_column="premise")[0]
        == prepare(spec, tmp_path / "out", text_column=("premise",))[0]
    )
    with pytest.raises(UserError, match=r"no column 'question' in every split \(--text-column\)"):
        prepare(spec, tmp_path / "out", text_column=("premise", "question"))
    write_rows(rows.with_columns(hypothesis=pl.lit(" ")), tmp_path / "empty.csv")
    with pytest.raises(UserError, match="an empty text \\(column 'hypothesis'\\)"):
        prepare(f"path:{tmp_path / 'empty.csv'}", tmp_path / "out", text_column=("premise", "hypothesis"))
