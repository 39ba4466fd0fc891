"""What runs a shard or scores a layer is a slot: a device and a share of the cores. How many there are, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from tasks.embedding.model import ModelFolder
from tasks.embedding.set_plan import STREAMED_SHARE
from tasks.embedding.settings import Settings
from tasks.embedding.stored_blocks import (
    WEIGHTS_SHARE,
    can_stream,
    gpus_memory,
    held_by_none,
    weights_bytes,
)
from tasks.machine import ANY_GPU, CORES

Runner = Literal["threads", "processes", "dask", "ray"]

PROCESS_BYTES = 2**29
"""What a worker process takes beside its model's weights: 391 MiB before it has any (`uss` of psutil's
`memory_full_info()` after `import flows.layer_sweep`), and a batch."""


@dataclass(frozen=True)
class Machine:
    """What slots are cut from. Memory in bytes: `memory` is what is free, `gpus` what each GPU has."""

    cores: int
    memory: int
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Slot:
    """A torch device, such as `cpu` or `cuda:3`, and how many of the cores go with it."""

    device: str
    cores: int


@dataclass(frozen=True)
class SlotPlan:
    """The slots of a sweep, and what is to be said of them; nothing, of a single one that is all there could be."""

    slots: tuple[Slot, ...]
    words: str


def this_machine() -> Machine:
    """Its cores, the memory that is free now, and what its GPUs have."""
    return Machine(CORES, psutil.virtual_memory().available, gpus_memory())


def plan_slots(
    model: ModelFolder, settings: Settings, runner: Runner, model_bytes: int | None = None
) -> SlotPlan:
    """The slots that this machine has for a sweep.

    settings: resolved. model_bytes: where the weights may not be on this machine.
    """
    trust = settings.trust_remote_code
    if model_bytes is None:
        model_bytes = 0
        if not model.is_saved_states:
            model_bytes = weights_bytes(model.folder, settings.dtype)
    return slots_of(
        this_machine(),
        settings.device,
        model_bytes,
        runner,
        streamed=bool(settings.stream_blocks),
        streamable=model.is_saved_states or can_stream(model.folder, trust_remote_code=trust),
    )


def slots_of(
    machine: Machine,
    device: str,
    model_bytes: int,
    runner: Runner,
    *,
    streamed: bool = False,
    streamable: bool = True,
) -> SlotPlan:
    """One slot a GPU, whatever the engine; on a CPU one for all threads, or one a process, a core each. One for all
    GPUs, where none of them holds the model and its layers have to be spread.

    Fewer where memory does not hold as many copies of the model. All have as many cores, so that a shard's numbers do
    not depend on which of them computes it.

    Args:
        device: as resolved: `cuda` is any GPU; one that is named (`cuda:1`, `cpu`) is the only one.
        model_bytes: of one copy's weights.
        streamed: its blocks stay in their files, so that there is no copy.
        streamable: they could.
    """
    places, why = [device], []
    if device == ANY_GPU and len(machine.gpus) > 1:
        too_small = held_by_none(model_bytes, machine.gpus)
        if too_small and not streamable:
            spread = f"its layers are spread over {len(machine.gpus)} GPUs, none of which holds {_gib(model_bytes)}"
            whole = Slot(ANY_GPU, machine.cores)
            return SlotPlan((whole,), _words([whole], [spread]))
        streamed = streamed or too_small
        large = [model_bytes <= WEIGHTS_SHARE * memory for memory in machine.gpus]
        places = [f"{ANY_GPU}:{index}" for index, holds in enumerate(large) if holds or streamed]
        if left_out := [f"{ANY_GPU}:{index}" for index, holds in enumerate(large) if not (holds or streamed)]:
            why.append(f"{_gib(model_bytes)} of weights do not fit into {', '.join(left_out)}")
    elif device == "cpu" and runner != "threads":
        places = ["cpu"] * machine.cores
    # A shard of a streamed model takes a share of the memory. Threads load a GPU's copy one after the other, processes
    # at the same time, and each through the machine's memory.
    most, told = len(places), ""
    if streamed:
        most, told = int(1 / STREAMED_SHARE), f"each may take {STREAMED_SHARE:.0%} of the memory"
    elif runner == "threads":
        most, told = machine.cores, f"{machine.cores} cores feed no more"
    else:
        most = int(WEIGHTS_SHARE * machine.memory // (model_bytes + PROCESS_BYTES))
        told = f"{_gib(machine.memory)} of free memory hold no more copies of {_gib(model_bytes)}"
    if len(places) > max(most, 1):
        why.append(f"{len(places)} were possible, but {told}")
        places = places[: max(most, 1)]
    slots = tuple(Slot(place, max(machine.cores // len(places), 1)) for place in places)
    return SlotPlan(slots, _words(slots, why))


def _words(slots: Sequence[Slot], why: Sequence[str]) -> str:
    if len(slots) == 1 and not why:
        return ""
    cores = slots[0].cores
    devices = ", ".join(dict.fromkeys(slot.device for slot in slots))
    return "; ".join(
        [
            f"{len(slots)} slot{'s' * (len(slots) > 1)} on {devices}, {cores} core{'s' * (cores > 1)} each",
            *why,
        ]
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
