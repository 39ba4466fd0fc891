"""Whether the Prefect server that is configured can record a run, asked before the work."""

import os
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from flows.running.settings_files import SETTINGS_FILES
from storage.errors import UserError

VARIABLE = "PREFECT_API_URL"
# A server that is busy answers within this, or it is not worth to begin.
ANSWER_SECONDS = 20


def check_configured(url: str) -> None:
    """Ask for a flow, as a run would, with the credentials that are configured.

    Raises:
        UserError: nothing answers there, or another program, or it asks for a string that it was not given.
    """
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}),
            get_client(httpx_settings={"timeout": ANSWER_SECONDS}, sync_client=True) as client,
        ):
            client.read_flows(limit=1)
    # A garbage address and an answer of another program are ValueErrors, a server of another time a RuntimeError.
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, RuntimeError) as error:
        raise UserError(_in_words(url, error)) from error


def _in_words(url: str, error: Exception) -> str:
    named = f"{url!r}, which {_named_by(url)} names"
    status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return (
            f"The Prefect server at {named}, does not know this client (it answers {status}). Set "
            "PREFECT_API_AUTH_STRING to the string that it was started with (PREFECT_API_KEY for Prefect Cloud)."
        )
    why = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(". ")
    return (
        f"No Prefect server takes this run at {named} ({why}). Start it, correct the address, or set "
        f"{VARIABLE}= to nothing: then the run is recorded on a server of its own."
    )


def _named_by(url: str) -> str:
    if any(name.upper() == VARIABLE and value == url for name, value in os.environ.items()):
        return VARIABLE
    for file in map(Path, SETTINGS_FILES):
        if file.is_file() and url in file.read_text(encoding="utf-8", errors="replace"):
            return str(file.absolute())
    return f"the Prefect profile of {get_current_settings().profiles_path}"
