"""Tags of task runs that Prefect lets run only so many at a time, where its server has a limit for them.

They come on top of the OS file locks, which guard one machine alone: runs wait in Prefect, where they can be seen. A
killed run's place is free again a minute later, when its lease is over.
"""

from typing import Any

from prefect import Task
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

GPU = "layerscout-gpu"
DATABASE = "layerscout-database"


def limited(task: Task[..., Any], place: str) -> Task[..., Any]:
    """The task with the tag of what it occupies, if the server has a limit for it.

    Every task run with a tag asks for its place, limit or none, in a transaction that writes: behind the records of
    other task runs the answer takes its time (docs/performance.md, Choosing). This question writes nothing.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(f"tag:{place}")
        except ObjectNotFound:
            return task
    return task.with_options(tags=[place])


def on_device(task: Task[..., Any], device: str) -> Task[..., Any]:
    """The task, limited where it occupies a GPU."""
    return task if device == "cpu" else limited(task, GPU)
