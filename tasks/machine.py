"""What the processes of one machine share: its cores, its devices, and the locks that guard them."""

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from filelock import FileLock

from storage.cache import cache_folder

# What torch found when it was loaded: the machine's cores, or OMP_NUM_THREADS where that is set.
CORES = torch.get_num_threads()
# Whoever says how many threads a process gets (Dask, Ray, our process pool, a person) has divided the cores.
SHARES_CORES = "OMP_NUM_THREADS" in os.environ

# What `auto` comes to where there is a GPU: whichever is free.
ANY_GPU = "cuda"

_one_at_a_time = threading.Lock()


class _Slots:
    """The devices that this process was given; each of its numbered GPUs is for one thread at a time."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self.gpus = [each for each in devices if each.startswith(f"{ANY_GPU}:")]
        # What was given back last is taken first: a copy of the model is there.
        self.free: queue.LifoQueue[str] = queue.LifoQueue()
        for each in reversed(self.gpus):
            self.free.put(each)


_held = _Slots(())


def hold(devices: Sequence[str]) -> None:
    """These are this process's from now on: what is asked for on any GPU, it computes on one of them."""
    global _held
    _held = _Slots(devices)


def held() -> tuple[str, ...]:
    """The devices that this process was given; none where nobody gave it any."""
    return _held.devices


@contextmanager
def on_slot(asked: str) -> Iterator[str]:
    """The device to compute on; where any GPU will do, one of this process's that no other thread of it has now."""
    slots = _held
    if asked != ANY_GPU or not slots.gpus:
        yield asked
        return
    device = slots.free.get()
    try:
        yield device
    finally:
        slots.free.put(device)


@contextmanager
def device_lock(*devices: torch.device) -> Iterator[None]:
    """One forward pass at a time on each of these devices of this machine, whichever processes ask for it.

    A file lock, which the kernel frees when its holder dies: one for each GPU, by whatever name or index it was asked
    for, and one for all cores of the CPU. A worker with a share of the cores needs none beyond its own process.
    """
    if devices[0].type == "cpu" and SHARES_CORES:
        with _one_at_a_time:
            yield
        return
    with ExitStack() as held_locks:
        # In one order for all, so that no two wait for each other.
        for name in sorted({_lock_name(each) for each in devices}):
            held_locks.enter_context(machine_lock(name))
        yield


def _lock_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    index = torch.cuda.current_device() if device.index is None else device.index
    return f"gpu-{torch.cuda.get_device_properties(index).uuid}"


def machine_lock(name: str) -> FileLock:
    """A lock that all processes of this user on this machine share."""
    return FileLock(lock_file(name))


def lock_file(name: str) -> Path:
    """The lock file of this name, of this user on this machine; its folder is made."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name.replace(':', '-')}.lock"
