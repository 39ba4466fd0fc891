"""The way that a GPU goes, without one: on torch's meta device a value that is read back on the way raises.

CUDA itself cannot be imitated here: a CPU build of torch takes no index of a fake CUDA tensor.
"""

from collections.abc import Sequence

import numpy as np
import pytest

from tasks.embedding import packed_attention
from tasks.embedding.backbone import find_backbone
from tasks.embedding.forward import capturing, forward_layers
from tasks.embedding.pooled_batch import PooledBatch
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, small_model
from tests.tasks.embedding.test_embed import PLAIN

LENGTHS = [9, 9, 7, 3, 3, 1]


def batch_of(backbone, poolings: Sequence[Pooling]) -> PooledBatch:
    lengths = LENGTHS if backbone.packed else [9, 9]
    ids = [np.arange(2, 2 + length, dtype=np.int32) for length in lengths]
    norm_states = [NormState.AS_RETURNED]
    norm_states += [NormState.FINAL_NORM] if backbone.final_norm is not None else []
    served = [each for each in poolings if backbone.packed or each in PLAIN]
    keys = [(norm_state, pooling) for norm_state in norm_states for pooling in served]
    return PooledBatch(backbone, ids, keys, backbone.layers + 1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("in_one_call", [False, True])
def test_a_pass_stays_on_its_device_and_never_waits_for_a_value(name, in_one_call, monkeypatch):
    if in_one_call:  # torch's own operator, which knows of this device what comes out of it
        monkeypatch.setattr(packed_attention, "_serves_all_lengths", lambda *of: of[-1].softcap is None)
    backbone = find_backbone(small_model(name).to("meta"))
    assert backbone.device.type == "meta"
    batch = batch_of(backbone, PLAIN if in_one_call else list(Pooling))
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
    batch = batch_of(backbone, PLAIN)
    with capturing(backbone), pytest.raises(RuntimeError, match="meta"):
        forward_layers(backbone, batch.tokens, batch.groups, lambda _, states: float(states.sum()), 1)
