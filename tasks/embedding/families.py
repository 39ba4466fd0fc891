"""What has to be known of a model family before its layers can be taken: one row each, by Hugging Face's `model_type`.

Where blocks lie, and whether a model is an encoder or a decoder, is read off the model and its configuration instead.
"""

from dataclasses import dataclass, replace

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
    causal: bool = True
    """A token sees those before it alone."""
    takes_use_cache: bool = True
    """`use_cache` may be given to the model, where its configuration has it."""
    tested: bool = True
    """The tests compare its layers with Hugging Face's; else they are compared whenever such a model is loaded."""

    def first_position(self, config: PretrainedConfig) -> int:
        """Of a text's first token."""
        return config.pad_token_id + 1 if self.counts_from_padding else 0

    def positions(self, config: PretrainedConfig) -> int | None:
        """The longest text in tokens; None where positions have no hard end."""
        return config.max_position_embeddings - self.first_position(config) if self.position_table else None


_ENCODER = Family(final_norms=(), position_table=True, causal=False)
_ROBERTA = Family(final_norms=(), position_table=True, counts_from_padding=True, causal=False)

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
    "modernbert": Family(final_norms=("final_norm",), causal=False),
    # T5 adds a position bias over the whole sequence, which would be quadratic in the packed tokens. Its encoder has
    # the configuration of the whole model, `use_cache` of the decoder included.
    "t5": Family(final_norms=("final_layer_norm",), packed=False, causal=False, takes_use_cache=False),
}
"""The families whose layers the tests compare with Hugging Face's own."""

UNTESTED = Family(final_norms=(), packed=False, tested=False)
"""The row of every other family. What it has is seen when such a model is loaded and compared."""


def family_row(config: PretrainedConfig) -> Family:
    """The row of a model's family, `UNTESTED` where there is none.

    Where a model's positions change with the longest text of a batch (longrope, dynamic NTK), its texts cannot lie
    beside each other, whatever its family.
    """
    row = FAMILIES.get(config.model_type, UNTESTED)
    return replace(row, packed=False, tested=False) if frequencies_change(config) else row


def frequencies_change(config: PretrainedConfig) -> bool:
    """Whether the frequencies of rotary positions depend on the length of the text, or of an earlier one."""
    rope = getattr(config, "rope_parameters", None) or {}
    each = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(one.get("rope_type") in ("dynamic", "longrope") for one in each)


def chooses_experts(config: PretrainedConfig) -> bool:
    """Whether a router sends each token to some experts of many, as the numbers of them in its configuration say."""
    return any(
        isinstance(count := getattr(config, name, None), int) and count > 1 for name in _NUMBERS_OF_EXPERTS
    )


_NUMBERS_OF_EXPERTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)
