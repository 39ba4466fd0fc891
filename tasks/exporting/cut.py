"""A model cut after one of its layers, as a folder that transformers and sentence-transformers load.

The cut is made in the configuration: transformers then builds the first blocks alone and reads only their weights.
What it puts out has passed the model's final norm, where it has one: the norm state `final_norm` of that layer.
"""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from storage.errors import UserError
from tasks.embedding.pooling import POOLINGS, pool
from tasks.vocabulary import Pooling

SENTENCE_TRANSFORMERS_POOLING = {
    pooling: record.sentence_transformers
    for pooling, record in POOLINGS.items()
    if record.sentence_transformers is not None
}
"""The poolings that sentence-transformers has too, and its flags for them."""

_BATCH = 16
_REPEATS = 5


@dataclass(frozen=True)
class Size:
    """What a headless model weighs."""

    parameters: int
    bytes: int
    """Of the safetensors files in its folder."""


@dataclass(frozen=True)
class Rates:
    """Tokens per second of a plain forward pass, float32: medians of alternating repeats on the same texts."""

    whole: float
    cut: float


def cut_config(config: transformers.PretrainedConfig, layer: int) -> transformers.PretrainedConfig:
    """Leave the first `layer` blocks of a configuration, in place: their number and what it lists for each block.

    Raises:
        UserError: the model is an encoder-decoder, or has fewer blocks.
    """
    if config.is_encoder_decoder:
        raise UserError(
            f"A {config.model_type!r} model is an encoder-decoder: cut, its encoder is nothing that AutoModel loads. "
            "Only decoders and encoders that stand alone can be exported."
        )
    text = config.get_text_config()
    blocks = text.num_hidden_layers
    if not 0 <= layer <= blocks:
        raise UserError(
            f"The model has layers 0 to {blocks}; it cannot be cut after layer {layer} (--layer)."
        )
    for name, value in list(vars(text).items()):
        # layer_types, layers_block_type, no_rope_layers …: one entry a block.
        if isinstance(value, list | tuple) and len(value) == blocks and ("layer" in name or "block" in name):
            setattr(text, name, value[:layer])
    # Qwen2 counts blocks with full attention from the first one.
    if getattr(text, "max_window_layers", None) is not None:
        text.max_window_layers = min(text.max_window_layers, layer)
    text.num_hidden_layers = layer
    return config


def save_cut(folder: Path, layer: int, into: Path, *, trust_remote_code: bool = False) -> None:
    """Write the model of `folder`, cut after `layer`, and its tokenizer into another folder.

    Weights keep the dtype that they are saved in. The tokenizer pads on the right, where no family's positions
    depend on the padding, and gets a padding token if it has none: the mask keeps it out of every state.

    Raises:
        UserError: this family cannot be cut there.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    cut_config(config, layer)
    with _quiet():
        try:
            model = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype="auto",
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
            )
        except (ValueError, IndexError, KeyError, ArithmeticError, AttributeError) as error:
            raise UserError(
                f"transformers {transformers.__version__} cannot build a {config.model_type!r} model of {layer} "
                f"blocks ({type(error).__name__}: {error}). Choose another --layer."
            ) from error
        if getattr(model.config.get_text_config(), "use_cache", None) is not None:
            model.config.get_text_config().use_cache = (
                False  # an embedding is one pass: there is nothing to reuse
            )
        model.save_pretrained(into)
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
        tokenizer.padding_side = "right"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = (
                tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
            )
        tokenizer.save_pretrained(into)


def write_sentence_transformers(into: Path, pooling: Pooling, hidden_size: int, max_length: int) -> None:
    """Add what makes a model folder one of sentence-transformers': its modules are a transformer and a pooling.

    `SentenceTransformer(folder)` computes in float32 unless told otherwise. Plain JSON; the library is not needed.
    """
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    mode = SENTENCE_TRANSFORMERS_POOLING[pooling]
    modes = {each: each == mode for each in SENTENCE_TRANSFORMERS_POOLING.values()}
    (into / "1_Pooling").mkdir()
    for name, content in (
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": max_length, "model_args": {"dtype": "float32"}}),
        ("config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"}),
        ("1_Pooling/config.json", {"word_embedding_dimension": hidden_size, **modes}),
    ):
        (into / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_plain(
    folder: Path, device: str = "cpu", *, trust_remote_code: bool = False
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Model and tokenizer as anybody loads them: AutoModel in float32, nothing of ours."""
    with _quiet():
        model = AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=trust_remote_code
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    return model.eval().to(device), tokenizer


def plain_embeddings(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pooling: Pooling,
    max_length: int,
) -> NDArray[np.float32]:
    """float32 [N, D]: the model's last states of padded batches, pooled with the mask."""
    found = []
    for start in range(0, len(texts), _BATCH):
        batch = _inputs(model, tokenizer, texts[start : start + _BATCH], max_length)
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        found.append(pool(states, batch["attention_mask"], pooling).cpu())
    return torch.cat(found).numpy()


def measure_rates(
    whole: nn.Module,
    cut: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
) -> Rates:
    """Time whole and cut model in turns on one batch of texts, tokens without padding counted."""
    batch = _inputs(whole, tokenizer, texts, max_length)
    tokens = int(batch["attention_mask"].sum())
    seconds: dict[nn.Module, list[float]] = {whole: [], cut: []}
    for repeat in range(_REPEATS + 1):
        for model, times in seconds.items():
            started = time.perf_counter()
            with torch.inference_mode():
                model(**batch).last_hidden_state.sum().item()  # `item` waits for a GPU
            if repeat:  # the first of each warms up
                times.append(time.perf_counter() - started)
    return Rates(tokens / statistics.median(seconds[whole]), tokens / statistics.median(seconds[cut]))


def size_of(model: nn.Module, folder: Path) -> Size:
    """Parameters of the model and bytes of its weights on disk."""
    return Size(
        sum(each.numel() for each in model.parameters()),
        sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    )


def _inputs(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> dict[str, torch.Tensor]:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    encoded = tokenizer(
        list(texts),
        padding=True,
        padding_side="right",
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    device = next(model.parameters()).device
    # Token types of a single text are all 0, which every model takes for granted.
    return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, and without its remark that the weights of later blocks are left."""
    logging = transformers.utils.logging
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
