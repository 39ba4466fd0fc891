"""A source of labelled text → one frame a split, as its columns came: file, folder, saved Dataset or repository."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from glob import has_magic
from pathlib import Path
from typing import Any, Literal

import polars as pl

from storage.errors import UserError
from storage.sources.source import Fetched, Source
from tasks.data.files import ENDINGS, ending_of, read_file, stem_of
from tasks.data.labels import are_plain_integers

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
    return replace(
        _read_place(fetched, source.spec, encoding),
        revision=fetched.revision,
        text_column=fetched.text_column,
        label_column=fetched.label_column,
    )


def _read_place(fetched: Fetched, spec: str, encoding: str | None) -> Read:
    """What lies there says how it is read, whichever source has brought it."""
    path = fetched.place
    if fetched.splits:
        return Read({split: read_file(path / name, spec) for split, name in fetched.splits.items()})
    if fetched.is_repository:
        return _from_hugging_face("load_dataset", path, spec, encoding)
    if path.is_file():
        return Read({"train": read_file(path, spec, encoding)})
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _from_hugging_face("load_from_disk", path, spec, encoding)
    files = {
        each.name: stem_of(each) for each in sorted(path.iterdir()) if each.is_file() and ending_of(each)
    }
    named = _by_role(files, f"{path} (from {spec})")
    if not named and any(_named_after_train(path)):
        # A clone from the hub: data/train-00000-of-00001.parquet and the like.
        return _from_hugging_face("load_dataset", path, spec, encoding)
    if "train" not in named:
        raise UserError(
            f"{path} (from {spec}) should hold one train file, and perhaps validation and test, each as one of "
            f"{', '.join(ENDINGS)}; it holds no train file."
        )
    return Read({split: read_file(path / name, spec, encoding) for split, name in named.items()})


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


def _from_hugging_face(
    function: Literal["load_dataset", "load_from_disk"], folder: Path, spec: str, encoding: str | None
) -> Read:
    import datasets  # slow, and plain files need not wait for it

    if function == "load_dataset" and has_magic(str(folder)):
        raise UserError(
            f"`datasets` takes *, ? and [ in {folder} (from {spec}) for a pattern. Rename the folder, or save what is "
            "in it as train.parquet and test.parquet there."
        )
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if function == "load_from_disk":
            parts = _parts(datasets.load_from_disk(str(folder)))
        else:
            builder = datasets.load_dataset_builder(str(folder))
            plain = _are_plain_tables(builder)
            parts = (
                _read_tables(builder, spec, encoding) if plain else _parts(datasets.load_dataset(str(folder)))
            )
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{spec} was fetched but `datasets` cannot read it: {str(error).strip().splitlines()[0]} Save the part "
            "you want as train.parquet and test.parquet and use path:FOLDER."
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    named = _by_role({name: name.lower() for name in parts}, spec)
    if "train" not in named:
        raise UserError(
            f"{spec} has the splits {', '.join(parts)} but no train split. Save one as train.parquet."
        )
    unread = [name for name in parts if name not in named.values()]
    if unread:
        log.warning("Of %s the splits %s are not read: only train, validation and test are", spec, unread)
    names: dict[str, list[str]] = {}
    splits = {}
    for split, name in named.items():
        frame, classes = parts[name]
        for column, listed in classes.items():
            # Splits that were encoded one by one may number the same names in other ways.
            frame = frame.with_columns(_named(frame[column], listed, f"{split} of {spec}"))
            names[column] = list(dict.fromkeys([*names.get(column, []), *listed]))
        splits[split] = frame
    return Read(splits, label_names=names)


# A split's rows, and the names that its columns of class labels number.
_Part = tuple[pl.DataFrame, dict[str, list[str]]]


def _parts(loaded: Any) -> dict[str, _Part]:
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return {split: (part.to_polars(), _class_labels(part.features)) for split, part in splits.items()}


def _class_labels(features: Mapping[str, Any]) -> dict[str, list[str]]:
    from datasets import ClassLabel

    return {name: list(each.names) for name, each in features.items() if isinstance(each, ClassLabel)}


def _are_plain_tables(builder: Any) -> bool:
    """Whether it is text tables or JSON with names in them, which are read as every other such file: as written."""
    config = builder.config
    if builder.name == "csv":
        return config.header == "infer" and not (config.names or config.column_names or config.skiprows)
    return builder.name == "json" and config.field is None


def _read_tables(builder: Any, spec: str, encoding: str | None) -> dict[str, _Part]:
    """The splits of a repository of text tables; which file is of which split is for the hub's rules to say."""
    parts = {}
    classes = _class_labels(builder.info.features or {})
    for split, files in builder.config.data_files.items():
        frame = pl.concat([read_file(Path(each), spec, encoding) for each in files], how="diagonal")
        # Where they are not numbered, they are there under their names.
        numbered = {
            column: names
            for column, names in classes.items()
            if column in frame.columns and are_plain_integers(frame[column].drop_nulls())
        }
        frame = frame.with_columns(pl.col(column).cast(pl.Int64) for column in numbered)
        parts[str(split)] = (frame, numbered)
    return parts


def _named(labels: pl.Series, names: list[str], where: str) -> pl.Series:
    """Names of the hub's integer labels; null for its −1, which means that a row has none."""
    unknown = labels.filter((labels < -1) | (labels >= len(names)))
    if len(unknown):
        raise UserError(
            f"Column {labels.name!r} in {where} holds {unknown[0]}, and its {len(names)} class names are numbered "
            f"from 0 to {len(names) - 1}. Mend the column, or save it with the names in place of the numbers."
        )
    return labels.replace_strict(
        {-1: None} | dict(enumerate(names)), return_dtype=pl.String, default=None
    ).alias(labels.name)
