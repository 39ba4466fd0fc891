"""What a model's folder says of it without its weights: configuration, tokenizer, a model that is all shape."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from storage.errors import UserError
from tasks.embedding.families import FAMILIES

# More blocks than any model has; to build so many takes hours.
MOST_LAYERS = 1_000
_SHOWN = 300


def text_config(folder: Path, spec: str, *, trust_remote_code: bool = False) -> transformers.PretrainedConfig:
    """The configuration of a folder's language model: of an encoder-decoder the encoder's, of a model that sees or
    hears too its text model's.

    Raises:
        UserError: transformers does not know it, it is no language model's, or a number in it cannot be.
    """
    config = whole_config(folder, spec, trust_remote_code=trust_remote_code)
    quantised_as(config, str(folder))
    try:
        text = config.get_text_config(encoder=True) if config.is_encoder_decoder else config.get_text_config()
    except Exception as error:  # a stranger's configuration, which may fail in any way
        raise UserError(f"The configuration of {spec} has no text model: {words(error)}.") from error
    _check_reads_text(config, text, spec)
    for name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        value = getattr(text, name, None)
        if value is None and name == "vocab_size":
            continue  # CANINE hashes characters
        if type(value) is not int or value < 1:
            raise UserError(
                f"The configuration of {spec} says {name} = {value!r}, and a language model has at least one. Mend its "
                "config.json, or choose another model."
            )
    if text.num_hidden_layers > MOST_LAYERS:
        raise UserError(
            f"The configuration of {spec} says num_hidden_layers = {text.num_hidden_layers:,}; no model has more than "
            f"{MOST_LAYERS:,} blocks. Mend its config.json."
        )
    return text


def whole_config(
    folder: Path, spec: str, *, trust_remote_code: bool = False
) -> transformers.PretrainedConfig:
    """As transformers reads it. `UserError` where it does not."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # a stranger's file, which may fail in any way
        if "trust_remote_code" in str(error):
            raise UserError(
                f"The model {spec} brings Python code of its own, which is run only if you trust it. Read it, and add "
                "--trust-remote-code; or choose another model."
            ) from error
        raise UserError(
            f"The configuration of {spec} is not one that transformers {transformers.__version__} knows: "
            f"{words(error)}. Mend its config.json, or choose another model."
        ) from error


def empty_model(folder: Path, spec: str, *, trust_remote_code: bool = False) -> nn.Module:
    """The headless model without weights, on torch's meta device: what a sweep would load, and its sizes.

    Raises:
        UserError: it cannot be built.
    """
    text_config(folder, spec, trust_remote_code=trust_remote_code)  # nothing that never ends is built
    config = whole_config(folder, spec, trust_remote_code=trust_remote_code)
    try:
        with torch.device("meta"):
            model: nn.Module = headless(config).from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a stranger's configuration, which may fail in any way
        raise UserError(
            f"transformers {transformers.__version__} cannot build the model that the configuration of {spec} "
            f"describes: {words(error)}. Mend its config.json, or choose another model."
        ) from error
    return model


def headless(config: transformers.PretrainedConfig) -> Any:
    """The class that loads a model without its head: of an encoder-decoder the encoder alone where there is one."""
    mapping = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    return AutoModelForTextEncoding if config.is_encoder_decoder and type(config) in mapping else AutoModel


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's own.

    Raises:
        UserError: it holds none, or one that does not load.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # a stranger's file, which may fail in any way
        raise UserError(
            f"The tokenizer in {folder} does not load: {words(error)}. Save the model's own with "
            "`tokenizer.save_pretrained(FOLDER)`."
        ) from error
    check_vocabulary(folder, tokenizer)
    return tokenizer


def check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """`UserError` where transformers made up a tokenizer of special tokens alone, since the folder holds none."""
    named = getattr(tokenizer, "vocab_files_names", {})  # Mistral's own class names none
    files = {*named.values(), "tokenizer.json", "tekken.json"}
    if named and not any((folder / name).is_file() for name in files):
        raise UserError(
            f"{folder} holds no tokenizer ({', '.join(sorted(files))}), so every word would be an unknown one. Save "
            "the model's own with `tokenizer.save_pretrained(FOLDER)`."
        )


def quantised_as(config: transformers.PretrainedConfig, folder: str) -> str | None:
    """How a model's weights are quantised, by the name that its configuration has for it; None: they are not.

    Raises:
        UserError: transformers does not know it, and would take the weights for plain ones.
    """
    described = getattr(config, "quantization_config", None)
    if described is None:
        return None
    method = described.get("quant_method") if isinstance(described, dict) else described.quant_method
    name = str(getattr(method, "value", method))
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING  # slow to import

    # Which of bitsandbytes' two is told by other fields.
    if name not in {*AUTO_QUANTIZER_MAPPING, "bitsandbytes"}:
        raise UserError(
            f"The weights in {folder} are quantised as {name!r} (quantization_config in config.json), which "
            f"transformers {transformers.__version__} does not know. Take the model's plain weights, or a way that it "
            f"knows: {', '.join(sorted(AUTO_QUANTIZER_MAPPING))}."
        )
    return name


def not_loaded(folder: str, error: BaseException, quantised: str | None = None) -> UserError:
    """What to say of a model folder that does not load. quantised: of `quantised_as`."""
    if quantised is not None and isinstance(error, ImportError):
        return UserError(
            f"The weights in {folder} are quantised ({quantised}), and what reads them is not installed here: "
            f"{words(error)}. Install it beside layerscout, or take the model's plain weights."
        )
    return UserError(
        f"The model in {folder} does not load: {words(error)}. It must hold config.json and *.safetensors of a "
        f"model that transformers {transformers.__version__} knows. Copy it again, or save it with "
        "`model.save_pretrained(FOLDER)`."
    )


def words(error: BaseException) -> str:
    """What a foreign error says, on one line."""
    said = " ".join(str(error).split())[:_SHOWN].rstrip(".")
    return said or type(error).__name__


def _check_reads_text(config: transformers.PretrainedConfig, text: Any, spec: str) -> None:
    if config.model_type in FAMILIES or not (text is config or config.is_encoder_decoder):
        return
    known = transformers.MODEL_MAPPING.get(type(config), None)
    first = known[0] if isinstance(known, tuple) else known
    if first is not None and first.main_input_name != "input_ids":
        raise UserError(
            f"{spec} is a {config.model_type!r} model, which reads {first.main_input_name}, not the tokens of a text. "
            "Choose a language model."
        )
