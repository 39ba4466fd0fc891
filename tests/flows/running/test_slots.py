"""How many slots a machine has, over machines that are imagined: none here has a GPU."""

from itertools import product

import pytest
import torch

from flows.running import slots
from flows.running.slots import Machine, Slot, SlotPlan, slots_of
from tasks.machine import CORES

GIB = 2**30
RUNNERS = ("threads", "processes", "dask", "ray")


def machine(cores: int, memory: int = 4_000, gpus: int = 0, of: int = 80) -> Machine:
    """Memory in GiB."""
    return Machine(cores, memory * GIB, (of * GIB,) * gpus)


def devices(plan: SlotPlan) -> list[str]:
    return [slot.device for slot in plan.slots]


@pytest.mark.parametrize("gpus", [0, 1, 4, 8])
def test_every_machine_has_slots_that_share_its_cores_and_no_gpu_twice(gpus: int) -> None:
    device = "cuda" if gpus else "cpu"
    cases = product([2, 3, 16, 128], [1, 20, 4_000], RUNNERS, [1, 16, 100], [False, True])
    for cores, memory, runner, size, streamed in cases:
        of = machine(cores, memory, gpus)
        plan = slots_of(of, device, size * GIB, runner, streamed=streamed)
        found = devices(plan)
        assert len(found) >= 1
        assert len(set(plan.slots)) == (len(found) if gpus else 1)
        assert {slot.cores for slot in plan.slots} == {max(cores // len(found), 1)}
        assert bool(plan.words) == (len(found) > 1 or "were possible" in plan.words)
        if runner == "threads" and not gpus:
            assert plan == SlotPlan((Slot("cpu", cores),), "")
        elif not streamed and runner != "threads" and len(found) > 1 and (size < 64 or not gpus):
            # Its copies are in the memory, or pass through it.
            assert len(found) * size <= memory


@pytest.mark.parametrize("runner", RUNNERS)
def test_of_several_gpus_each_is_a_slot_whatever_the_engine(runner: slots.Runner) -> None:
    plan = slots_of(machine(16, gpus=4), "cuda", 3 * GIB, runner)
    assert plan.slots == tuple(Slot(f"cuda:{index}", 4) for index in range(4))
    assert plan.words == "4 slots on cuda:0, cuda:1, cuda:2, cuda:3, 4 cores each"
    assert slots_of(machine(16, gpus=1), "cuda", 3 * GIB, runner) == SlotPlan((Slot("cuda", 16),), "")


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("named", ["cuda:1", "mps"])
def test_a_device_that_is_named_is_the_only_slot(runner: slots.Runner, named: str) -> None:
    assert slots_of(machine(16, gpus=4), named, GIB, runner) == SlotPlan((Slot(named, 16),), "")


def test_processes_have_a_core_each_even_beside_gpus_that_were_not_asked_for() -> None:
    plan = slots_of(machine(2), "cpu", GIB, "processes")
    assert plan == SlotPlan((Slot("cpu", 1),) * 2, "2 slots on cpu, 1 core each")
    assert devices(slots_of(machine(8, gpus=4), "cpu", GIB, "ray")) == ["cpu"] * 8


def test_where_memory_does_not_hold_a_copy_for_each_there_are_fewer_and_the_words_say_why() -> None:
    # Of 30 GiB, 24 for copies of 7 and a process's half.
    plan = slots_of(machine(8, memory=30), "cpu", 7 * GIB, "processes")
    assert plan.slots == (Slot("cpu", 2),) * 3
    assert plan.words == (
        "3 slots on cpu, 2 cores each; 8 were possible, but 30.0 GiB of free memory hold no more copies of 7.0 GiB"
    )
    assert slots_of(machine(8, memory=5), "cpu", 7 * GIB, "dask").slots == (Slot("cpu", 8),)
    # Processes load their copies through the memory at the same time, threads one after the other.
    assert len(slots_of(machine(8, memory=30, gpus=4), "cuda", 7 * GIB, "processes").slots) == 3
    assert len(slots_of(machine(8, memory=30, gpus=4), "cuda", 7 * GIB, "threads").slots) == 4


def test_gpus_that_do_not_hold_the_model_are_left_out_while_others_do() -> None:
    mixed = Machine(12, 500 * GIB, (80 * GIB, 4 * GIB, 80 * GIB))
    plan = slots_of(mixed, "cuda", 15 * GIB, "threads")
    assert plan.slots == (Slot("cuda:0", 6), Slot("cuda:2", 6))
    assert plan.words.endswith("; 15.0 GiB of weights do not fit into cuda:1")
    alone = slots_of(Machine(12, 500 * GIB, (4 * GIB, 80 * GIB)), "cuda", 15 * GIB, "ray")
    assert alone.slots == (Slot("cuda:1", 12),)
    # None does: its blocks are read one by one, on each.
    assert devices(slots_of(mixed, "cuda", 140 * GIB, "processes")) == ["cuda:0", "cuda:1", "cuda:2"]


def test_layers_that_no_gpu_holds_are_spread_where_they_cannot_be_streamed() -> None:
    mixed = Machine(12, 500 * GIB, (80 * GIB, 4 * GIB, 80 * GIB))
    plan = slots_of(mixed, "cuda", 140 * GIB, "processes", streamable=False)
    assert plan.slots == (Slot("cuda", 12),)
    assert plan.words.endswith("its layers are spread over 3 GPUs, none of which holds 140.0 GiB")
    # One that holds them is enough, and one that is named is the only one.
    assert len(slots_of(mixed, "cuda", 15 * GIB, "processes", streamable=False).slots) == 2
    assert slots_of(mixed, "cuda:1", 15 * GIB, "threads", streamable=False).slots == (Slot("cuda:1", 12),)


def test_a_streamed_models_shards_may_take_the_memory_and_no_more() -> None:
    plan = slots_of(machine(16, memory=8), "cpu", 60 * GIB, "processes", streamed=True)
    assert plan.slots == (Slot("cpu", 4),) * 4
    assert plan.words.endswith("16 were possible, but each may take 25% of the memory")


def test_threads_are_no_more_than_cores() -> None:
    plan = slots_of(machine(2, gpus=8), "cuda", GIB, "threads")
    assert devices(plan) == ["cuda:0", "cuda:1"]
    assert plan.words.endswith("8 were possible, but 2 cores feed no more")


def test_this_machine_is_seen_with_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    of = {0: 80 * GIB, 1: 24 * GIB}
    seen = type("Properties", (), {})

    def properties(index: int) -> object:
        found = seen()
        found.total_memory = of[index]
        return found

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    found = slots.this_machine()
    assert (found.cores, found.gpus) == (CORES, (80 * GIB, 24 * GIB))
    assert found.memory > 0
