"""A dry run refuses what the sweep would refuse, in its words, and loads no weights for it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import processors

from storage.errors import UserError
from storage.layout import Layout
from tasks.data.dataset import prepare_dataset
from tasks.embedding.model import resolve_model
from tasks.embedding.set_plan import plan_embedding_set
from tasks.embedding.settings import Settings
from tasks.preview.forecast import count_tokens
from tasks.preview.refusal import refuse_early
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_weights import SMALL

FEW = np.array([3, 9, 5], dtype=np.int32)


def asked(
    max_layer: int | None = None, norm: NormState = NormState.AS_RETURNED, length: int = 128
) -> Settings:
    return Settings((Pooling.MEAN,), (norm,), length, "float32", "cpu", max_layer=max_layer)


@pytest.fixture(scope="module")
def bert(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two blocks and 16 positions."""
    folder = tmp_path_factory.mktemp("bert")
    hf.BertModel(hf.BertConfig(**SMALL | {"vocab_size": 80}, max_position_embeddings=16)).save_pretrained(
        folder
    )
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def test_what_fits_is_not_refused(tiny_model: Path, bert: Path) -> None:
    refuse_early(resolve_model(f"path:{tiny_model}"), asked(3, NormState.FINAL_NORM), FEW)
    refuse_early(resolve_model(f"path:{bert}"), asked(2, length=16), np.array([99], dtype=np.int32))


def test_a_layer_a_norm_and_positions_that_it_has_not(
    tiny_model: Path, bert: Path, tmp_path: Path, tiny_dataset: Path
) -> None:
    layout = Layout(str(tmp_path))
    dataset = prepare_dataset(f"path:{tiny_dataset}", layout)
    for folder, settings, message in [
        (tiny_model, asked(4), r"last layer to embed is 4, but the model has layers 0 to 3"),
        (bert, asked(norm=NormState.FINAL_NORM), r"a 'bert' model has no final norm"),
    ]:
        model = resolve_model(f"path:{folder}")
        with pytest.raises(UserError, match=message):
            refuse_early(model, settings, FEW)
        # And the sweep says so before it writes a plan.
        with pytest.raises(UserError, match=message):
            plan_embedding_set(layout, dataset, model, settings)
    assert not (tmp_path / "embeddings").exists()
    with pytest.raises(UserError, match="Row 1 has 30 tokens, but the model has positions for 16"):
        refuse_early(resolve_model(f"path:{bert}"), asked(), np.array([3, 30], dtype=np.int32))


def test_attention_that_is_left_to_transformers(tiny_model: Path, bert: Path, tmp_path: Path) -> None:
    hf.GemmaModel(hf.GemmaConfig(**SMALL, head_dim=8)).save_pretrained(tmp_path)
    for file in tiny_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    by_attention = replace(asked(), poolings=(Pooling.MEAN, Pooling.ATTENTION_SUMMARY), max_length=16)
    for ours in (tiny_model, bert):
        refuse_early(resolve_model(f"path:{ours}"), by_attention, FEW)
    with pytest.raises(UserError, match="Pooling attention_summary weighs tokens"):
        refuse_early(resolve_model(f"path:{tmp_path}"), by_attention, FEW)


def test_weights_that_do_not_fill_the_model(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    file = folder / "model.safetensors"
    whole = load_file(file)
    save_file({name: each for name, each in whole.items() if "layers.1." not in name}, file, {"format": "pt"})
    with pytest.raises(UserError, match="9 tensors of the model are not in"):
        refuse_early(resolve_model(f"path:{folder}"), asked(), FEW)
    save_file(whole, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(UserError, match="other shapes than its configuration says"):
        refuse_early(resolve_model(f"path:{folder}"), asked(), FEW)
    (folder / "config.json").write_text(json.dumps(config))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="does not load"):
        refuse_early(resolve_model(f"path:{folder}"), asked(), FEW)
    # On the hub still: what the configuration says is found out.
    file.unlink()
    model = resolve_model(f"path:{tiny_model}")
    away = type(model)(**vars(model) | {"folder": str(folder)})
    refuse_early(away, asked(), FEW)
    with pytest.raises(UserError, match="layers 0 to 3"):
        refuse_early(away, asked(4), FEW)


def test_a_tokenizer_that_knows_none_of_the_words(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="unknown to the tokenizer"):
        count_tokens(resolve_model(f"path:{tiny_model}"), ["xylophone zither", "marimba"])


def test_a_maximum_length_that_special_tokens_fill(
    tiny_model: Path, tmp_path: Path, tiny_dataset: Path
) -> None:
    """A tokenizer cuts nothing then, or everything, and either way no text is read as asked."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<pad> $A <unk>", special_tokens=[("<pad>", 0), ("<unk>", 1)]
    )
    tokenizer.save_pretrained(folder)
    layout = Layout(str(tmp_path / "out"))
    dataset = prepare_dataset(f"path:{tiny_dataset}", layout)
    model = resolve_model(f"path:{folder}")
    for length in (1, 2):
        message = f"Of {length} tokens .--max-length. none is left for the text.*adds 2 .*Give at least 3"
        with pytest.raises(UserError, match=message):
            count_tokens(model, ["wave"], max_length=length)
        with pytest.raises(UserError, match=message):
            plan_embedding_set(layout, dataset, model, asked(length=length))
    assert count_tokens(model, ["wave tide"], max_length=3).tolist() == [4]
