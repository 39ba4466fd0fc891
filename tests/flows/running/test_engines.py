"""The workers that an engine starts itself."""

from typing import Any

import dask.config
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows.running.engines import QUIET_DASK, Engine


@task
def settings_of_the_worker() -> dict[str, Any]:
    return {name: dask.config.get(name) for name in QUIET_DASK}


@flow
def ask_a_dask_worker() -> dict[str, Any]:
    with Engine("dask", None, workers=1) as engine:
        ((_, found),) = engine.results([engine.submit(settings_of_the_worker)])
    return found


def test_dask_workers_do_not_spend_their_core_on_watching_themselves(prefect_server: str) -> None:
    # The log of this process would still be on its way when the server has gone.
    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        assert ask_a_dask_worker() == QUIET_DASK
    # The process that the flow ran in has its own settings back.
    assert dask.config.get("distributed.worker.profile.enabled") is True
