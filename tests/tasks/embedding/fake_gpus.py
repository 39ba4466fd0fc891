"""`python -m tests.tasks.embedding.fake_gpus`: a pass of every family over two GPUs that are not there.

Of a GPU torch knows here what it is called and which tensor lies on it: fake tensors on a backend without kernels. What
joins tensors of two devices, or reads a number back, raises. A process of its own, since a backend has a name for good.
Nothing is told of what is for CUDA alone: pinned memory, streams, kernels.
"""

import json
from itertools import product

import numpy as np
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tasks.embedding import packed_attention, pooled_batch
from tasks.embedding.backbone import find_backbone, find_blocks
from tasks.embedding.families import family_row
from tasks.embedding.forward import Backbone, capturing, forward_layers
from tasks.embedding.packed_attention import LengthGroup
from tasks.embedding.pooled_batch import PooledBatch
from tasks.embedding.shared_prefix import SharedPrefix
from tasks.vocabulary import NormState, Pooling
from tests.tasks.embedding.test_backbone import MODELS, small_model
from tests.tasks.embedding.test_embed import PLAIN

LENGTHS = (9, 9, 7, 3, 3, 1)


def spread(name: str, mode: FakeTensorMode) -> Backbone:
    """The backbone of a small model, the upper of its blocks on another GPU than the rest, as accelerate spreads them:
    what a module there is called with is sent to it."""
    with unset_fake_temporarily():
        model = small_model(name)
    body, owner, blocks = find_blocks(model)
    first, second = torch.device("gpu:0"), torch.device("gpu:1")
    _place(model, first, mode)
    add_hook_to_module(body, AlignDevicesHook(first, io_same_device=True, place_submodules=False))
    norms = [getattr(owner, norm, None) for norm in family_row(body.config).final_norms]
    for module in [*blocks[len(blocks) // 2 :], *filter(None, norms)]:
        _place(module, second, mode)
        add_hook_to_module(module, AlignDevicesHook(second, place_submodules=False))
    return find_backbone(model)


def _place(module: nn.Module, device: torch.device, mode: FakeTensorMode) -> None:
    """`Module.to`, which fails on fake tensors now and then."""
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            for name, tensor in [*kept.items()]:
                if tensor is not None:
                    fake = tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor.detach())
                    moved = fake.detach().to(device)
                    kept[name] = moved if kept is part._buffers else nn.Parameter(moved, requires_grad=False)


def run(name: str, in_one_call: bool, mode: FakeTensorMode) -> dict[str, object]:
    """Which layer's states were handed out where; nothing of a family whose texts no call takes all of."""
    backbone = spread(name, mode)
    if in_one_call and not backbone.packed:
        return {}
    served = [each for each in Pooling if (backbone.packed and not in_one_call) or each in PLAIN]
    norm_states = [
        NormState.AS_RETURNED,
        *([NormState.FINAL_NORM] if backbone.final_norm is not None else []),
    ]
    keys = [(norm_state, pooling) for norm_state in norm_states for pooling in served]
    lengths = LENGTHS if backbone.packed else (9, 9)
    prefix = None
    if backbone.shares_prefix:
        prefix = SharedPrefix(np.arange(3, dtype=np.int32))
    ids = [np.arange(2, 2 + length, dtype=np.int32) for length in lengths]
    batch = PooledBatch(backbone, ids, keys, backbone.layers + 1, prefix=prefix)
    seen: list[str] = []

    def take(layer: int, states: torch.Tensor) -> None:
        seen.append(str(states.device))
        batch.take(layer, states)

    with capturing(backbone):
        if prefix is not None:
            groups = [LengthGroup(0, 1, prefix.length)]
            forward_layers(
                backbone, prefix.tokens(backbone.device), groups, prefix.keep_states, records=prefix
            )
        forward_layers(backbone, batch.tokens, batch.groups, take, prefix=prefix, look=batch.look)
    return {"layers": seen, "devices": [str(each) for each in backbone.devices]}


def canaries() -> dict[str, bool]:
    """Whether what must not be is seen: that it raised, by what it is."""
    first, second = (torch.zeros(3).to(f"gpu:{index}") for index in range(2))
    wrong = {
        "another device": lambda: first + second,
        "the host": lambda: first + torch.zeros(3),
        "a value read back": lambda: float(first.sum()),
    }
    seen = dict.fromkeys(wrong, False)
    for what, do in wrong.items():
        try:
            do()
        except (FakeTensorDeviceMismatchError, DataDependentOutputException):
            seen[what] = True
    return seen


def main() -> None:
    """Print what came of each as JSON: by `NAME IN_ONE_CALL` what `run` says, or what it raised."""
    _setup_privateuseone_for_python_backend("gpu")
    pooled_batch.REDUCING = (*pooled_batch.REDUCING, "gpu")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found: dict[str, object] = {"canaries": canaries()}
        for name, in_one_call in product(MODELS, (False, True)):
            packed_attention._serves_all_lengths = lambda *of, asked=in_one_call: (
                asked and of[-1].softcap is None
            )
            try:
                found[f"{name} {in_one_call}"] = run(name, in_one_call, mode)
            except Exception as error:  # told, and another family's turn
                found[f"{name} {in_one_call}"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
