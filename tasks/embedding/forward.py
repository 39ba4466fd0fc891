"""One forward pass through a backbone that hands out each layer as it is made.

Texts are laid end to end without padding: every matrix product sees real tokens only, and an embedding cannot
depend on what else is in the batch. Only attention has to know where a text ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from storage.errors import UserError
from tasks.embedding.families import Family
from tasks.embedding.packed_attention import ForwardPass, LastLayerReached, LengthGroup, Look, current_pass
from tasks.embedding.shared_prefix import SharedPrefix


@dataclass(frozen=True)
class Backbone:
    """A frozen transformer without its head.

    `layers` is the number of blocks n; layer 0 is the embedding output, layer i the output of `blocks[i - 1]`, as in
    Hugging Face's `hidden_states`. `final_norm` is None where the model has none of its own (BERT: each block ends in
    its norm). `packed`: attention takes texts of different lengths
    laid end to end; otherwise a batch holds texts of one length. `positions` is the longest text in tokens where
    positions are a learned table, `vocabulary` the number of token embeddings; None where there is no such end.
    `device`: of the first block, where tokens come in. `devices`: all that its layers are spread over, that one first.
    `takes_last_from_model`: layer n is what the model returns, else what its last block does.

    `restore` puts back what a forward pass leaves on the model's modules (a recurrent state, frequencies that grow
    with the longest text seen), so that an embedding does not depend on earlier batches; one batch runs at a time
    then. None where nothing is left.

    `read_block(i)` gives block i with its weights, of a model whose blocks are not in memory; None where they are.
    """

    model: transformers.PreTrainedModel
    blocks: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    layers: int
    hidden_size: int
    family: str
    row: Family
    device: torch.device
    devices: tuple[torch.device, ...]
    dtype: torch.dtype
    packed: bool
    takes_last_from_model: bool
    positions: int | None
    vocabulary: int | None
    restore: Callable[[], object] | None = None
    read_block: Callable[[int], nn.Module] | None = None

    @property
    def shares_prefix(self) -> bool:
        """Whether what texts begin with can be computed once for all of them."""
        return self.packed and self.causal

    @property
    def causal(self) -> bool:
        """Whether a token sees those before it alone; of families without tests nobody knows, and False."""
        both_ways = getattr(self.model.config, "use_bidirectional_attention", None)
        return self.row.tested and self.row.causal and not both_ways

    @property
    def last_is_normed(self) -> bool:
        """Whether layer n has passed the final norm, as in Hugging Face's `hidden_states` of nearly every model."""
        return self.final_norm is not None and self.takes_last_from_model


@contextmanager
def capturing(backbone: Backbone) -> Iterator[None]:
    """Hooks on the blocks for as long as it lasts: `forward_layers` needs them, from however many threads."""

    # The last layer is what the model returns: it has passed the final norm.
    last = backbone.layers - 1 if backbone.takes_last_from_model else backbone.layers
    layers_of: dict[nn.Module, list[int]] = {}
    for layer, block in enumerate(backbone.blocks, start=1):
        layers_of.setdefault(block, []).append(layer)  # ALBERT's one block makes all of them

    def before_first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current = current_pass.get()
        if not current.calls[module]:
            current.reached(0, args[0] if args else kwargs["hidden_states"])

    def after(module: nn.Module, args: Any, output: Any) -> None:
        current = current_pass.get()
        layer = layers_of[module][current.calls[module]]
        current.calls[module] += 1
        if layer <= last:
            current.reached(layer, output[0] if isinstance(output, tuple | list) else output)

    hooks = [backbone.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
    hooks += [block.register_forward_hook(after) for block in layers_of]
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
    *,
    prefix: SharedPrefix | None = None,
    records: SharedPrefix | None = None,
    look: Look | None = None,
) -> None:
    """Run the tokens of some texts through the model, and hand each layer to `take(layer, states)` as it is made.

    To be called inside `capturing`. ids: int64 [T] on the model's device, the texts of `groups` end to end; one group
    only where the backbone is not `packed`. states: [T, D] in the model's dtype; it dies after the call unless
    `take` keeps it. Blocks after `max_layer` do not run. prefix, records, look: as of `ForwardPass`.
    """
    last = backbone.layers if max_layer is None else max_layer
    current = ForwardPass(groups, take, last, prefix=prefix, records=records, look=look)
    if backbone.restore is not None:
        backbone.restore()
    token = current_pass.set(current)
    try:
        with torch.inference_mode():
            output = backbone.model(**model_inputs(backbone, ids, groups, prefix))
            current.reached(backbone.layers, output.last_hidden_state)
    except LastLayerReached:
        pass
    except (IndexError, RuntimeError) as error:
        end, longest = _stated_positions(backbone), max(group.length for group in groups)
        if end is None or longest <= end or "memory" in str(error):
            raise
        raise UserError(
            f"A text has {longest} tokens, and this {backbone.family!r} model does not run on more than the {end} that "
            f"its configuration names ({type(error).__name__}). Set max_length to {end} or less."
        ) from error
    finally:
        current_pass.reset(token)


def model_inputs(
    backbone: Backbone, ids: Tensor, groups: Sequence[LengthGroup], prefix: SharedPrefix | None = None
) -> dict[str, Any]:
    """What the model is called with for the texts of `groups`, whose tokens `ids`, int64 [T], lie end to end."""
    row, config = backbone.row, backbone.model.config
    inputs: dict[str, Any] = {}
    if row.takes_use_cache and getattr(config, "use_cache", None) is not None:
        inputs["use_cache"] = False
    if not backbone.packed:
        (group,) = groups
        ids = ids.view(group.texts, group.length)
        return inputs | ({"input_ids": ids} if row.tested else plain_inputs(backbone.model, ids))
    positions = torch.cat([_positions(row, config, ids, group) for group in groups])
    if prefix is not None:
        positions += prefix.length
    return inputs | {"input_ids": ids[None], "position_ids": positions[None]}


def _stated_positions(backbone: Backbone) -> int | None:
    """Of a family without tests, whose positions may end without a table of them."""
    end = getattr(backbone.model.config, "max_position_embeddings", None)
    return end if type(end) is int and not backbone.row.tested else None


def plain_inputs(model: transformers.PreTrainedModel, ids: Tensor) -> dict[str, Any]:
    """What a tokenizer hands a model of texts of one length. ids: int64 [texts, length]."""
    if "attention_mask" in signature(model.forward).parameters:
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {"input_ids": ids}


def _positions(row: Family, config: Any, ids: Tensor, group: LengthGroup) -> Tensor:
    """int64 [texts · length]."""
    first = row.first_position(config)
    if not row.counts_from_padding:
        return torch.arange(first, first + group.length, device=ids.device).repeat(group.texts)
    # Hugging Face counts tokens that are no padding, and a text may name the padding token.
    counted = ids[group.start : group.stop].view(group.texts, group.length) != config.pad_token_id
    return (counted.cumsum(dim=1) * counted + config.pad_token_id).flatten()
