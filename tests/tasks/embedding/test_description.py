"""A model's folder that is not what it should be is refused in words, before its weights are read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers as hf

from storage.errors import UserError
from tasks.embedding.description import MOST_LAYERS, empty_model, load_tokenizer, text_config
from tasks.embedding.model import load_model, resolve_model
from tests.families.small_models import small_config


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def configure(folder: Path, **changed: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_size": "abc"}, "'hidden_size' expected int, got str"),
        ({"hidden_size": 32.5}, "'hidden_size' expected int, got float"),
        ({"num_hidden_layers": None}, "'num_hidden_layers' expected int, got NoneType"),
        ({"rope_parameters": 5}, "'rope_parameters' with value 5"),
        ({"hidden_act": 3}, "'hidden_act' expected str"),
        ({"num_attention_heads": 0}, "is not one that transformers"),
        ({"dtype": "nosuch"}, "nosuch"),
        ({"model_type": 5}, "model type `5`"),
        ({"hidden_size": 0}, "says hidden_size = 0"),
        ({"num_hidden_layers": -1}, "says num_hidden_layers = -1"),
        ({"num_hidden_layers": 0}, "says num_hidden_layers = 0"),
        ({"vocab_size": 0}, "says vocab_size = 0"),
        ({"num_hidden_layers": 100_000}, f"says num_hidden_layers = 100,000; no .* than {MOST_LAYERS:,}"),
    ],
)
def test_a_number_that_cannot_be_is_named(folder: Path, changed: dict[str, Any], message: str) -> None:
    configure(folder, **changed)
    with pytest.raises(UserError, match=message):
        resolve_model(f"path:{folder}", weights=False)


@pytest.mark.parametrize("written", ["", "[1, 2]", "{", "\0"])
def test_a_configuration_that_is_none_is_refused(folder: Path, written: str) -> None:
    (folder / "config.json").write_text(written)
    with pytest.raises(UserError, match="is not one that transformers"):
        resolve_model(f"path:{folder}", weights=False)


@pytest.mark.parametrize("changed", [{"hidden_act": "nosuch"}, {"pad_token_id": 5_000}])
def test_what_cannot_be_built_is_refused_before_and_when_it_is_loaded(
    folder: Path, changed: dict[str, Any]
) -> None:
    configure(folder, **changed)
    with pytest.raises(UserError, match="cannot build the model"):
        empty_model(folder, "path:model")
    with pytest.raises(UserError, match="does not load"):
        load_model(str(folder), "float32", "cpu")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": 5}'),
        ("tokenizer_config.json", ""),
        ("tokenizer_config.json", "[1]"),
    ],
)
def test_a_tokenizer_file_that_is_none_is_refused(folder: Path, name: str, written: str) -> None:
    (folder / name).write_text(written)
    with pytest.raises(UserError, match=r"The tokenizer in .* does not load"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("model_type", "reads"),
    [("vit", "pixel_values"), ("wav2vec2", "input_values"), ("whisper", "input_features")],
)
def test_a_model_that_reads_no_text_is_refused(tmp_path: Path, model_type: str, reads: str) -> None:
    hf.CONFIG_MAPPING[model_type]().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"is a '{model_type}' model, which reads {reads}"):
        text_config(tmp_path, "path:model")


def test_of_a_model_that_sees_too_the_text_model_is_described(tmp_path: Path) -> None:
    small_config("gemma3").save_pretrained(tmp_path)
    config = text_config(tmp_path, "path:model")
    assert (config.model_type, config.num_hidden_layers) == ("gemma3_text", 3)


@pytest.mark.parametrize(
    "put",
    [
        lambda folder: (folder / "extra.json").symlink_to(folder / "nowhere"),
        lambda folder: (folder / "extra.json").mkdir(),
    ],
)
def test_what_is_no_file_beside_the_weights_is_no_part_of_the_model(
    tiny_model: Path, folder: Path, put: Callable[[Path], None]
) -> None:
    put(folder)
    assert resolve_model(f"path:{folder}").revision == resolve_model(f"path:{tiny_model}").revision


@pytest.mark.parametrize(
    ("method", "needed"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            r"quantised \(gptq\), and what reads them is not installed .*optimum",
        ),
        ({"quant_method": "awq", "bits": 4}, r"quantised \(awq\).* gptqmodel"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            r"quantised \(bitsandbytes\).* bitsandbytes",
        ),
        ({"quant_method": "compressed-tensors"}, r"quantised \(compressed-tensors\).* compressed-tensors>="),
    ],
)
def test_quantised_weights_whose_reader_is_not_installed_name_it(
    folder: Path, method: dict[str, object], needed: str
) -> None:
    configure(folder, quantization_config=method)
    with pytest.raises(UserError, match=needed):
        load_model(str(folder), "float32", "cpu")


def test_weights_that_are_quantised_in_an_unknown_way_are_never_taken_for_plain_ones(folder: Path) -> None:
    """transformers warns, and computes with the numbers as they are."""
    configure(folder, quantization_config={"quant_method": "zip"})
    for refused in (
        lambda: resolve_model(f"path:{folder}", weights=False),
        lambda: load_model(str(folder), "float32", "cpu"),
    ):
        with pytest.raises(UserError, match=r"are quantised as 'zip' .* does not know"):
            refused()
