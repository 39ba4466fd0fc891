"""What the tests of data sets share."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from storage.layout import Layout
from tasks.data.dataset import Dataset, prepare_dataset
from tasks.data.stored_table import read_table


def prepare(spec: str, storage: Path, **options: Any) -> tuple[Dataset, pl.DataFrame]:
    """The data set as a sweep prepares it, and its stored table."""
    found = prepare_dataset(spec, Layout(str(storage)), **options)
    return found, read_table(found.uri)


def write_rows(rows: pl.DataFrame, path: Path) -> None:
    """Write a table in the format that the file's ending names."""
    match path.suffix:
        case ".csv":
            rows.write_csv(path)
        case ".tsv":
            rows.write_csv(path, separator="\t")
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in rows.to_dicts()) + "\n")
        case ".parquet":
            rows.write_parquet(path)
