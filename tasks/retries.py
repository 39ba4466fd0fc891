"""When a Prefect task is tried again: where waiting can help, and never where it cannot."""

from datetime import timedelta
from typing import Any

import httpx
from prefect import State

from storage.errors import UnreachableError, UserError, is_about_a_place

# A dropped connection, a remount, an object store that starts again.
DELAYS_S = [2, 10, 60]
# Hours beyond what the work takes, so that what hangs ends as failed on some night instead of never.
LONG_S = timedelta(hours=12).total_seconds()
SHORT_S = timedelta(hours=1).total_seconds()


def waiting_helps(error: object) -> bool:
    """Whether the same call may succeed later: the network or the storage failed, not the input or the code.

    What is not permitted, or lies where a folder belongs, stays so until somebody changes it.

    Memory is no such case: `embed_shard` halves its token budget itself.
    """
    if isinstance(error, UserError):
        return isinstance(error, UnreachableError)
    if is_about_a_place(error):
        return False
    return isinstance(error, OSError | httpx.TransportError)


def _may_pass(_task: object, _task_run: object, state: State[Any]) -> bool:
    return waiting_helps(state.result(raise_on_failure=False))


RETRIED: dict[str, Any] = {
    "retries": len(DELAYS_S),
    "retry_delay_seconds": DELAYS_S,
    "retry_condition_fn": _may_pass,
}
