"""A model cut after one of its layers, as a folder that transformers and sentence-transformers load.

The cut is made in the configuration: transformers then builds the first blocks alone and reads only their weights.
What it puts out has passed the model's final norm, where it has one: the norm state `final_norm` of that layer.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from storage.errors import UserError
from tasks.embedding.backbone import find_blocks
from tasks.embedding.model import without_bars
from tasks.embedding.pooling import POOLINGS
from tasks.embedding.prompts import with_prompt
from tasks.vocabulary import Pooling

SENTENCE_TRANSFORMERS_POOLING = {
    pooling: record.sentence_transformers
    for pooling, record in POOLINGS.items()
    if record.sentence_transformers is not None
}
"""The poolings that sentence-transformers has too, and its flags for them."""


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
        # layer_types, layers_block_type, no_rope_layers, attention_window …: one entry a block.
        if (
            isinstance(value, list | tuple)
            and len(value) == blocks
            and any(word in name for word in ("layer", "block", "window"))
        ):
            setattr(text, name, value[:layer])
    # Qwen2 counts blocks with full attention from the first one.
    if getattr(text, "max_window_layers", None) is not None:
        text.max_window_layers = min(text.max_window_layers, layer)
    text.num_hidden_layers = layer
    return config


def save_cut(
    folder: Path, layer: int, into: Path, *, prompt: str | None = None, trust_remote_code: bool = False
) -> None:
    """Write the model of `folder`, cut after `layer`, and its tokenizer into another folder.

    Weights keep the dtype that they are saved in. The tokenizer pads on the right, where no family's positions
    depend on the padding, and gets a padding token if it has none: the mask keeps it out of every state. A prompt is
    part of it.

    Raises:
        UserError: this family cannot be cut there.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if not trust_remote_code and hasattr(config, "auto_map"):
        del config.auto_map  # the code that it names is not run here, and not taken along
    cut_config(config, layer)
    with quiet():
        try:
            model = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype="auto",
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
            )
        except Exception as error:  # a stranger's code, with fewer blocks than it was made for
            raise UserError(
                f"transformers {transformers.__version__} cannot build a {config.model_type!r} model of {layer} "
                f"blocks ({type(error).__name__}: {error}). Choose another --layer."
            ) from error
        if model.config.get_text_config() is not model.config:
            model, _, _ = find_blocks(model)  # of a model that sees or hears too, its text model
        if getattr(model.config, "use_cache", None) is not None:
            model.config.use_cache = False  # an embedding is one pass: there is nothing to reuse
        model.save_pretrained(into)
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
        if not trust_remote_code:
            tokenizer.init_kwargs.pop("auto_map", None)
        tokenizer = with_prompt(tokenizer, prompt)
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


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars, and without its remark that the weights of later blocks are left."""
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)
