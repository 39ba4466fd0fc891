"""A source of labelled text → one frame a split, as its columns came: file, folder, saved Dataset or repository."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from glob import has_magic
from pathlib import Path

import polars as pl

from storage.errors import UserError
from storage.sources.source import Fetched, Source
from tasks.data.files import ENDINGS, ending_of, read_file, stem_of
from tasks.data.hugging_face import (
    Part,
    are_plain_tables,
    class_names,
    named_labels,
    parts_of,
    read_tables,
    reading_as_datasets,
)

log = logging.getLogger(__name__)

# What people call the splits, as the `datasets` library reads the names of files.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# What may hold rows, or say where they are; the rest of a repository stays there.
DATA_FILES = [
    "*.parquet",
    "*.csv",
    "*.tsv",
    "*.json",
    "*.jsonl",
    "*.gz",
    "*.bz2",
    "*.zst",
    "*.arrow",
    "*.txt",
    "README.md",
]


@dataclass(frozen=True)
class Read:
    """A source as it was read: one frame a split (`train`, and perhaps `validation` and `test`).

    `label_names` has the names of a column's classes in the source's own order, where it tells them; the column then
    holds these names, and null where a row has no label.
    """

    splits: dict[str, pl.DataFrame]
    revision: str = ""
    label_names: dict[str, list[str]] = field(default_factory=dict)
    text_column: str | None = None
    label_column: str | None = None


def read_source(source: Source, encoding: str | None = None) -> Read:
    """Read what a spec names. encoding: of text files; None is that of their mark, or UTF-8.

    Raises:
        UserError: there is nothing there, or nothing that can be read.
    """
    fetched = source.fetch("dataset", DATA_FILES)
    read = _read_place(fetched, source.spec, encoding)
    if fetched.labels and fetched.label_column:
        kept = pl.col(fetched.label_column).is_in(fetched.labels)
        read = replace(read, splits={split: frame.filter(kept) for split, frame in read.splits.items()})
    return replace(
        read,
        revision=fetched.revision,
        text_column=fetched.text_column,
        label_column=fetched.label_column,
    )


def _read_place(fetched: Fetched, spec: str, encoding: str | None) -> Read:
    """What lies there says how it is read, whichever source has brought it."""
    path = fetched.place
    if fetched.splits:
        return _read_files({split: path / name for split, name in fetched.splits.items()}, spec, None)
    if fetched.is_repository:
        return _read_repository(path, spec, encoding)
    if path.is_file():
        return _read_files({"train": path}, spec, encoding)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _read_saved(path, spec)
    files = {
        each.name: stem_of(each) for each in sorted(path.iterdir()) if each.is_file() and ending_of(each)
    }
    named = _by_role(files, f"{path} (from {spec})")
    if not named and any(_named_after_train(path)):
        # A clone from the hub: data/train-00000-of-00001.parquet and the like.
        return _read_repository(path, spec, encoding)
    if "train" not in named:
        raise UserError(
            f"{path} (from {spec}) should hold one train file, and perhaps validation and test, each as one of "
            f"{', '.join(ENDINGS)}; it holds no train file."
        )
    return _read_files({split: path / name for split, name in named.items()}, spec, encoding)


def _read_files(files: Mapping[str, Path], spec: str, encoding: str | None) -> Read:
    return _named(
        {split: (read_file(file, spec, encoding), class_names(file)) for split, file in files.items()}, spec
    )


def _read_saved(folder: Path, spec: str) -> Read:
    """What `save_to_disk` has written."""
    with reading_as_datasets(spec) as datasets:
        parts = parts_of(datasets.load_from_disk(str(folder)))
    return _chosen(parts, spec)


def _read_repository(folder: Path, spec: str, encoding: str | None) -> Read:
    """A repository of the hub: its own rules say which file is of which split."""
    if has_magic(str(folder)):
        raise UserError(
            f"`datasets` takes *, ? and [ in {folder} (from {spec}) for a pattern. Rename the folder, or save what is "
            "in it as train.parquet and test.parquet there."
        )
    with reading_as_datasets(spec) as datasets:
        builder = datasets.load_dataset_builder(str(folder))
        if are_plain_tables(builder):
            parts = read_tables(builder, spec, encoding)
        else:
            parts = parts_of(datasets.load_dataset(str(folder)))
    return _chosen(parts, spec)


def _chosen(parts: Mapping[str, Part], spec: str) -> Read:
    """Of all splits those that are read, under our names for them."""
    chosen = _by_role({name: name.lower() for name in parts}, spec)
    if "train" not in chosen:
        raise UserError(
            f"{spec} has the splits {', '.join(parts)} but no train split. Save one as train.parquet."
        )
    unread = [name for name in parts if name not in chosen.values()]
    if unread:
        log.warning("Of %s the splits %s are not read: only train, validation and test are", spec, unread)
    return _named({split: parts[name] for split, name in chosen.items()}, spec)


def _named(parts: Mapping[str, Part], spec: str) -> Read:
    """The splits with names in the place of numbered class labels: each split may number the same names otherwise."""
    listed: dict[str, list[str]] = {}
    splits = {}
    for split, (frame, names) in parts.items():
        frame = frame.with_columns(
            named_labels(frame[column], known, f"{split} of {spec}") for column, known in names.items()
        )
        for column, known in names.items():
            listed[column] = list(dict.fromkeys([*listed.get(column, []), *known]))
        splits[split] = frame
    return Read(splits, label_names=listed)


def _by_role(names: Mapping[str, str], where: str) -> dict[str, str]:
    """Which of the names (name → what is read of it) is `train`, `validation`, `test`.

    Raises:
        UserError: two names for one split.
    """
    found = {}
    for split, known in SPLIT_NAMES.items():
        ours = [name for name, read in names.items() if read in known]
        if len(ours) > 1:
            raise UserError(
                f"{where} holds {' and '.join(ours)}, and each of them is the {split} split. Keep one of them there."
            )
        if ours:
            found[split] = ours[0]
    return found


def _named_after_train(folder: Path) -> Iterator[Path]:
    """Files of a train split with further words in their names, here or one folder deeper."""
    for ending in ENDINGS:
        yield from folder.glob(f"train[-_.]*{ending}")
        yield from folder.glob(f"*/train*{ending}")
