"""What the `datasets` library knows of a data set: its splits, and the names that class labels number."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import UserError
from tasks.data.files import ending_of, read_file
from tasks.data.labels import are_plain_integers, in_each_list

log = logging.getLogger(__name__)

# A split's rows, and for each column of class labels the names that its numbers stand for.
Part = tuple[pl.DataFrame, dict[str, list[str]]]


@contextmanager
def reading_as_datasets(spec: str) -> Iterator[ModuleType]:
    """The `datasets` library, without its progress bars; what it cannot read is a `UserError`."""
    import datasets  # slow, and plain files need not wait for it

    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield datasets
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        # A RuntimeError is how it refuses a Python script, which it never runs.
        raise UserError(
            f"{spec} was fetched but `datasets` cannot read it: {str(error).strip().splitlines()[0]} Save the part "
            "you want as train.parquet and test.parquet and use path:FOLDER."
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def parts_of(loaded: Any) -> dict[str, Part]:
    """Of a Dataset, which is all `train`, or of a DatasetDict."""
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    return {split: (part.to_polars(), _names_of(part.features)) for split, part in splits.items()}


def _names_of(features: Mapping[str, Any]) -> dict[str, list[str]]:
    from datasets import ClassLabel

    # Of a column of lists what is in them.
    inner = {name: getattr(each, "feature", each) for name, each in features.items()}
    return {name: list(each.names) for name, each in inner.items() if isinstance(each, ClassLabel)}


def are_plain_tables(builder: Any) -> bool:
    """Whether it is text tables or JSON with names in them, which are read as every other such file: as written."""
    config = builder.config
    if builder.name == "csv":
        return config.header == "infer" and not (config.names or config.column_names or config.skiprows)
    return builder.name == "json" and config.field is None


def read_tables(builder: Any, spec: str, encoding: str | None) -> dict[str, Part]:
    """The splits of a repository of text tables; which file is of which split is for the hub's rules to say."""
    parts = {}
    names = _names_of(builder.info.features or {})
    for split, files in builder.config.data_files.items():
        frame = _joined([read_file(Path(each), spec, encoding) for each in files], spec)
        # Where they are not numbered, they are there under their names.
        numbered = {
            column: known
            for column, known in names.items()
            if column in frame.columns and are_plain_integers(frame[column].drop_nulls())
        }
        frame = frame.with_columns(pl.col(column).cast(pl.Int64) for column in numbered)
        parts[str(split)] = (frame, numbered)
    return parts


def _joined(frames: Sequence[pl.DataFrame], spec: str) -> pl.DataFrame:
    """The rows of all files of a split. A column of which one file has nothing is of the type that others have; one
    that is of several types is left out, with a warning."""
    kinds: dict[str, set[pl.DataType]] = {}
    for frame in frames:
        for column in frame:
            if column.null_count() < len(column):
                kinds.setdefault(column.name, set()).add(column.dtype)
    if mixed := sorted(name for name, of_files in kinds.items() if len(of_files) > 1):
        log.warning("Columns of %s that are of several types are not read: %s", spec, ", ".join(mixed))

    def told(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.drop(
            [
                column.name
                for column in frame
                if column.name in mixed or (column.name in kinds and column.dtype not in kinds[column.name])
            ]
        )

    return pl.concat([told(frame) for frame in frames], how="diagonal")


def class_names(file: Path) -> dict[str, list[str]]:
    """Column → the names of its class labels, as `datasets` writes them into a Parquet file; empty for all others."""
    if ending_of(file) != ".parquet":
        return {}
    try:
        told = json.loads((pq.read_schema(file).metadata or {}).get(b"huggingface", b"{}"))
        features = told["info"]["features"] if told else {}
        inner = {name: _of_each(told_of) for name, told_of in features.items()}
        return {
            name: list(each["names"])
            for name, each in inner.items()
            if isinstance(each, dict) and each.get("_type") == "ClassLabel"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return {}  # not as `datasets` writes it: then it says nothing about the labels


def _of_each(feature: Any) -> Any:
    """What is told of a column's values, or of those of its lists, which `datasets` once wrote as a list."""
    if isinstance(feature, list):
        return feature[0] if feature else None
    return feature.get("feature", feature)


def named_labels(labels: pl.Series, names: list[str], where: str) -> pl.Series:
    """Names of integer class labels, or of lists of them; null for -1, which means that a row has none.

    Raises:
        UserError: a label beyond the names, or of another kind.
    """
    if isinstance(labels.dtype, pl.List):
        return in_each_list(labels, lambda each: named_labels(each, names, where))
    are_texts = labels.dtype == pl.String
    if are_texts and labels.drop_nulls().is_in(names).all():
        return labels  # the names themselves
    numbers = labels.cast(pl.Int64, strict=False)
    if are_texts or (numbers != labels.cast(pl.Float64)).any():
        raise UserError(
            f"Column {labels.name!r} in {where} is {labels.dtype}, and is said to number {len(names)} class names. "
            "Save it with the numbers, or with the names in their place."
        )
    labels = numbers
    unknown = labels.filter((labels < -1) | (labels >= len(names)))
    if len(unknown):
        raise UserError(
            f"Column {labels.name!r} in {where} holds {unknown[0]}, and its {len(names)} class names are numbered "
            f"from 0 to {len(names) - 1}. Mend the column, or save it with the names in place of the numbers."
        )
    known = pl.Series(names, dtype=pl.String)
    return known.gather(labels.replace(-1, None)).alias(labels.name)
