"""A model cut after one of its layers, as a folder that transformers loads.

The cut is made in the configuration: transformers then builds the first blocks alone and reads only their weights.
What it returns has passed the model's final norm, where it has one; its hidden states have not, if that is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from storage.errors import UserError
from tasks.embedding.backbone import find_blocks
from tasks.embedding.description import load_tokenizer
from tasks.embedding.forward import Backbone
from tasks.embedding.prompts import with_prompt
from tasks.embedding.tokens import around_texts
from tasks.embedding.without_bars import without_bars
from tasks.exporting.states import (
    Cut,
    ExportedState,
    Source,
    ends_before_norm,
    exported_states,
    name_of_final_norm,
    reads_hidden_states,
)


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


@dataclass(frozen=True)
class SavedCut:
    """A model that was cut, and where its states are read."""

    blocks: int
    """How many it has: as many as its deepest layer, or one more where nothing else gives the state there."""
    states: tuple[ExportedState, ...]
    final_norm: str | None
    """The end of the name of the final norm's module, where a state is put through it."""


def cut_model(
    folder: Path,
    backbone: Backbone,
    cut: Cut,
    into: Path,
    *,
    prompt: str | None = None,
    trust_remote_code: bool = False,
) -> SavedCut:
    """Write the model of `folder` so that every state of the cut can be read from it, and say where.

    backbone: of the whole model. See `save_cut` for the rest, and for the errors.
    """
    blocks = save_cut(
        folder,
        cut.deepest,
        into,
        hidden_states=reads_hidden_states(exported_states(backbone, cut, cut.deepest)),
        before_norm=ends_before_norm(backbone, cut),
        prompt=prompt,
        trust_remote_code=trust_remote_code,
    )
    around = around_texts(load_tokenizer(into, trust_remote_code=trust_remote_code)) or (0, 0)
    states = exported_states(backbone, cut, blocks, around)
    is_normed = any(each.source == Source.NORMED for each in states)
    return SavedCut(blocks, states, name_of_final_norm(backbone) if is_normed else None)


def save_cut(
    folder: Path,
    layer: int,
    into: Path,
    *,
    hidden_states: bool = False,
    before_norm: bool = False,
    prompt: str | None = None,
    trust_remote_code: bool = False,
) -> int:
    """Write the model of `folder`, cut after `layer`, and its tokenizer into another folder.

    Weights keep the dtype that they are saved in. The tokenizer pads on the right, where no family's positions
    depend on the padding, and gets a padding token if it has none: the mask keeps it out of every state. A prompt is
    part of it.

    Args:
        folder: of the whole model.
        layer: the last one that is kept.
        into: a folder.
        hidden_states: the model gives the states of every layer without being asked.
        before_norm: its `hidden_states[layer]` has not passed the final norm, as in the whole model. Where the family
            knows no such setting, one block more is kept, and its state left.
        prompt: a template, see `tasks/embedding/prompts.py`.
        trust_remote_code: run the code that the model brings, and take it along.

    Returns:
        How many blocks it has.

    Raises:
        UserError: this family cannot be cut there.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if not trust_remote_code and hasattr(config, "auto_map"):
        del config.auto_map  # the code that it names is not run here, and not taken along
    of_whole = config.get_text_config().num_hidden_layers
    with quiet():
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
        blocks = layer
        model = _build(folder, copy.deepcopy(config), blocks, before_norm, trust_remote_code)
        if before_norm and layer < of_whole and _ends_in_norm(model):
            blocks = layer + 1
            model = _build(folder, copy.deepcopy(config), blocks, False, trust_remote_code)
        if hidden_states:
            model.config.output_hidden_states = True
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
    return blocks


def _build(
    folder: Path,
    config: transformers.PretrainedConfig,
    blocks: int,
    before_norm: bool,
    trust_remote_code: bool,
) -> transformers.PreTrainedModel:
    cut_config(config, blocks)
    if before_norm:
        config.get_text_config().tie_last_hidden_states = False
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
            f"transformers {transformers.__version__} cannot build a {config.model_type!r} model of {blocks} "
            f"blocks ({type(error).__name__}: {error}). Choose another --layer."
        ) from error
    if model.config.get_text_config() is not model.config:
        model, _, _ = find_blocks(model)  # of a model that sees or hears too, its text model
    if getattr(model.config, "use_cache", None) is not None:
        model.config.use_cache = False  # an embedding is one pass: there is nothing to reuse
    return model.eval()


def _ends_in_norm(model: transformers.PreTrainedModel) -> bool:
    """Whether the last of its hidden states is what the model returns, or there are none of a model without blocks."""
    padding = getattr(model.config, "pad_token_id", None)
    ids = torch.tensor([[token for token in range(5) if token != padding][:3]], device=model.device)
    with torch.inference_mode():
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    hidden = output.hidden_states
    return not hidden or bool(torch.equal(hidden[-1], output.last_hidden_state))


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
