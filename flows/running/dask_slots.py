"""How Dask's workers come to their slots; imported where Dask is used."""

from collections.abc import Sequence

from distributed import Client, Worker, WorkerPlugin

from tasks.machine import hold

GPU = "GPU"
"""What `dask worker --resources "GPU=1"` calls a worker's own GPU, and dask-cuda too."""


class HoldsSlot(WorkerPlugin):
    """Gives each worker of a local cluster a device, and the same to the one that is started in its place."""

    def __init__(self, devices: Sequence[str]) -> None:
        self._devices = devices

    def setup(self, worker: Worker) -> None:
        """Workers of a local cluster are named 0, 1, …"""
        hold([self._devices[int(worker.name)]])


def has_gpus(client: Client) -> bool:
    """Whether workers of the cluster have said that a GPU is theirs."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return any(worker.get("resources", {}).get(GPU) for worker in workers)
