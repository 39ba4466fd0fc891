"""Tags of task runs that Prefect lets run only so many at a time, where its server has a limit for them.

They come on top of the OS file locks, which guard one machine alone: runs wait in Prefect, where they can be seen. A
killed run's place is free again a minute later, when its lease is over.
"""

from typing import Any

from prefect import Task

GPU = "layerscout-gpu"
DATABASE = "layerscout-database"


def on_device(task: Task[..., Any], device: str) -> Task[..., Any]:
    """The task, with the tag of what it occupies."""
    return task if device == "cpu" else task.with_options(tags=[GPU])
