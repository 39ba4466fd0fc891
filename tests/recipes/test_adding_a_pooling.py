"""CONTRIBUTING.md, "A pooling": a word, a function and its record, a sweep.

A StrEnum with members takes no more, and the command line reads them while it is imported. So the toy's word is set
before anything else is imported, where a line in tasks/vocabulary.py would stand: in a process of its own.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from storage.embeddings import read_layer
from tests.flows.conftest import environment, tables

CHECKOUT = Path(__file__).parents[2]
TOY = """
import sys
from enum import StrEnum

import tasks.vocabulary as vocabulary

# The word.
words = {word.name: word.value for word in vocabulary.Pooling}
vocabulary.Pooling = StrEnum("Pooling", words | {"FIRST_AND_LAST": "first_and_last"})

# The function and its record.
from tasks.embedding.pooling import POOLINGS, PoolingRecord, first, last


def first_and_last(states, mask):
    return (first(states, mask) + last(states, mask)) / 2


POOLINGS[vocabulary.Pooling.FIRST_AND_LAST] = PoolingRecord(first_and_last, None)
"""
COMMAND_LINE = "from flows.cli import main; main()"
TEST_OF_THE_SCRIPT = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def with_the_toy(then: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TOY + then, *arguments],
        env=environment(**variables),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_sweep_of_it_stands_in_tables_and_report(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, prefect_server: str
) -> None:
    arguments = ["sweep", "--model", f"path:{tiny_model}", "--dataset", f"path:{tiny_dataset}"]
    for pooling in ("first", "last", "first_and_last"):
        arguments += ["--pooling", pooling]
    arguments += ["--dtype", "float32", "--storage", str(tmp_path)]
    done = with_the_toy(COMMAND_LINE, *arguments, PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stderr
    probe = tables(tmp_path)["probe"]
    assert probe.filter(pooling="first_and_last")["layer"].sort().to_list() == [0, 1, 2, 3]
    (report,) = tmp_path.rglob("report.html")
    assert "first_and_last" in report.read_text()
    shards = [str(each) for each in (tmp_path / "embeddings").rglob("*.parquet")]
    first, last, toy = (
        read_layer(shards, layer=2, norm_state="as_returned", pooling=pooling).embeddings
        for pooling in ("first", "last", "first_and_last")
    )
    np.testing.assert_allclose(toy, (first + last) / 2, rtol=0, atol=1e-6)


def test_a_folder_exported_with_it_needs_a_branch_in_its_script() -> None:
    done = with_the_toy(TEST_OF_THE_SCRIPT, "-q", "tests/tasks/exporting/test_predict.py")
    assert done.returncode == 1
    assert "Pooling 'first_and_last' is another one in predict.pool" in done.stdout
    assert "1 failed, 6 passed" in done.stdout
