"""What a family's row says of its positions, against what its model does."""

import pytest
import torch

from tasks.embedding.backbone import find_backbone
from tasks.embedding.families import FAMILIES, UNTESTED, family_row
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
    assert family_row("gemma") is UNTESTED
    assert not UNTESTED.packed
    assert all(family_row(name) is row for name, row in FAMILIES.items())
    # Whatever norm a tested family has, an untested one may have too.
    assert {norm for row in FAMILIES.values() for norm in row.final_norms} == set(UNTESTED.final_norms)
