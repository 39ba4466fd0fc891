"""What the processes of one machine share: its cores, its devices, and the locks that guard them."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock

from storage.cache import cache_folder

# What torch found when it was loaded: the machine's cores, or OMP_NUM_THREADS where that is set.
CORES = torch.get_num_threads()
# Whoever says how many threads a process gets (Dask, Ray, our process pool, a person) has divided the cores.
SHARES_CORES = "OMP_NUM_THREADS" in os.environ

_one_at_a_time = threading.Lock()


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """One forward pass at a time on one device of this machine, whichever processes ask for it.

    A file lock, which the kernel frees when its holder dies: one for each GPU, by whatever name or index it was asked
    for, and one for all cores of the CPU. A worker with a share of the cores needs none beyond its own process.
    """
    kind = torch.device(device)
    if kind.type == "cpu" and SHARES_CORES:
        with _one_at_a_time:
            yield
        return
    name = kind.type
    if kind.type == "cuda":
        index = torch.cuda.current_device() if kind.index is None else kind.index
        name = f"gpu-{torch.cuda.get_device_properties(index).uuid}"
    with machine_lock(name):
        yield


def machine_lock(name: str) -> FileLock:
    """A lock that all processes of this user on this machine share."""
    return FileLock(lock_file(name))


def lock_file(name: str) -> Path:
    """The lock file of this name, of this user on this machine; its folder is made."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name.replace(':', '-')}.lock"


def use_all_cores() -> None:
    """OpenMP counts threads by calling thread, so each says how many its own products may use."""
    torch.set_num_threads(CORES)
