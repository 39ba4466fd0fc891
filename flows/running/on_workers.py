"""Flow runs that the workers of a work pool carry: handed over, waited for, and ended with who waits."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from storage.errors import UserError

POLL_SECONDS = 1.0
# As many flow runs as Prefect's API names in one answer.
PAGE = 200


def run_on_workers(deployment: str, runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, FlowRun]]:
    """One run of a deployment for each set of parameters; the place in `runs` and the run, as they end.

    Workers take them as they are free: nothing is computed here. Whoever stops waiting cancels what has not ended.

    Raises:
        UserError: this server has no such deployment.
    """
    waiting: dict[UUID, int] = {}
    with get_client(sync_client=True) as client:
        try:
            for place, parameters in enumerate(runs):
                waiting[_handed_over(deployment, parameters)] = place
            while waiting:
                for run in _ended(client, list(waiting)):
                    yield waiting.pop(run.id), run
                if waiting:
                    time.sleep(POLL_SECONDS)
        finally:
            for each in waiting:
                client.set_flow_run_state(each, Cancelling())


def _handed_over(deployment: str, parameters: Mapping[str, Any]) -> UUID:
    try:
        run: Any = run_deployment(deployment, parameters=dict(parameters), timeout=0)
    except ObjectNotFound as error:
        raise UserError(
            f"The Prefect server has no deployment {deployment} (--deployment). `make deploy` registers those of "
            "deployments/prefect.yaml; `prefect deployment ls` names them as FLOW/DEPLOYMENT."
        ) from error
    found: UUID = run.id
    return found


def _ended(client: SyncPrefectClient, ids: list[UUID]) -> list[FlowRun]:
    found: list[FlowRun] = []
    for start in range(0, len(ids), PAGE):
        asked = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + PAGE]))
        found += client.read_flow_runs(flow_run_filter=asked)
    return [run for run in found if run.state is not None and run.state.is_final()]
