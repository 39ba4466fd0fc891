"""What has to be known of a model family before its layers can be taken: one row each, by Hugging Face's `model_type`.

Where blocks lie, and whether a model is an encoder or a decoder, is read off the model and its configuration instead.
"""

from dataclasses import dataclass

from transformers import PretrainedConfig


@dataclass(frozen=True)
class Family:
    """One row of the table; the defaults are what most decoders have."""

    final_norms: tuple[str, ...] = ("norm",)
    """Attributes beside the blocks of which the first that is there is the final norm; none where a block ends in its
    own."""
    packed: bool = True
    """Texts of different lengths can lie end to end: positions can be told, and attention can be replaced."""
    position_table: bool = False
    """Positions are a learned table with an end; else they are computed, and a text may be as long as it likes."""
    counts_from_padding: bool = False
    """The first position is the one after the padding id; else 0."""
    takes_use_cache: bool = True
    """`use_cache` may be given to the model, where its configuration has it."""

    def first_position(self, config: PretrainedConfig) -> int:
        """Of a text's first token."""
        return config.pad_token_id + 1 if self.counts_from_padding else 0

    def positions(self, config: PretrainedConfig) -> int | None:
        """The longest text in tokens; None where positions have no hard end."""
        return config.max_position_embeddings - self.first_position(config) if self.position_table else None


_ENCODER = Family(final_norms=(), position_table=True)
_ROBERTA = Family(final_norms=(), position_table=True, counts_from_padding=True)

FAMILIES = {
    "llama": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "mistral": Family(),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "phi3": Family(),
    "gpt_neox": Family(final_norms=("final_layer_norm",)),
    "gpt2": Family(final_norms=("ln_f",), position_table=True),
    # OPT-350m has no final norm: the attribute is None there.
    "opt": Family(final_norms=("final_layer_norm",), position_table=True),
    "bert": _ENCODER,
    "distilbert": _ENCODER,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "modernbert": Family(final_norms=("final_norm",)),
    # T5 adds a position bias over the whole sequence, which would be quadratic in the packed tokens. Its encoder has
    # the configuration of the whole model, `use_cache` of the decoder included.
    "t5": Family(final_norms=("final_layer_norm",), packed=False, takes_use_cache=False),
}
"""The families whose layers the tests compare with Hugging Face's own."""

UNTESTED = Family(final_norms=("norm", "final_norm", "final_layer_norm", "ln_f"), packed=False)
"""The row of every other family. Its layers are compared with Hugging Face's whenever such a model is loaded."""


def family_row(model_type: str) -> Family:
    """The row of a `model_type`, `UNTESTED` where there is none."""
    return FAMILIES.get(model_type, UNTESTED)
