"""Every Prefect task of every room is tried again where waiting helps."""

import errno
import importlib
import pkgutil
from typing import Any

import httpx
import pytest
from prefect import Task
from prefect.states import Failed

import tasks
from storage.errors import UnreachableError, UserError
from tasks.retries import waiting_helps


def every_task() -> dict[str, Task[..., Any]]:
    """The tasks of all rooms by their names in Prefect, found where they are defined."""
    found = {}
    for module in pkgutil.walk_packages(tasks.__path__, "tasks."):
        for each in vars(importlib.import_module(module.name)).values():
            if isinstance(each, Task):
                found[each.name] = each
    return found


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (FileNotFoundError("the disk is not mounted"), True),
        (ConnectionResetError(), True),
        (httpx.ReadTimeout("slow"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (FileExistsError(errno.EEXIST, "a file where a folder belongs"), False),
        (NotADirectoryError(errno.ENOTDIR, "a file where a folder belongs"), False),
        (IsADirectoryError(errno.EISDIR, "a folder where a file belongs"), False),
        (OSError(errno.ENAMETOOLONG, "File name too long"), False),
        (UnreachableError("the hub answered 503"), True),
        (UserError("no column 'words'"), False),
        (ValueError("a bug"), False),
        (MemoryError(), False),
    ],
)
def test_every_task_is_tried_again_where_waiting_helps_and_nowhere_else(
    error: Exception, helps: bool
) -> None:
    assert waiting_helps(error) is helps
    state = Failed(message=str(error), data=error)
    found = every_task()
    assert {"prepare-dataset", "embed", "score-layer", "report", "compare-grid"} <= set(found)
    for name, each in found.items():
        assert each.retries == 3, name
        assert each.timeout_seconds is not None, name
        assert each.retry_condition_fn is not None, name
        assert each.retry_condition_fn(each, None, state) is helps, name
