"""Embeddings that are the same for every text give no answer, and never one beside embeddings that differ."""

from pathlib import Path

import polars as pl
import pytest

from storage.results import query
from tests.conftest import labelled_text
from tests.flows.conftest import layerscout, tables


@pytest.fixture
def begun_alike(tmp_path: Path) -> Path:
    """Texts that all begin with the same word: a causal model's first token has seen nothing else."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, rows, seed in (("train", 90, 1), ("test", 45, 2)):
        texts = labelled_text(rows, seed=seed).with_columns(text="the " + pl.col("text"))
        texts.write_csv(folder / f"{name}.csv")
    return folder


@pytest.mark.parametrize("changed", [["--pooling", "first"], ["--max-length", "1"]])
def test_where_every_text_has_one_embedding_there_is_no_answer(
    tiny_model: Path, begun_alike: Path, tmp_path: Path, served: dict[str, str], changed: list[str]
) -> None:
    arguments = ["--model", f"path:{tiny_model}", "--dataset", f"path:{begun_alike}", *changed]
    failed = layerscout("sweep", *arguments, "--storage", str(tmp_path / "out"), env=served)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "no layer tells texts apart and there is no answer" in failed.stderr
    assert not (tmp_path / "out" / "results.duckdb").exists()


def test_it_is_never_the_answer_beside_embeddings_that_differ(
    tiny_model: Path, begun_alike: Path, tmp_path: Path, served: dict[str, str]
) -> None:
    arguments = ["--model", f"path:{tiny_model}", "--dataset", f"path:{begun_alike}"]
    arguments += ["--pooling", "first", "--pooling", "mean", "--storage", str(tmp_path)]
    assert layerscout("sweep", *arguments, env=served).returncode == 0
    choices = tables(tmp_path)["layer_choice"].filter("is_default").sort("pooling")
    assert choices.select("pooling", "is_constant", "is_answer").rows() == [
        ("first", True, False),
        ("mean", False, True),
    ]
    reason = query(f"{tmp_path}/results.duckdb", "FROM layer_choice WHERE pooling = 'first' AND is_default")
    assert reason["reason"].item().startswith("Every text has the same embedding there")
