"""CONTRIBUTING.md, "A model family": a row, a small model in the tests, a sweep."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, LlamaConfig, LlamaModel

from tasks.embedding.backbone import find_backbone
from tasks.embedding.families import FAMILIES, Family
from tasks.embedding.model import load_model
from tasks.vocabulary import NormState
from tests.recipes.conftest import Sweep, page
from tests.tasks.embedding.test_backbone import GROUPED, hugging_face_layers, our_layers, some_ids


class ToyConfig(LlamaConfig):
    model_type = "toy_decoder"


class ToyModel(LlamaModel):
    config_class = ToyConfig


def toy_model(**changed: int) -> ToyModel:
    torch.manual_seed(0)
    model = ToyModel(ToyConfig(**GROUPED | changed)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1: the row."""
    monkeypatch.setitem(FAMILIES, "toy_decoder", Family(final_norms=("norm",), packed=True))


def test_without_a_row_a_family_works_but_its_texts_are_not_packed() -> None:
    backbone = find_backbone(toy_model())
    assert backbone.family == "toy_decoder"
    assert not backbone.packed


@pytest.mark.usefixtures("row")
def test_with_its_row_its_layers_are_hugging_faces_and_its_texts_are_packed() -> None:
    """Step 2: what a line in `MODELS` of test_backbone.py has checked for a family."""
    texts = some_ids()
    want = [hugging_face_layers(toy_model(), ids) for ids in texts]
    backbone = find_backbone(toy_model())
    assert backbone.packed
    assert backbone.final_norm is backbone.model.norm
    for ours, theirs in zip(our_layers(backbone, texts), want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("row")
def test_a_sweep_of_it_stands_in_tables_and_report(tiny_model: Path, tmp_path: Path, sweep: Sweep) -> None:
    # A real family comes with transformers, which knows its classes; only the toy has to be made known.
    AutoConfig.register("toy_decoder", ToyConfig, exist_ok=True)
    AutoModel.register(ToyConfig, ToyModel, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path / "toy")
    toy_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "toy")
    outcome = sweep(
        model=f"path:{tmp_path / 'toy'}",
        norm_state=(NormState.AS_RETURNED, NormState.FINAL_NORM),
        dtype="float32",
    )
    assert outcome.tables["model"]["family"].to_list() == ["toy_decoder"]
    assert outcome.tables["probe"].height == 4 * 2  # layers × norm states
    assert outcome.tables["probe"]["accuracy"].max() > 0.5  # of three classes
    assert "toy_decoder, 3 layers" in page(outcome)
    assert load_model(str(tmp_path / "toy"), "float32", "cpu").backbone.packed
