"""A small data set with a tiny model, and the plan of its embeddings."""

from pathlib import Path

import pytest

from storage.layout import Layout
from tasks.data.dataset import Dataset, prepare_dataset
from tasks.embedding.model import ModelFolder, resolve_model
from tasks.embedding.set_plan import plan_embedding_set
from tasks.embedding.set_records import EmbeddingSet
from tasks.embedding.settings import Settings
from tasks.vocabulary import NormState, Pooling

SETTINGS = Settings((Pooling.MEAN,), (NormState.AS_RETURNED,), 128, "float32", "cpu")
Planned = tuple[Layout, EmbeddingSet, Dataset, ModelFolder]


@pytest.fixture
def planned(tiny_model: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    monkeypatch.setenv("LAYERSCOUT_CACHE", str(tmp_path / "cache"))
    layout = Layout(str(tmp_path / "storage"))
    dataset = prepare_dataset(f"path:{tiny_dataset}", layout, seed=0)
    model = resolve_model(f"path:{tiny_model}")
    return layout, plan_embedding_set(layout, dataset, model, SETTINGS), dataset, model
