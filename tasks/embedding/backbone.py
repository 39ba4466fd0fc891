"""Where a transformer's layers begin and end, found by its structure and, of families without tests, by running it."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from storage.errors import UserError
from tasks.embedding.comparison import compare, run_plainly
from tasks.embedding.cpu_weights import pack_weights, packs
from tasks.embedding.families import FAMILIES, family_row, frequencies_change
from tasks.embedding.forward import Backbone
from tasks.embedding.packed_attention import PACKED, attend


def find_backbone(model: nn.Module) -> Backbone:
    """The headless, frozen backbone of a Hugging Face model, found by its structure.

    The model is changed in place and good for `forward_layers` only from then on: eval mode, no gradients, pooler
    left out, attention replaced, weights laid out for the CPU. `UserError` where the blocks cannot be
    found, or where a family that the tests do not cover gives other layers than Hugging Face's own.
    """
    body, owner, blocks = find_blocks(model)
    body.eval().requires_grad_(False)
    # A pooler's output is no hidden state. OPT-350m narrows its last layer to another size than all others
    # (project_out); it is left as wide as they are.
    parts: Any = body
    if getattr(body, "pooler", None) is not None:
        parts.pooler = _Nothing()
    if getattr(body, "project_out", None) is not None:
        parts.project_out = None
    if not family_row(body.config).tested:
        return _compared(body, blocks)
    weight = next(blocks.parameters())
    row = family_row(body.config)
    norms = [getattr(owner, norm) for norm in row.final_norms if getattr(owner, norm, None) is not None]
    backbone = Backbone(
        model=body,
        blocks=tuple(blocks),
        final_norm=norms[0] if norms else None,
        layers=len(blocks),
        hidden_size=body.config.hidden_size,
        family=body.config.model_type,
        row=row,
        device=weight.device,
        devices=_devices(body, weight.device),
        dtype=weight.dtype,
        packed=row.packed and bool(body._supports_attention_backend),
        # Hugging Face's own way to ask for a last layer without the final norm.
        takes_last_from_model=getattr(body.config, "tie_last_hidden_states", None) is not False,
        positions=row.positions(body.config),
        vocabulary=_vocabulary(body),
    )
    if backbone.packed:
        transformers.AttentionInterface.register(PACKED, attend)
        body.set_attn_implementation(PACKED)
    if backbone.device.type == "cpu" and packs(backbone.dtype):
        pack_weights(blocks)
    return backbone


def _compared(body: transformers.PreTrainedModel, blocks: nn.ModuleList) -> Backbone:
    """Of a family without tests, as plain transformers runs it: nothing is replaced, nothing laid out anew."""
    positions, vocabulary, weight = _position_table(body), _vocabulary(body), next(blocks.parameters())
    plain = run_plainly(body, blocks, positions, vocabulary)
    if getattr(body.config, "use_cache", None):
        body.config.use_cache = False  # there is nothing to go on with
    backbone = Backbone(
        model=body,
        blocks=tuple(blocks),
        final_norm=plain.final_norm,
        layers=len(blocks),
        hidden_size=plain.hidden_size,
        family=body.config.model_type,
        row=family_row(body.config),
        device=weight.device,
        devices=_devices(body, weight.device),
        dtype=weight.dtype,
        packed=False,
        takes_last_from_model=plain.takes_last_from_model,
        positions=positions,
        vocabulary=vocabulary,
        restore=plain.state.restore if plain.keeps_state or frequencies_change(body.config) else None,
    )
    compare(backbone, plain)
    return backbone


def _devices(body: nn.Module, first: torch.device) -> tuple[torch.device, ...]:
    return tuple(dict.fromkeys([first, *(each.device for each in body.parameters())]))


def _vocabulary(body: transformers.PreTrainedModel) -> int | None:
    """Token embeddings; None where ids are hashed or looked up in some other way."""
    try:
        table = body.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # how transformers says that a family has no such table
        return None
    return getattr(table, "num_embeddings", None)


def _position_table(body: transformers.PreTrainedModel) -> int | None:
    """The longest text in tokens where a table of learned positions is found by its name; None without one."""
    ends = []
    for name, table in body.named_modules():
        called = name.rpartition(".")[2]
        if isinstance(table, nn.Embedding) and called in _POSITIONS:
            first = getattr(table, "offset", None)
            if first is None:
                first = 0 if table.padding_idx is None else table.padding_idx + 1
            ends.append(table.num_embeddings - first)
    return min(ends, default=None)


_POSITIONS = ("wpe", "position_embeddings", "position_embedding", "embed_positions", "positions_embed")


def find_blocks(model: nn.Module) -> tuple[transformers.PreTrainedModel, nn.Module, nn.ModuleList]:
    """The model without its head, the module that holds the blocks (and the final norm), and the blocks.

    The blocks are the first list of modules, of one class if there is such, that is as long as its model's config
    says. Of an encoder-decoder that is the encoder, of a model that sees or hears too its text model.
    """
    config: Any = model.config
    text = config if config.is_encoder_decoder else config.get_text_config()
    found = []
    for name, blocks in model.named_modules():
        if not isinstance(blocks, nn.ModuleList) or not len(blocks):
            continue
        parents = [model.get_submodule(name.rsplit(".", cut)[0]) for cut in range(1, name.count(".") + 1)]
        parents.append(model)
        body = next(parent for parent in parents if isinstance(parent, transformers.PreTrainedModel))
        others = text is not config and type(body.config) is not type(text)
        if len(blocks) == getattr(body.config, "num_hidden_layers", None) and not others:
            found.append((body, parents[0], blocks))
    for each in found:
        if len({type(block) for block in each[2]}) == 1:
            return each
    if found:
        return found[0]
    if getattr(text, "num_hidden_groups", None) == 1:
        # ALBERT: one block, as often as there are layers.
        for name, groups in model.named_modules():
            if (
                isinstance(groups, nn.ModuleList)
                and len(groups) == 1
                and isinstance(model, transformers.PreTrainedModel)
            ):
                whole: Any = model.base_model
                owner = model.get_submodule(name.rpartition(".")[0])
                return whole, owner, nn.ModuleList([groups[0]] * text.num_hidden_layers)
    raise UserError(
        f"Where the layers of {type(model).__name__} (model type {config.model_type!r}) lie is not known: "
        "it has no list of equal blocks as long as its num_hidden_layers. Choose a model of a tested family: "
        f"{', '.join(sorted(FAMILIES))}."
    )


class _Nothing(nn.Module):
    """In place of a pooler, which some models call without asking whether they have one."""

    def forward(self, states: Tensor, *_: Any) -> Tensor:
        """Handed through: no hidden state is made of it."""
        return states
