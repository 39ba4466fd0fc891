"""How a run that a user can mend ends in the Prefect UI: with the reason alone as its message."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect import get_run_logger
from prefect.states import Failed

from storage.errors import UserError, is_about_a_place, told_of_a_place

P = ParamSpec("P")
R = TypeVar("R")


def failing_in_words(flow_function: Callable[P, R]) -> Callable[P, R]:
    """Put under `@flow`: a `UserError` fails the run with its paragraph as the state's message, and is still raised.

    A place that cannot be written is told as one too: it is for the user to choose another.

    Without it the message begins with "Flow run encountered an exception", and the log holds Prefect's traceback.
    """

    @wraps(flow_function)
    def ending_in_words(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return flow_function(*args, **kwargs)
        except UserError as error:
            return _failed(error)
        except OSError as error:
            if not is_about_a_place(error):
                raise
            return _failed(UserError(told_of_a_place(error)))

    def _failed(error: UserError) -> R:
        get_run_logger().error("%s", error)
        # Prefect takes a returned state as the run's own, and raises the error in it to the caller.
        failed: Any = Failed(message=str(error), data=error)
        return cast(R, failed)

    return ending_in_words
