"""The way that a GPU goes, without one: on torch's meta device a value that is read back on the way raises.

CUDA itself cannot be imitated here: a CPU build of torch takes no index of a fake CUDA tensor.
"""

import numpy as np
import pytest

from tasks.embedding.backbone import find_backbone
from tasks.embedding.forward import capturing, forward_layers
from tasks.embedding.pooled_batch import PooledBatch
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, small_model
from tests.tasks.embedding.test_embed import PLAIN

LENGTHS = [9, 9, 7, 3, 3, 1]


def batch_of(backbone) -> PooledBatch:
    lengths = LENGTHS if backbone.packed else [9, 9]
    ids = [np.arange(2, 2 + length, dtype=np.int32) for length in lengths]
    norm_states = [NormState.AS_RETURNED]
    norm_states += [NormState.FINAL_NORM] if backbone.final_norm is not None else []
    poolings = list(Pooling) if backbone.packed else PLAIN
    keys = [(norm_state, pooling) for norm_state in norm_states for pooling in poolings]
    return PooledBatch(backbone, ids, keys, backbone.layers + 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_stays_on_its_device_and_never_waits_for_a_value(name):
    backbone = find_backbone(small_model(name).to("meta"))
    assert backbone.device.type == "meta"
    batch = batch_of(backbone)
    taken = []

    def take(layer, states):
        assert states.device.type == "meta"
        taken.append(layer)
        batch.take(layer, states)

    with capturing(backbone):
        forward_layers(backbone, batch.tokens, batch.groups, take, backbone.layers, look=batch.look)
    assert taken == list(range(backbone.layers + 1))


def test_a_value_that_is_read_back_would_be_seen():
    backbone = find_backbone(small_model("llama").to("meta"))
    batch = batch_of(backbone)
    with capturing(backbone), pytest.raises(RuntimeError, match="meta"):
        forward_layers(backbone, batch.tokens, batch.groups, lambda _, states: float(states.sum()), 1)
