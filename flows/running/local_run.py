"""Running a flow from a terminal: a server to record it, every record down at the end, and a cancel that cancels."""

import contextvars
import os
import shlex
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, Protocol, TypeVar
from uuid import UUID

import httpx
import psutil
from prefect import Flow, State
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker
from prefect.settings import get_current_settings, temporary_settings
from prefect.states import Cancelled

from flows.running.configured_server import check_configured
from flows.running.engines import PAGE, in_environment
from flows.running.progress import console, hold, working
from flows.running.proxies import past_proxies
from flows.running.server import local_server
from storage.errors import UserError
from storage.layout import Layout, ServerHome
from storage.places import check_folder

EXIT_SERVER_GONE = 1
EXIT_CANCELLED = 130
RECORD_SECONDS = 60
RECORD_POLL_SECONDS = 0.1
# A second apart; where tasks begin all the time, the end is not awaited.
CANCEL_PASSES = 20
POLL_SECONDS = 2.0
# A server that is started anew is back within half of this.
SILENT_SECONDS = 60
SERVER_MODULE = "flows.running.server"


class Outcome(Protocol):
    """What the flows return that are run here."""

    @property
    def task_run_ids(self) -> tuple[UUID, ...]:
        """Every task run of the flow's own."""


T = TypeVar("T", bound=Outcome)


@contextmanager
def recording_server(home: ServerHome) -> Iterator[str]:
    """A browser's way into the UI: of the configured server, else of a local one that lives as long as this block.

    Raises:
        UserError: what is configured is no Prefect server that takes this client, or the local one did not come up.
    """
    with ExitStack() as serving:
        serving.enter_context(past_proxies())
        if configured := get_current_settings().api.url:
            check_configured(configured)
            yield configured.removesuffix("/api")
            return
        with working("Starting the Prefect server"):
            server = serving.enter_context(local_server(home))
        serving.enter_context(temporary_settings({**server.variables, "PREFECT_HOME": home.folder}))
        # What Prefect does in a worker process outside a task sees the environment alone, and without an address
        # would start a server of its own, which outlives a killed sweep.
        for name, value in server.variables.items():
            serving.enter_context(in_environment(name, value))
        yield server.entrance


def run_on_server(flow: Flow[..., T], parameters: Any) -> T:
    """Run a flow that the server which is configured records, else the own one of the storage it writes to."""
    check_folder(parameters.storage, "--storage")  # before a server is started in it
    with recording_server(Layout(parameters.storage).server):
        return run_recorded(flow, parameters)


def run_recorded(flow: Flow[..., T], parameters: Any) -> T:
    """Run a flow in this process, so that Ctrl-C, SIGTERM and a cancel in the UI end it as cancelled.

    Returns when every task run is in the server's database: Prefect writes them down some time after the fact.
    """
    watch = _Watch()
    ran: tuple[UUID, ...] = ()
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # no other may ask for signals
        handlers = {each: signal.signal(each, watch.on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = flow.with_options(on_running=[watch.begin])(parameters)
        ran = result.task_run_ids
        return result
    except (httpx.TransportError, ConnectionError) as error:
        with get_client(sync_client=True) as client:
            if client.api_healthcheck() is None:
                raise
            address = client.api_url
        raise UserError(_gone(str(address), str(error))) from error
    finally:
        watch.ended.set()
        if watch.flow_run_id is not None:
            _wait_for_records(watch.flow_run_id, ran)
        for each, handler in handlers.items():
            signal.signal(each, handler)


class _Watch:
    """Knows the flow run from its first moment, and ends this process when the run is cancelled."""

    def __init__(self) -> None:
        self.flow_run_id: UUID | None = None
        self.ended = threading.Event()
        self.cancelling = threading.Lock()

    def __reduce__(self) -> tuple[type["_Watch"], tuple[()]]:
        """Worker processes are sent the flow with its hooks, and watch nothing."""
        return _Watch, ()

    def begin(self, flow: Any, flow_run: FlowRun, state: State) -> None:
        """Prefect's `on_running` hook."""
        self.flow_run_id = flow_run.id
        context = contextvars.copy_context()  # it holds the settings that name the server
        threading.Thread(target=context.run, args=(self._poll, flow_run.id), daemon=True).start()

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Ctrl-C and SIGTERM. The work is done by a thread: the main thread may hold any lock just now."""
        name = signal.Signals(number).name
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._cancel, f"by {name}"), daemon=True).start()

    def _poll(self, flow_run_id: UUID) -> None:
        heard = time.monotonic()
        with get_client(sync_client=True) as client:
            while not self.ended.wait(POLL_SECONDS):
                try:
                    run = client.read_flow_run(flow_run_id)
                except httpx.ConnectError:
                    # Prefect's own threads would wait for it for ever, and the flow for them.
                    if time.monotonic() - heard > SILENT_SECONDS:
                        self._give_up(str(client.api_url))
                    continue
                except (httpx.HTTPError, PrefectHTTPStatusError):
                    continue  # a server that is slow for a moment cancels nothing
                heard = time.monotonic()
                if run.state and run.state.type in (StateType.CANCELLING, StateType.CANCELLED):
                    self._cancel("in the UI")

    def _cancel(self, how: str) -> None:
        """Write the cancelled states down, end child processes, and leave: staged work is whole at any moment."""
        if not self.cancelling.acquire(blocking=False):
            return
        hold()
        console.show_cursor(True)
        console.print(
            f"\nCancelled {how}. Finished shards and scores are kept: the same command goes on from there."
        )
        try:
            if self.flow_run_id is not None:
                with get_client(sync_client=True) as client:
                    _cancel_task_runs(client, self.flow_run_id)
                    client.set_flow_run_state(
                        self.flow_run_id, Cancelled(message=f"Cancelled {how}."), force=True
                    )
        finally:
            _leave(EXIT_CANCELLED)

    def _give_up(self, address: str) -> None:
        """End this process where the server refuses every connection: staged work is whole at any moment."""
        console.show_cursor(True)
        console.print(f"\nlayerscout: {_gone(address, f'nothing answers for {SILENT_SECONDS} s')}")
        _leave(EXIT_SERVER_GONE)


def _leave(code: int) -> None:
    """End child processes, then this one at once, whatever its threads wait for."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that has ended meanwhile, or been killed, needs nothing
            # The server ends by itself when its last client is gone.
            if SERVER_MODULE not in child.cmdline():
                child.kill()
    os._exit(code)


def _gone(address: str, why: str) -> str:
    return (
        f"The Prefect server at {address} is gone: {why}. Finished shards and scores are kept: the same command "
        "goes on from there, with a server of its own unless PREFECT_API_URL names one."
    )


def _task_runs(client: SyncPrefectClient, flow_run_id: UUID) -> list[TaskRun]:
    of_flow = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    found: list[TaskRun] = []
    while page := client.read_task_runs(flow_run_filter=of_flow, limit=PAGE, offset=len(found)):
        found += page
        if len(page) < PAGE:
            break
    return found


def _cancel_task_runs(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """Those too that began just now: the server hears of a task run some time after it began."""
    known = -1
    for _ in range(CANCEL_PASSES):
        EventsWorker.drain_all()
        runs = _task_runs(client, flow_run_id)
        unfinished = [run for run in runs if run.state is None or not run.state.is_final()]
        for run in unfinished:
            client.set_task_run_state(run.id, Cancelled(), force=True)
        if not unfinished and len(runs) == known:
            return
        known = len(runs)
        time.sleep(1)


def _wait_for_records(flow_run_id: UUID, task_run_ids: Collection[UUID]) -> None:
    """Send what is still queued here, then wait until the server has the end of these task runs.

    Of a flow that failed nobody knows them: then until its records are final and no more come in.
    """
    with get_client(sync_client=True) as client:
        if client.api_healthcheck() is not None:
            console.print("[yellow]The Prefect server is gone, and this run's last records with it.")
            return
    EventsWorker.drain_all()
    APILogWorker.drain_all()
    deadline = time.monotonic() + RECORD_SECONDS
    known = -1
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = _task_runs(client, flow_run_id)
            ended = {run.id for run in runs if run.state is not None and run.state.is_final()}
            if ended.issuperset(task_run_ids) if task_run_ids else len(ended) == len(runs) == known:
                return
            known = len(runs)
            time.sleep(RECORD_POLL_SECONDS if task_run_ids else 1)
    console.print(f"[yellow]The server has not recorded every task run after {RECORD_SECONDS} s.")


def serve_ui(home: ServerHome) -> None:
    """Keep a server up and say where its UI is, until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    with recording_server(home) as entrance:
        api = get_current_settings().api
        needed = f"PREFECT_API_URL={api.url}"
        if api.auth_string is not None:
            needed += f" PREFECT_API_AUTH_STRING={shlex.quote(api.auth_string.get_secret_value())}"
        print(
            f"The Prefect UI is at {entrance} (Ctrl-C ends it). For workers and commands in other terminals:\n"
            f"export {needed}",
            flush=True,
        )
        stop.wait()
