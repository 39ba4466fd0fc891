"""Where a transformer's layers begin and end, and one forward pass that hands out each layer as it is made.

Texts are laid end to end without padding: every matrix product sees real tokens only, and an embedding cannot
depend on what else is in the batch. Only attention has to know where a text ends.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from storage.errors import UserError
from tasks.embedding.cpu_weights import pack_weights, packs_bfloat16
from tasks.embedding.families import FAMILIES, family_row
from tasks.embedding.packed_attention import (
    PACKED,
    ForwardPass,
    LastLayerReached,
    LengthGroup,
    attend,
    current_pass,
)


@dataclass(frozen=True)
class Backbone:
    """A frozen transformer without its head.

    `layers` is the number of blocks n; layer 0 is the embedding output, layer i the output of `blocks[i - 1]`, and
    layer n has passed `final_norm` as well, as in Hugging Face's `hidden_states`. `final_norm` is None where the
    model has none of its own (BERT: each block ends in its norm). `packed`: attention takes texts of different
    lengths laid end to end; otherwise a batch holds texts of one length.
    """

    model: PreTrainedModel
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    layers: int
    hidden_size: int
    family: str
    device: torch.device
    dtype: torch.dtype
    packed: bool

    @property
    def positions(self) -> int | None:
        """The longest text in tokens, where positions are a learned table; None where they have no hard end."""
        return family_row(self.family).positions(self.model.config)


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
    for part in ("pooler", "project_out"):
        if getattr(body, part, None) is not None:
            setattr(body, part, None)
    weight = next(blocks.parameters())
    family = body.config.model_type
    row = family_row(family)
    norms = [getattr(owner, norm) for norm in row.final_norms if getattr(owner, norm, None) is not None]
    backbone = Backbone(
        model=body,
        blocks=tuple(blocks),
        final_norm=norms[0] if norms else None,
        layers=len(blocks),
        hidden_size=body.config.hidden_size,
        family=family,
        device=weight.device,
        dtype=weight.dtype,
        packed=row.packed and bool(body._supports_attention_backend),
    )
    if family not in FAMILIES:
        _compare_with_hugging_face(backbone)
    if backbone.packed:
        AttentionInterface.register(PACKED, attend)
        body.set_attn_implementation(PACKED)
    if backbone.device.type == "cpu" and backbone.dtype == torch.bfloat16 and packs_bfloat16():
        pack_weights(blocks)
    return backbone


def find_blocks(model: nn.Module) -> tuple[PreTrainedModel, nn.Module, nn.ModuleList]:
    """The model without its head, the module that holds the blocks (and the final norm), and the blocks.

    The blocks are the first list of modules of one class that is as long as its model's config says. Of an
    encoder-decoder that is the encoder.
    """
    for name, blocks in model.named_modules():
        if not isinstance(blocks, nn.ModuleList) or len({type(block) for block in blocks}) != 1:
            continue
        parents = [model.get_submodule(name.rsplit(".", cut)[0]) for cut in range(1, name.count(".") + 1)]
        parents.append(model)
        body = next(parent for parent in parents if isinstance(parent, PreTrainedModel))
        if len(blocks) == getattr(body.config, "num_hidden_layers", None):
            return body, parents[0], blocks
    config: Any = model.config
    raise UserError(
        f"Where the layers of {type(model).__name__} (model type {config.model_type!r}) lie is not known: "
        "it has no list of equal blocks as long as its num_hidden_layers. Choose a model of a tested family: "
        f"{', '.join(sorted(FAMILIES))}."
    )


def _compare_with_hugging_face(backbone: Backbone) -> None:
    ids = torch.arange(1, 9, device=backbone.device)
    layers: list[Tensor] = []
    with capturing(backbone):
        forward_layers(
            backbone, ids, [LengthGroup(0, 1, len(ids))], lambda layer, states: layers.append(states.clone())
        )
    with torch.inference_mode():
        theirs = backbone.model(input_ids=ids[None], output_hidden_states=True).hidden_states
    same = len(layers) == len(theirs) and all(
        torch.allclose(ours, their[0], rtol=1e-2, atol=1e-3)
        for ours, their in zip(layers, theirs, strict=True)
    )
    if not same:
        raise UserError(
            f"The layers found in this {backbone.family!r} model are not the hidden states that Hugging Face returns, "
            "so no number of it could be trusted. Choose a model of a tested family: "
            f"{', '.join(sorted(FAMILIES))}."
        )


@contextmanager
def capturing(backbone: Backbone) -> Iterator[None]:
    """Hooks on the blocks for as long as it lasts: `forward_layers` needs them, from however many threads."""

    def before_first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current_pass.get().reached(0, args[0] if args else kwargs["hidden_states"])

    def after(layer: int) -> Callable[..., None]:
        return lambda module, args, output: current_pass.get().reached(
            layer, output[0] if isinstance(output, tuple) else output
        )

    hooks = [backbone.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
    # The last layer is what the model returns: it has passed the final norm.
    hooks += [
        block.register_forward_hook(after(layer)) for layer, block in enumerate(backbone.blocks[:-1], start=1)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def forward_layers(
    backbone: Backbone,
    ids: Tensor,
    groups: Sequence[LengthGroup],
    take: Callable[[int, Tensor], None],
    max_layer: int | None = None,
) -> None:
    """Run the tokens of some texts through the model, and hand each layer to `take(layer, states)` as it is made.

    To be called inside `capturing`. ids: int64 [T] on the model's device, the texts of `groups` end to end; one group
    only where the backbone is not `packed`. states: [T, D] in the model's dtype; it dies after the call unless
    `take` keeps it. Blocks after `max_layer` do not run.
    """
    current = ForwardPass(groups, take, backbone.layers if max_layer is None else max_layer)
    token = current_pass.set(current)
    try:
        with torch.inference_mode():
            output = backbone.model(**_inputs(backbone, ids, groups))
            current.reached(backbone.layers, output.last_hidden_state)
    except LastLayerReached:
        pass
    finally:
        current_pass.reset(token)


def _inputs(backbone: Backbone, ids: Tensor, groups: Sequence[LengthGroup]) -> dict[str, Any]:
    row, config = family_row(backbone.family), backbone.model.config
    inputs: dict[str, Any] = {}
    if row.takes_use_cache and getattr(config, "use_cache", None) is not None:
        inputs["use_cache"] = False
    if not backbone.packed:
        (group,) = groups
        return inputs | {"input_ids": ids.view(group.texts, group.length)}
    first = row.first_position(config)
    positions = torch.cat(
        [torch.arange(first, first + group.length, device=ids.device).repeat(group.texts) for group in groups]
    )
    return inputs | {"input_ids": ids[None], "position_ids": positions[None]}
