"""A run that a user can mend ends with the reason alone, and anything else as what it is."""

import errno

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.running.failure import failing_in_words
from storage.errors import UserError


@flow
@failing_in_words
def failing(number: int) -> None:
    raise OSError(number, "it is so", "/some/place")


def test_a_place_that_cannot_be_written_is_for_the_user_to_change(prefect_server: str) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        with pytest.raises(UserError, match=r"/some/place: it is so\. Choose another place"):
            failing(errno.ENOTDIR)
        with pytest.raises(OSError, match="it is so"):
            failing(errno.EIO)
