"""What a family's row says of its positions, against what its model does."""

import pytest
import torch
import transformers as hf

from tasks.embedding.backbone import find_backbone
from tasks.embedding.families import FAMILIES, UNTESTED, chooses_experts, family_row
from tests.tasks.embedding.test_backbone import MODELS, our_layers, small_model, some_ids


@pytest.mark.parametrize("name", MODELS)
def test_a_text_may_be_as_long_as_the_row_says_and_no_longer(name: str) -> None:
    backbone = find_backbone(small_model(name))
    longest = backbone.positions
    # The small models have 64 positions (DistilBERT 512), those of RoBERTa two less.
    (layers,) = our_layers(backbone, some_ids([longest or 600]))
    assert torch.isfinite(layers).all()
    if longest is not None:
        with pytest.raises((IndexError, RuntimeError)):
            our_layers(backbone, some_ids([longest + 1]))


def test_a_family_without_a_row_is_an_untested_one() -> None:
    assert family_row(hf.GemmaConfig()) is UNTESTED
    assert not UNTESTED.packed
    assert not UNTESTED.tested
    assert all(row.tested for row in FAMILIES.values())
    assert family_row(hf.LlamaConfig()) is FAMILIES["llama"]


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("by_layer_type", [False, True])
def test_positions_that_change_with_the_longest_text_let_no_texts_lie_together(
    kind: str, by_layer_type: bool
) -> None:
    config, rope = hf.LlamaConfig(), {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
    config.rope_parameters = {"full_attention": rope} if by_layer_type else rope
    row = family_row(config)
    assert not row.packed
    assert not row.tested
    assert row.final_norms == FAMILIES["llama"].final_norms


@pytest.mark.parametrize(
    ("config", "chooses"),
    [
        (hf.Qwen3MoeConfig, True),
        (hf.MixtralConfig, True),
        (hf.DeepseekV3Config, True),
        (hf.GptOssConfig, True),
        (hf.LlamaConfig, False),
        (hf.GPT2Config, False),
    ],
)
def test_a_router_is_known_by_its_number_of_experts(config: type, chooses: bool) -> None:
    assert chooses_experts(config()) is chooses
