"""Embeddings that are the same for every text give no answer, and never one beside embeddings that differ."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from storage.errors import UserError
from storage.results import query
from tests.conftest import labelled_text
from tests.flows.conftest import sweep_here, tables


@pytest.fixture
def begun_alike(tmp_path: Path) -> Path:
    """Texts that all begin with the same word: a causal model's first token has seen nothing else."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, rows, seed in (("train", 90, 1), ("test", 45, 2)):
        texts = labelled_text(rows, seed=seed).with_columns(text="the " + pl.col("text"))
        texts.write_csv(folder / f"{name}.csv")
    return folder


@pytest.mark.parametrize("changed", [{"pooling": ("first",)}, {"max_length": 1}])
def test_where_every_text_has_one_embedding_there_is_no_answer(
    tiny_model: Path, begun_alike: Path, tmp_path: Path, prefect_server: str, changed: dict[str, Any]
) -> None:
    asked = {"model": f"path:{tiny_model}", "dataset": f"path:{begun_alike}"} | changed
    with pytest.raises(UserError, match="no layer tells texts apart and there is no answer"):
        sweep_here(prefect_server, tmp_path / "out", **asked)
    assert not (tmp_path / "out" / "results.duckdb").exists()


def test_it_is_never_the_answer_beside_embeddings_that_differ(
    tiny_model: Path, begun_alike: Path, tmp_path: Path, prefect_server: str
) -> None:
    asked: dict[str, Any] = {"model": f"path:{tiny_model}", "dataset": f"path:{begun_alike}"}
    sweep_here(prefect_server, tmp_path, **asked, pooling=("first", "mean"))
    choices = tables(tmp_path)["layer_choice"].filter("is_default").sort("pooling")
    assert choices.select("pooling", "is_constant", "is_answer").rows() == [
        ("first", True, False),
        ("mean", False, True),
    ]
    reason = query(f"{tmp_path}/results.duckdb", "FROM layer_choice WHERE pooling = 'first' AND is_default")
    assert reason["reason"].item().startswith("Every text has the same embedding there")
