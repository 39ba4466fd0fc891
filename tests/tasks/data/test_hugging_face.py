import json
import logging
from pathlib import Path

import datasets
import polars as pl
import pyarrow.parquet as pq
import pytest

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import read_dataset
from tasks.data.hugging_face import named_labels
from tests.conftest import labelled_text
from tests.tasks.data.conftest import prepare, write_rows


def test_saved_hugging_face_dataset_keeps_its_class_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    part = datasets.Dataset.from_dict({"sentence": list("abcdef"), "label": [0, 1] * 3}, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "saved"))
    found, table = prepare(f"path:{tmp_path / 'saved'}", tmp_path / "out")
    assert (found.classes, found.text_column) == (("no", "yes"), "sentence")
    assert table["text"].to_list() == list("abcdefabcdef")


def saved(folder: Path, parts: dict[str, tuple[list[str], list[int]]]) -> str:
    """The spec of a DatasetDict on disk: split → (the names that its class labels number, the labels)."""
    datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {"text": [f"{split} {row}" for row in range(len(labels))], "label": labels},
                features=datasets.Features(
                    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
                ),
            )
            for split, (names, labels) in parts.items()
        }
    ).save_to_disk(str(folder))
    return f"path:{folder}"


def test_splits_that_number_the_same_names_in_other_ways(tmp_path: Path) -> None:
    spec = saved(
        tmp_path / "saved", {"train": (["no", "yes"], [0, 1] * 3), "test": (["yes", "no"], [0, 0, 1])}
    )
    found, table = prepare(spec, tmp_path / "out")
    assert found.classes == ("no", "yes")
    assert [found.classes[label] for label in table.filter(split="test")["label"]] == ["yes", "yes", "no"]


def test_the_hubs_minus_one_is_no_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["no", "yes"]
    some = saved(tmp_path / "some", {"train": (names, [0, 1] * 3), "test": (names, [0, -1, 1])})
    with pytest.raises(
        UserError, match=r"Row 2 in test of path:.* has no label \(column 'label'\); 1 of 3 rows"
    ):
        prepare(some, tmp_path / "out")
    no_train = saved(tmp_path / "train", {"train": (names, [-1] * 6), "test": (names, [0, 1])})
    with pytest.raises(UserError, match="6 of 6 rows"):
        prepare(no_train, tmp_path / "out")
    # As benchmarks do that keep the labels of their test rows to themselves.
    hidden = saved(tmp_path / "hidden", {"train": (names, [0, 1] * 10), "test": (names, [-1] * 3)})
    with caplog.at_level(logging.WARNING):
        found, _ = prepare(hidden, tmp_path / "out")
    assert (found.train_rows + found.test_rows, found.test_is_made) == (20, True)
    assert "No row in test" in caplog.text


def test_a_parquet_file_of_datasets_brings_the_names_of_its_labels(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    for split, labels in (("train", [1, 0] * 5), ("test", [1, 0, -1])):
        texts = [f"{split} {row}" for row in range(len(labels))]
        part = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
        part.to_parquet(str(tmp_path / f"{split}.parquet"))
    with pytest.raises(UserError, match=r"Row 3 in test of .* has no label"):
        read_dataset(f"path:{tmp_path}", Layout(""))
    found, table = read_dataset(f"path:{tmp_path / 'train.parquet'}", Layout(""))
    assert found.classes == ("no", "yes")
    assert table["label"].head(2).to_list() == [1, 0]


def test_a_list_as_older_versions_told_it_hides_no_names(tmp_path: Path) -> None:
    label = {"names": ["no", "yes"], "_type": "ClassLabel"}
    features = {"label": label, "tags": [{"dtype": "string", "_type": "Value"}], "text": {"_type": "Value"}}
    frame = pl.DataFrame({"text": [f"t {i}" for i in range(20)], "label": [1, 0] * 10, "tags": [["a"]] * 20})
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(frame.to_arrow().replace_schema_metadata(told), tmp_path / "train.parquet")
    assert read_dataset(f"path:{tmp_path / 'train.parquet'}", Layout(""))[0].classes == ("no", "yes")


@pytest.mark.parametrize(
    "labels",
    [
        pl.Series("label", [1, 0], dtype=pl.UInt8),
        pl.Series("label", [1.0, 0.0]),
        pl.Series("label", [True, False]),
        pl.Series("label", ["yes", "no"]),
    ],
    ids=["small", "float", "truth", "names"],
)
def test_class_labels_of_any_type_have_their_names(labels: pl.Series) -> None:
    assert named_labels(labels, ["no", "yes"], "train of it").to_list() == ["yes", "no"]


@pytest.mark.parametrize("labels", [pl.Series("label", [0.5]), pl.Series("label", ["maybe"])])
def test_class_labels_that_number_nothing_are_refused(labels: pl.Series) -> None:
    with pytest.raises(
        UserError, match=r"Column 'label' in train of it is .*, and is said to number 2 class names"
    ):
        named_labels(labels, ["no", "yes"], "train of it")


def test_a_class_label_beyond_its_names_is_refused(tmp_path: Path) -> None:
    # `datasets` itself lets no such number into a file of its own; other writers do.
    frame = pl.Series("label", [0, 1, 7])
    with pytest.raises(UserError, match=r"holds 7, and its 2 class names are numbered from 0 to 1"):
        named_labels(frame, ["no", "yes"], "train of it")


def test_splits_of_a_saved_dataset_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["no", "yes"]
    spec = saved(tmp_path / "saved", {"train": (names, [0, 1] * 9), "unsupervised": (names, [-1] * 3)})
    with caplog.at_level(logging.WARNING):
        found, _ = prepare(spec, tmp_path / "out")
    assert found.train_rows + found.test_rows == 18
    assert "['unsupervised'] are not read" in caplog.text


@pytest.mark.parametrize("folder", ["a[1]b", "all*", "what?"])
def test_a_clone_in_a_folder_whose_name_is_a_pattern_is_refused(tmp_path: Path, folder: str) -> None:
    for name, label in ((folder, "x"), ("a1b", "y"), ("allother", "y"), ("whatx", "y")):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "train-00000.csv").write_text("text,label\n" + f"a,{label}\nb,z\n" * 9)
    with pytest.raises(
        UserError, match=r"`datasets` takes \*, \? and \[ in .* for a pattern. Rename the folder"
    ):
        read_dataset(f"path:{tmp_path / folder}", Layout(""))


def test_a_clone_of_tables_is_read_as_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.csv").write_text("text,label\n" + "a,01\nb,1\nNA,None\n" * 9)
    found, table = read_dataset(f"path:{tmp_path}", Layout(""))
    # Neither one number, nor missing.
    assert found.classes == ("01", "1", "None")
    assert "NA" in table["text"].to_list()


def test_files_of_a_split_may_differ_in_columns_that_nobody_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part, more in enumerate(
        ({"meta": None, "tags": None, "id": 1}, {"meta": {"a": 1}, "tags": ["x"], "id": [1]})
    ):
        rows = [{"text": f"text {part} {i}", "label": i % 2} | more for i in range(10)]
        (tmp_path / f"train-0000{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, _ = read_dataset(f"path:{tmp_path}", Layout(""))
    assert found.train_rows + found.test_rows == 20
    assert "that are of several types are not read: id" in caplog.text


def test_a_clone_of_tables_takes_the_class_names_of_its_card(tmp_path: Path) -> None:
    card = """---
dataset_info:
  features:
  - {name: text, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': 'no', '1': 'yes'}}}
---
"""
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text(card)
    (tmp_path / "data" / "train-00000.csv").write_text("text,label\n" + "a,1\nb,0\n" * 9)
    found, table = read_dataset(f"path:{tmp_path}", Layout(""))
    assert found.classes == ("no", "yes")
    assert table["label"].head(2).to_list() == [1, 0]


def test_hub_data_set_is_read_from_the_hubs_own_cache_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "datasets--someone--verses"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    write_rows(labelled_text(30), snapshot / "train.parquet")
    write_rows(labelled_text(12), snapshot / "test.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found, table = prepare("hf:someone/verses", tmp_path / "out")
    assert (found.revision, found.train_rows, found.test_rows) == (commit, 30, 12)
    assert table["text"].to_list()[:30] == labelled_text(30)["text"].to_list()
    with pytest.raises(UserError, match=r"hf:someone/prose is not on this machine.*HF_HUB_OFFLINE"):
        prepare("hf:someone/prose", tmp_path / "out")


def test_a_clone_of_a_hub_repository_is_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_rows(labelled_text(30), tmp_path / "data" / "train-00000-of-00001.parquet")
    write_rows(labelled_text(12), tmp_path / "data" / "test-00000-of-00001.parquet")
    found, _ = prepare(f"path:{tmp_path}", tmp_path / "out")
    assert (found.train_rows, found.test_rows, found.test_is_made) == (30, 12, False)


def test_a_dataset_without_splits_saved_on_disk(tmp_path: Path) -> None:
    rows = labelled_text(30)
    datasets.Dataset.from_dict(rows.to_dict(as_series=False)).save_to_disk(str(tmp_path / "saved"))
    found, _ = prepare(f"path:{tmp_path / 'saved'}", tmp_path / "out")
    assert (found.train_rows + found.test_rows, found.test_is_made) == (30, True)
