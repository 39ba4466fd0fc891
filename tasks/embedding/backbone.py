"""Where a transformer's layers begin and end, and one forward pass that hands out each layer as it is made.

Texts are laid end to end without padding: every matrix product sees real tokens only, and an embedding cannot
depend on what else is in the batch. Only attention has to know where a text ends.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.activations import SiLUActivation

from storage.errors import UserError

TESTED_FAMILIES = frozenset(
    {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "opt", "phi3"}
    | {"bert", "roberta", "xlm-roberta", "modernbert", "distilbert", "t5"}
)
"""`model_type`s whose layers the tests compare with Hugging Face's own. Others are compared when they are loaded."""

_PACKED = "layerscout_packed"
_SHORT = 256
_VECTOR = 32
_FINAL_NORMS = ("norm", "final_norm", "final_layer_norm", "ln_f")


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
        tables = {"bert", "distilbert", "gpt2", "opt", "roberta", "xlm-roberta"}
        if self.family not in tables:
            return None
        return self.model.config.max_position_embeddings - _first_position(self)


@dataclass(frozen=True)
class Run:
    """`texts` texts of `length` tokens each, laid end to end from token `start`."""

    start: int
    texts: int
    length: int

    @property
    def stop(self) -> int:
        """One past the last token."""
        return self.start + self.texts * self.length


class _LastLayerReached(BaseException):
    """Ends a forward pass whose further blocks nobody asked for. No error, so that no handler of errors takes it."""


@dataclass(frozen=True)
class _Pass:
    """What hooks and attention have to know of the forward pass that their thread is in."""

    runs: Sequence[Run]
    take: Callable[[int, Tensor], None]
    last: int

    def reached(self, layer: int, states: Tensor) -> None:
        self.take(layer, states.reshape(-1, states.shape[-1]))
        if layer == self.last:
            raise _LastLayerReached


_pass: ContextVar[_Pass] = ContextVar("_pass")


def find_backbone(model: nn.Module) -> Backbone:
    """The headless, frozen backbone of a Hugging Face model, found by its structure.

    The model is changed in place and good for `forward_layers` only from then on: eval mode, no gradients, pooler
    left out, attention replaced, weights laid out for the CPU. `UserError` where the blocks cannot be
    found, or where a family that the tests do not cover gives other layers than Hugging Face's own.
    """
    body, owner, blocks = _find_blocks(model)
    body.eval().requires_grad_(False)
    # A pooler's output is no hidden state. OPT-350m narrows its last layer to another size than all others
    # (project_out); it is left as wide as they are.
    for part in ("pooler", "project_out"):
        if getattr(body, part, None) is not None:
            setattr(body, part, None)
    norms = [getattr(owner, norm) for norm in _FINAL_NORMS if getattr(owner, norm, None) is not None]
    weight = next(blocks.parameters())
    family = body.config.model_type
    backbone = Backbone(
        model=body,
        blocks=tuple(blocks),
        final_norm=norms[0] if norms else None,
        layers=len(blocks),
        hidden_size=body.config.hidden_size,
        family=family,
        device=weight.device,
        dtype=weight.dtype,
        # T5 adds a position bias over the whole sequence, which would be quadratic in the packed tokens.
        packed=bool(body._supports_attention_backend) and family in TESTED_FAMILIES - {"t5"},
    )
    if family not in TESTED_FAMILIES:
        _compare_with_hugging_face(backbone)
    if backbone.packed:
        AttentionInterface.register(_PACKED, _attend)
        body.set_attn_implementation(_PACKED)
    if backbone.device.type == "cpu" and backbone.dtype == torch.bfloat16:
        _pack_weights(blocks)
    return backbone


def _find_blocks(model: nn.Module) -> tuple[PreTrainedModel, nn.Module, nn.ModuleList]:
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
        f"{', '.join(sorted(TESTED_FAMILIES))}."
    )


def _replace_forward(module: nn.Module, forward: Callable[..., torch.Tensor]) -> None:
    """Of this module alone, not of its class."""
    module.forward = forward


def _pack_weights(blocks: nn.ModuleList) -> None:
    """Lay the weights of the blocks out once as the CPU's matrix products read them, instead of at every call.

    A gated MLP also gets its activation and its product computed where the matrix product writes. The plain weights
    are freed: two copies would double the memory of a model. The operators are those that torch.compile emits.
    """
    for module in blocks.modules():
        if type(module) is nn.Linear and module.weight.numel():
            packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach())
            # The class's own would read the weight, which is freed here.
            _replace_forward(module, partial(_product, packed, module.bias))
            module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)
    for module in blocks.modules():
        parts: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
        silu = isinstance(getattr(module, "act_fn", None), nn.SiLU | SiLUActivation)
        if silu and all(type(part) is nn.Linear for part in parts):
            _replace_forward(module, partial(_gated_product, *(part.forward for part in parts)))


def _product(packed: Tensor, bias: Tensor | None, x: Tensor, then: str = "none") -> Tensor:
    """x Wᵀ + b, and an activation."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, then, [], "")


def _gated_product(gate: partial, up: partial, down: partial, x: Tensor) -> Tensor:
    """down(silu(gate(x)) · up(x))."""
    return down(torch.ops.mkldnn._linear_pointwise.binary(x, gate(x, then="swish"), *up.args, "mul"))


def _compare_with_hugging_face(backbone: Backbone) -> None:
    ids = torch.arange(1, 9, device=backbone.device)
    layers: list[Tensor] = []
    with capturing(backbone):
        forward_layers(
            backbone, ids, [Run(0, 1, len(ids))], lambda layer, states: layers.append(states.clone())
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
            f"{', '.join(sorted(TESTED_FAMILIES))}."
        )


@contextmanager
def capturing(backbone: Backbone) -> Iterator[None]:
    """Hooks on the blocks for as long as it lasts: `forward_layers` needs them, from however many threads."""

    def before_first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _pass.get().reached(0, args[0] if args else kwargs["hidden_states"])

    def after(layer: int) -> Callable[..., None]:
        return lambda module, args, output: _pass.get().reached(
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
    runs: Sequence[Run],
    take: Callable[[int, Tensor], None],
    max_layer: int | None = None,
) -> None:
    """Run the tokens of some texts through the model, and hand each layer to `take(layer, states)` as it is made.

    To be called inside `capturing`. ids: int64 [T] on the model's device, the texts of `runs` end to end; one run
    only where the backbone is not `packed`. states: [T, D] in the model's dtype; it dies after the call unless
    `take` keeps it. Blocks after `max_layer` do not run.
    """
    current = _Pass(runs, take, backbone.layers if max_layer is None else max_layer)
    token = _pass.set(current)
    try:
        with torch.inference_mode():
            output = backbone.model(**_inputs(backbone, ids, runs))
            current.reached(backbone.layers, output.last_hidden_state)
    except _LastLayerReached:
        pass
    finally:
        _pass.reset(token)


def _inputs(backbone: Backbone, ids: Tensor, runs: Sequence[Run]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    if getattr(backbone.model.config, "use_cache", None) is not None and backbone.family != "t5":
        inputs["use_cache"] = False
    if not backbone.packed:
        (run,) = runs
        return inputs | {"input_ids": ids.view(run.texts, run.length)}
    first_position = _first_position(backbone)
    positions = torch.cat(
        [
            torch.arange(first_position, first_position + run.length, device=ids.device).repeat(run.texts)
            for run in runs
        ]
    )
    return inputs | {"input_ids": ids[None], "position_ids": positions[None]}


def _first_position(backbone: Backbone) -> int:
    """RoBERTa counts positions from its padding id on."""
    roberta = backbone.family in ("roberta", "xlm-roberta")
    return backbone.model.config.pad_token_id + 1 if roberta else 0


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention inside each text of the packed sequence. query: [1, H, T, d]; key, value: [1, H or fewer, T, d]."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = torch.empty_like(query.transpose(1, 2))  # [1, T, H, d], the layout that the model goes on with
    for run in _pass.get().runs:
        q, k, v, into = (_texts_of(run, x) for x in (query, key, value, out.transpose(1, 2)))
        window = sliding_window if sliding_window is not None and run.length > sliding_window else None
        if softcap is not None or (q.device.type == "cpu" and run.length <= _SHORT):
            _attend_by_products(q, k, v, into, scale, causal, window, softcap)
        elif window is not None:
            allowed = _allowed(run.length, run.length, causal, window, q.device)
            into.copy_(scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale, enable_gqa=True))
        else:
            causal_now = causal and run.length > 1
            into.copy_(
                scaled_dot_product_attention(q, k, v, is_causal=causal_now, scale=scale, enable_gqa=True)
            )
    return out, None


def _texts_of(run: Run, packed: Tensor) -> Tensor:
    """[1, H, T, d] → a view [texts, H, length, d]."""
    return packed[0, :, run.start : run.stop].unflatten(1, (run.texts, run.length)).transpose(0, 1)


def _attend_by_products(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    into: Tensor,
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
) -> None:
    """Attention of short texts as two batched matrix products. q, into: [n, H, L, d]; k, v: [n, K, L, d], K divides H.

    On a CPU torch's fused kernel takes two to four times as long for texts of up to about 250 tokens. The query heads
    that share a key head are rows of one product; keys are padded to whole vectors, without which softmax is slow.
    """
    texts, heads, length, size = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    padded = -(-length // _VECTOR) * _VECTOR
    queries = q.unflatten(1, (kv_heads, group)).transpose(2, 3).reshape(-1, length * group, size)
    keys = k.new_zeros(texts, kv_heads, padded, size)
    values = torch.zeros_like(keys)
    keys[:, :, :length] = k
    values[:, :, :length] = v
    bias = _bias(length, padded, group, causal, window, q.dtype, q.device)
    if softcap is None:
        scores = torch.baddbmm(bias, queries, keys.flatten(0, 1).transpose(1, 2), alpha=scale)
    else:
        scores = torch.bmm(queries, keys.flatten(0, 1).transpose(1, 2)).mul_(scale / softcap)
        scores = scores.tanh_().mul_(softcap).add_(bias)
    attended = torch.bmm(scores.softmax(dim=-1), values.flatten(0, 1))
    into.unflatten(1, (kv_heads, group)).copy_(
        attended.view(texts, kv_heads, length, group, size).transpose(2, 3)
    )


@lru_cache(maxsize=64)
def _bias(
    length: int,
    padded: int,
    group: int,
    causal: bool,
    window: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """0 where a query may see a key, else −∞: [1, length · group, padded], each query's row `group` times."""
    allowed = _allowed(length, padded, causal, window, device)
    bias = torch.zeros(length, padded, dtype=dtype, device=device).masked_fill_(~allowed, float("-inf"))
    return bias.repeat_interleave(group, dim=0)[None]


def _allowed(length: int, padded: int, causal: bool, window: int | None, device: torch.device) -> Tensor:
    """Which key (column) each query (row) may see: bool [length, padded]. A window holds the query's own token."""
    keys = torch.arange(padded, device=device)
    back = torch.arange(length, device=device)[:, None] - keys
    allowed = (back >= 0) if causal else (keys < length).expand(length, padded)
    return allowed if window is None else allowed & (back.abs() < window)
