"""The script that lies beside an exported model pools as the sweep did, without a line of this project."""

import pytest
import torch

from tasks.embedding.pooling import POOLINGS, pool
from tasks.exporting import predict
from tasks.vocabulary import Pooling


# What is weighted by attention is not exported: tests/flows/test_attention_pooling.py.
@pytest.mark.parametrize("pooling", [each for each in Pooling if POOLINGS[each].weights is None])
def test_every_pooling_has_its_line_in_the_script(pooling: Pooling) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        lengths = torch.randint(1, 9, (6,), generator=generator)
        lengths[0] = 1
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        states = torch.randn(*mask.shape, 5, generator=generator)
        states[~mask] = 1e9  # padding must not matter
        around = tuple(torch.randint(0, 3, (2,), generator=generator).tolist())
        found, expected = (
            predict.pool(states, mask, str(pooling), *around),
            pool(states, mask, pooling, around),
        )
        assert torch.allclose(found, expected, atol=1e-6), (
            f"Pooling {str(pooling)!r} is another one in predict.pool than in tasks.embedding.pooling: "
            "give it a branch of its own there, or exported folders predict from other embeddings than the head's."
        )
