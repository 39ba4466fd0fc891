"""CONTRIBUTING.md, "A source": one class, entered in the registry, and a sweep reads it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from flows.grid import examine_pairs
from flows.grid_parameters import GridBlock, GridParameters
from storage.cache import cache_folder
from storage.errors import UserError
from storage.layout import Layout
from storage.sources.grammar import SOURCES, parse_source, ways_to_name
from storage.sources.source import Fetched, Kind, Source
from tasks.data.dataset import read_dataset
from tasks.reporting.artifacts import answer_page
from tests.recipes.conftest import Sweep, page, rows

MODEL, DATASET = "toy:tiny-llama", "toy:sea-sky-land"


class ToySource(Source):
    """`toy:NAME`: a box on a shelf, which is unpacked into the cache before anybody plays with it."""

    scheme = "toy"
    about = "a box on the shelf"
    ways: ClassVar[Mapping[Kind, str]] = {"model": "toy:NAME", "dataset": "toy:NAME"}
    shelf: ClassVar[Path]

    def fetch(self, kind: Kind, patterns: Sequence[str]) -> Fetched:
        """A copy in the cache."""
        box = self.shelf / self.location
        if not box.is_dir():
            raise UserError(f"There is no {self.spec} on the shelf {self.shelf}.")
        return Fetched(
            shutil.copytree(box, cache_folder() / "toys" / self.location, dirs_exist_ok=True), "v1"
        )

    def describe(self, kind: Kind) -> str:
        """Without opening the box."""
        return f"a box with a {kind}"

    def page(self, kind: Kind) -> str:
        """The shop's page."""
        return f"https://toys.example/{kind}/{self.location}"


@pytest.fixture
def shelf(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """The toy source in the registry, a model and a data set on its shelf, an empty cache."""
    ToySource.shelf = tmp_path / "shelf"
    for spec, folder in ((MODEL, tiny_model), (DATASET, tiny_dataset)):
        shutil.copytree(folder, ToySource.shelf / spec.removeprefix("toy:"))
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(SOURCES, ToySource.scheme, ToySource)
    return {MODEL: tiny_model, DATASET: tiny_dataset}


def test_a_sweep_takes_its_model_and_its_data_set_from_a_new_source(
    shelf: dict[str, Path], tmp_path: Path, sweep: Sweep
) -> None:
    outcome = sweep(model=MODEL, dataset=DATASET)
    assert rows(outcome, "SELECT model_id, dataset_id FROM run").rows() == [(MODEL, DATASET)]
    # The files are the source's; what it calls their state is kept beside them.
    plain, _ = read_dataset(f"path:{shelf[DATASET]}", outcome.layout)
    assert rows(outcome, "SELECT id, source, fingerprint FROM dataset").rows() == [
        (DATASET, "toy", plain.fingerprint)
    ]
    assert rows(outcome, "SELECT id, source, revision, family FROM model").rows() == [
        (MODEL, "toy", "v1", "llama")
    ]
    assert sorted(each.name for each in (tmp_path / "cache" / "toys").iterdir()) == sorted(
        spec.removeprefix("toy:") for spec in shelf
    )

    report = page(outcome)
    answer = answer_page(outcome.tables, outcome.layout, outcome.files, None)
    for spec, kind in ((MODEL, "model"), (DATASET, "dataset")):
        assert spec in report
        assert f"[{spec}](https://toys.example/{kind}/{spec.removeprefix('toy:')})" in answer


def test_people_are_told_of_it_and_a_grid_says_what_it_is_without_fetching(
    shelf: dict[str, Path], tmp_path: Path
) -> None:
    assert ways_to_name("dataset").endswith("or toy:NAME")
    with pytest.raises(UserError, match=r"toy:NAME \(a box on the shelf\)"):
        parse_source("toys:tiny-llama")
    block = GridBlock(models=(MODEL,), datasets=(DATASET,))
    ((_, model, dataset),) = examine_pairs(GridParameters(blocks=(block,), storage=str(tmp_path)))
    assert (model, dataset) == ("a box with a model", "a box with a dataset")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(UserError, match="There is no toy:top on the shelf"):
        read_dataset("toy:top", Layout(str(tmp_path)))
