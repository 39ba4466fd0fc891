"""The states that an embedding is made of, and where each of them is read from a model that was cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from storage.errors import UserError
from tasks.embedding.forward import Backbone
from tasks.embedding.pooling import POOLINGS
from tasks.vocabulary import NormState, Pooling


class Source(StrEnum):
    """Where a plain model has a state; `predict.py` reads it there."""

    LAST = "last_hidden_state"
    HIDDEN = "hidden_states"
    NORMED = "final_norm"
    """The final norm applied to the hidden states."""


@dataclass(frozen=True)
class LayerState:
    """One layer as a sweep measured it."""

    layer: int
    pooling: Pooling
    norm_state: NormState


@dataclass(frozen=True)
class Cut:
    """What is exported of a run: some layers side by side, mostly one."""

    states: tuple[LayerState, ...]
    """In the order in which they stand in an embedding."""

    @property
    def deepest(self) -> int:
        """The layer after which the model is cut."""
        return max(each.layer for each in self.states)

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """Each once."""
        return tuple(dict.fromkeys(each.pooling for each in self.states))

    @property
    def norm_states(self) -> tuple[NormState, ...]:
        """Each once."""
        return tuple(dict.fromkeys(each.norm_state for each in self.states))

    @property
    def named(self) -> str:
        """`layer 5`, or `layers 5, 2 and 6`."""
        layers = [str(each.layer) for each in self.states]
        if len(layers) == 1:
            return f"layer {layers[0]}"
        return f"layers {', '.join(layers[:-1])} and {layers[-1]}"


@dataclass(frozen=True)
class ExportedState:
    """One state of an exported model's embedding."""

    state: LayerState
    source: Source
    around: tuple[int, int] = (0, 0)
    """How many tokens before and after each text are none of its own."""

    def described(self) -> dict[str, Any]:
        """For `head.json` and sentence-transformers."""
        return {
            "layer": self.state.layer,
            "pooling": self.state.pooling.value,
            "norm_state": self.state.norm_state.value,
            "source": self.source.value,
            "around": list(self.around),
        }


def refuse_attention(cut: Cut) -> None:
    """`UserError` where a state is weighted by attention: it is that of a block after the cut, and no module of
    sentence-transformers sees it."""
    by_attention = [each.value for each in cut.poolings if POOLINGS[each].weights is not None]
    if by_attention:
        raise UserError(
            f"The run's answer is {cut.named} with {by_attention[0]} pooling, whose weights are the attention of the "
            "next block: an exported model ends before it, so it cannot be exported. Embed texts with "
            f"layerscout.open(STORAGE, RUN).encode(TEXTS) in Python, or sweep without --pooling {by_attention[0]} and "
            "export that run."
        )


def ends_before_norm(backbone: Backbone, cut: Cut) -> bool:
    """Whether a state of the deepest layer is wanted that the final norm has not touched, where the model has one."""
    deepest = [each for each in cut.states if each.layer == cut.deepest]
    return backbone.final_norm is not None and not all(_is_normed(backbone, each) for each in deepest)


def exported_states(
    backbone: Backbone, cut: Cut, blocks: int, around: tuple[int, int] = (0, 0)
) -> tuple[ExportedState, ...]:
    """Where each state of the cut is read, of a model of so many blocks. backbone: of the whole model."""
    return tuple(ExportedState(each, _source(backbone, each, blocks), around) for each in cut.states)


def reads_hidden_states(states: Sequence[ExportedState]) -> bool:
    """Whether what the model returns is not all that is read of it."""
    return any(each.source != Source.LAST for each in states)


def name_of_final_norm(backbone: Backbone) -> str | None:
    """Of the final norm's module in the whole model, as `get_submodule` takes it."""
    if backbone.final_norm is None:
        return None
    return next(name for name, module in backbone.model.named_modules() if module is backbone.final_norm)


def _source(backbone: Backbone, state: LayerState, blocks: int) -> Source:
    normed = _is_normed(backbone, state)
    if state.layer == blocks and (normed or backbone.final_norm is None):
        return Source.LAST
    return Source.NORMED if normed else Source.HIDDEN


def _is_normed(backbone: Backbone, state: LayerState) -> bool:
    """Whether the state has passed the final norm."""
    if backbone.final_norm is None:
        return False
    is_last = state.layer == backbone.layers and backbone.last_is_normed
    return is_last or state.norm_state == NormState.FINAL_NORM
