"""A source of labelled text → one frame a split, as its columns came: file, folder, saved Dataset or repository."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from storage.errors import UserError
from storage.sources.source import Fetched, Source

SUFFIXES = (".parquet", ".csv", ".jsonl", ".tsv", ".tab")
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
    """A source as it was read: one frame a split, the names of integer labels where it tells them."""

    splits: dict[str, pl.DataFrame]
    revision: str = ""
    label_names: dict[str, list[str]] = field(default_factory=dict)
    text_column: str | None = None
    label_column: str | None = None


def read_source(source: Source) -> Read:
    """Read what a spec names.

    Raises:
        UserError: there is nothing there, or nothing that can be read.
    """
    fetched = source.fetch("dataset", DATA_FILES)
    return replace(
        _read_place(fetched, source.spec),
        revision=fetched.revision,
        text_column=fetched.text_column,
        label_column=fetched.label_column,
    )


def _read_place(fetched: Fetched, spec: str) -> Read:
    """What lies there says how it is read, whichever source has brought it."""
    path = fetched.place
    if fetched.splits:
        return Read({split: _read_file(path / name, spec) for split, name in fetched.splits.items()})
    if fetched.is_repository:
        return _from_hugging_face("load_dataset", path, spec)
    if path.is_file():
        return Read({"train": _read_file(path, spec)})
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _from_hugging_face("load_from_disk", path, spec)
    files = {
        split: [path / f"{split}{suffix}" for suffix in SUFFIXES if (path / f"{split}{suffix}").is_file()]
        for split in ("train", "validation", "test")
    }
    doubled = [found for found in files.values() if len(found) > 1]
    if not any(files.values()) and any(_named_after_train(path)):
        # A clone from the hub: data/train-00000-of-00001.parquet and the like.
        return _from_hugging_face("load_dataset", path, spec)
    if doubled or not files["train"]:
        raise UserError(
            f"{path} (from {spec}) should hold one train file, and perhaps validation and test, each as one "
            f"of {', '.join(SUFFIXES)}; it "
            + (
                f"holds {' and '.join(each.name for each in doubled[0])}."
                if doubled
                else "holds no train file."
            )
        )
    return Read({split: _read_file(found[0], spec) for split, found in files.items() if found})


def _named_after_train(folder: Path) -> Iterator[Path]:
    """Files of a train split with further words in their names, here or one folder deeper."""
    for suffix in (*SUFFIXES, ".json"):
        yield from folder.glob(f"train[-_.]*{suffix}")
        yield from folder.glob(f"*/train*{suffix}")


def _read_file(path: Path, spec: str) -> pl.DataFrame:
    try:
        match path.suffix:
            case ".parquet":
                return pl.read_parquet(path)
            case ".csv":
                return pl.read_csv(path, separator=_separator(path), infer_schema_length=None)
            case ".tsv":
                return pl.read_csv(path, separator="\t", infer_schema_length=None)
            case ".jsonl":
                return pl.read_ndjson(path, infer_schema_length=None)
            case ".tab":
                return _read_tab(path)
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        if "utf-8" in reason.lower() or "utf8" in reason.lower():
            reason = "it is not UTF-8. Save it as UTF-8"
        raise UserError(f"{path} (from {spec}) cannot be read as {path.suffix[1:]}: {reason}") from error
    raise UserError(f"{path} (from {spec}) is none of {', '.join(SUFFIXES)}. Convert it to one of them.")


def _separator(path: Path) -> str:
    """Spreadsheets of many countries part the columns of a CSV by semicolons; its first line tells."""
    with path.open("rb") as opened:
        heading = opened.readline()
    return ";" if b";" in heading and b"," not in heading else ","


def _read_tab(path: Path) -> pl.DataFrame:
    """Orange's table: names, then two header lines on types and roles, then rows; blank lines are none."""
    frame = pl.read_csv(path, separator="\t", skip_rows_after_header=2, infer_schema=False)
    return frame.filter(pl.any_horizontal(pl.all().is_not_null()))


def _from_hugging_face(function: Literal["load_dataset", "load_from_disk"], folder: Path, spec: str) -> Read:
    import datasets  # slow, and plain files need not wait for it

    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        loaded: Any = getattr(datasets, function)(str(folder))
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # A RuntimeError is how it refuses a Python script, which it never runs.
        raise UserError(
            f"{spec} was fetched but `datasets` cannot read it: {str(error).strip().splitlines()[0]} Save the part "
            "you want as train.parquet and test.parquet and use path:FOLDER."
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    parts = loaded if isinstance(loaded, dict) else {"train": loaded}
    names = {
        column: list(feature.names)
        for part in parts.values()
        for column, feature in part.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    splits = {
        split: part.to_polars() for split, part in parts.items() if split in ("train", "validation", "test")
    }
    if "train" not in splits:
        raise UserError(
            f"{spec} has the splits {', '.join(parts)} but no train split. Save one as train.parquet."
        )
    return Read(splits, label_names=names)
