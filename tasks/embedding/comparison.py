"""A model of a family that the tests do not cover, run once by plain transformers: what it has, and its layers.

Texts of different lengths, each alone, in float32 and in the dtype that will run. What `forward_layers` makes of them
must be the same, or the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from storage.errors import UserError
from tasks.embedding.forward import Backbone, capturing, forward_layers, plain_inputs
from tasks.embedding.kept_state import ModelState
from tasks.embedding.packed_attention import LengthGroup

COMPARED_VERSION = 1
"""Of this comparison: embeddings of a family without tests that an older, laxer one let pass are not reused."""
TIMES_OWN_ERROR = 3.0
"""A narrow dtype may be this much further from float32 than plain transformers in the same dtype."""
ROUNDING = 1e-4
"""Of float32, relative to a layer's norm: batches of other shapes add in another order, and blocks pass it on."""
# Where plain transformers is right by luck, its error is no measure.
_NARROW_ROUNDING = 2.0**-9

# Longest first, as a sweep has them, and two together where a batch holds more than one.
# Token ids of a model without a vocabulary: CANINE hashes characters.
_CHARACTERS = 128
_SHORT = (12, 12, 5, 1)
_LONG = 300
# What the configuration names is outgrown up to here: more would take too long.
_LONGEST = 1_500


class NarrowDtypeError(UserError):
    """The model does not compute in the asked dtype what it computes in float32."""


@dataclass(frozen=True)
class PlainRun:
    """What plain transformers makes of some texts, each alone, and what was seen of the model on the way.

    exact, rounded: [layers + 1, length, D] of each text on the CPU, in float32 and in the model's own dtype. `state`
    is the model's before any text, `keeps_state` says that a text changes it.
    """

    texts: tuple[Tensor, ...]
    exact: tuple[Tensor, ...]
    rounded: tuple[Tensor, ...]
    final_norm: nn.Module | None
    takes_last_from_model: bool
    state: ModelState
    keeps_state: bool

    @property
    def hidden_size(self) -> int:
        """Of every layer."""
        return self.exact[0].shape[-1]


def run_plainly(
    model: transformers.PreTrainedModel, blocks: nn.ModuleList, positions: int | None, vocabulary: int | None
) -> PlainRun:
    """Run a headless model in evaluation mode as anybody would, text by text.

    Raises:
        NarrowDtypeError: it runs in float32 only.
        UserError: it does not run on token ids alone, or what it returns are not the layers of its tokens.
    """
    family, weight = model.config.model_type, next(blocks.parameters())
    texts = [each.to(weight.device) for each in _texts(model.config, positions, vocabulary)]
    with _in_float32(model):
        state = ModelState(model)
        exact, keeps_state = _layers(model, texts, len(blocks), state)
        final_norm, takes_last = _ending(model, blocks, texts[-1])
        keeps_state |= state.restore()
    state = ModelState(model)
    rounded = exact
    if weight.dtype != torch.float32:
        try:
            rounded, _ = _layers(model, texts, len(blocks), state)
        except UserError as error:
            raise NarrowDtypeError(_narrow(family, weight.dtype, str(error))) from error
        if not all(bool(each.isfinite().all()) for each in rounded):
            raise NarrowDtypeError(_narrow(family, weight.dtype, "Some of its values are not finite there."))
    return PlainRun(tuple(texts), tuple(exact), tuple(rounded), final_norm, takes_last, state, keeps_state)


def compare(backbone: Backbone, plain: PlainRun) -> None:
    """Hold what will run against plain transformers.

    Raises:
        NarrowDtypeError: in this dtype it is further from float32 than plain transformers are.
        UserError: the layers are others.
    """
    ours: list[Tensor] = []
    try:
        with capturing(backbone):
            for length, same in groupby(plain.texts, key=len):
                ours += _ours(backbone, list(same), length)
    except Exception as error:  # a stranger's code, which may fail in any way
        raise UserError(_other_layers(backbone.family, _words(error))) from error
    for layer in range(backbone.layers + 1):
        if backbone.dtype == torch.float32:
            for our, their in zip(ours, plain.exact, strict=True):
                if not _error([our], [their], layer) <= ROUNDING * float(their[layer].norm()):
                    told = f"layer {layer} of a text of {their.shape[1]} tokens differs"
                    raise UserError(_other_layers(backbone.family, told))
            continue
        own, size = _error(plain.rounded, plain.exact, layer), _error(plain.exact, None, layer)
        if not _error(ours, plain.exact, layer) <= TIMES_OWN_ERROR * own + _NARROW_ROUNDING * size:
            told = f"Its layer {layer} is further from float32 than plain transformers has it."
            raise NarrowDtypeError(_narrow(backbone.family, backbone.dtype, told))


def _ours(backbone: Backbone, texts: list[Tensor], length: int) -> list[Tensor]:
    layers: list[Tensor] = []
    forward_layers(
        backbone,
        torch.cat(texts),
        [LengthGroup(0, len(texts), length)],
        lambda layer, states: layers.append(states.float().cpu()),
    )
    return list(torch.stack(layers).split(length, dim=1))


def _texts(config: Any, positions: int | None, vocabulary: int | None) -> list[Tensor]:
    """int64 [length] each; the second of the short ones names the padding token in its middle."""
    stated = (positions, getattr(config, "max_position_embeddings", None))
    ends = [each for each in stated if type(each) is int and each > 0]
    longest = min(max([_LONG, *(2 * each for each in _windows(config))]), _LONGEST, *ends)
    entries = vocabulary or getattr(config, "vocab_size", None) or _CHARACTERS
    generator = torch.Generator().manual_seed(0)
    lengths = [longest, longest, *(each for each in _SHORT if each < longest)]
    texts = [torch.randint(0, entries, (length,), generator=generator) for length in lengths]
    padding = getattr(config, "pad_token_id", None)
    if isinstance(padding, int) and 0 <= padding < entries and len(texts) > 3:
        texts[3][len(texts[3]) // 2] = padding
    return texts


def _windows(config: Any) -> Iterator[int]:
    """Tokens that attention sees, or takes at once, as the configuration names them."""
    for name, value in vars(config).items():
        if "window" in name or "block_size" in name or "chunk" in name:
            yield from (each for each in (value if isinstance(value, list) else [value]) if type(each) is int)
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird: shorter texts are attended to in full.
        yield (5 + 2 * config.num_random_blocks) * config.block_size


def _layers(
    model: transformers.PreTrainedModel, texts: Sequence[Tensor], blocks: int, state: ModelState
) -> tuple[list[Tensor], bool]:
    """float32 [blocks + 1, length, D] of each text on the CPU, and whether any of them changed the model's state."""
    found, changed = [], False
    for ids in texts:
        states = getattr(_plain(model, ids), "hidden_states", None)
        changed |= state.restore()
        if (
            states is None
            or len(states) != blocks + 1
            or not all(isinstance(each, Tensor) for each in states)
        ):
            raise UserError(_other_layers(model.config.model_type, "it returns none for each block"))
        widths = {each.shape[-1] for each in states}
        if any(each.dim() != 3 or each.shape[0] != 1 or each.shape[1] < len(ids) for each in states):
            raise UserError(_other_layers(model.config.model_type, "it returns none for each token"))
        if len(widths) != 1:
            raise UserError(_other_layers(model.config.model_type, "they are not of one width"))
        found.append(torch.stack([each[0, : len(ids)].float().cpu() for each in states]))
    return found, changed


def _plain(model: transformers.PreTrainedModel, ids: Tensor) -> Any:
    try:
        with torch.inference_mode():
            return model(**plain_inputs(model, ids[None]), output_hidden_states=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a stranger's code, which may fail in any way
        raise UserError(
            f"A {model.config.model_type!r} model does not run on the tokens of a text alone ({_words(error)}), so its "
            "layers cannot be had. Choose another model."
        ) from error


def _ending(
    model: transformers.PreTrainedModel, blocks: nn.ModuleList, ids: Tensor
) -> tuple[nn.Module | None, bool]:
    """The final norm, which makes the model's output of what its last block puts out, and whether the last of its
    hidden states is that output."""
    raw: list[Tensor] = []
    after: list[nn.Module] = []

    def last_block(module: nn.Module, args: Any, output: Any) -> None:
        raw.append(output[0] if isinstance(output, tuple | list) else output)

    def later(module: nn.Module, args: Any, output: Any) -> None:
        if raw and args and args[0] is raw[-1] and isinstance(output, Tensor):
            after.append(module)

    inside = set(blocks.modules())
    with ExitStack() as hooks:
        hooks.enter_context(blocks[-1].register_forward_hook(last_block))
        for module in model.modules():
            if module not in inside:
                hooks.enter_context(module.register_forward_hook(later))
        output = _plain(model, ids)
    last = getattr(output, "last_hidden_state", None)
    if last is None or not raw:
        raise UserError(
            _other_layers(model.config.model_type, "it returns no last one, or calls no block as a module")
        )

    if torch.equal(raw[-1], last):
        after.clear()  # each block ends in its own

    def makes_the_last(module: nn.Module) -> bool:
        with torch.inference_mode():
            # Of tokens end to end, as a sweep has them.
            made = module(raw[-1].reshape(-1, raw[-1].shape[-1]))
        return made.shape == last.shape[1:] and torch.allclose(made, last[0], rtol=1e-4, atol=1e-5)

    return next(filter(makes_the_last, after), None), bool(torch.equal(output.hidden_states[-1], last))


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Widened in place for as long as it lasts: the weights stay the rounded ones that they are."""
    narrow = [
        (each, each.dtype)
        for each in chain(model.parameters(), model.buffers())
        if each.dtype in (torch.bfloat16, torch.float16)
    ]
    for each, _ in narrow:
        each.data = each.data.float()
    try:
        yield
    finally:
        for each, dtype in narrow:
            each.data = each.data.to(dtype)


def _error(found: Sequence[Tensor], exact: Sequence[Tensor] | None, layer: int) -> float:
    """Of one layer of all texts: the norm of the difference, or of what was found."""
    parts = found if exact is None else [one - other for one, other in zip(found, exact, strict=True)]
    return float(torch.cat([each[layer] for each in parts]).norm())


def _other_layers(family: str, reason: str) -> str:
    return (
        f"The layers found in this {family!r} model are not the hidden states that Hugging Face returns ({reason}), so "
        "no number of it could be trusted. Choose a model of another family, one that the tests cover if in doubt."
    )


def _narrow(family: str, dtype: torch.dtype, reason: str) -> str:
    return (
        f"This {family!r} model cannot be trusted in {str(dtype).removeprefix('torch.')}. {reason} Choose --dtype "
        "float32."
    )


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
