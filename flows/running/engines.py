"""Where a sweep's forward passes and scores run: threads, processes, Dask or Ray.

Every task takes paths and scalars and leaves its result in storage, so that every engine gives the same tables.
"""

import contextvars
import importlib
import inspect
import multiprocessing
import multiprocessing.queues
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from prefect import State, Task, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Completed, Crashed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from flows.running.slots import Runner, Slot
from storage.errors import UserError
from tasks.machine import CORES, hold

_LIBRARIES = {"dask": "prefect_dask.task_runners", "ray": "prefect_ray.task_runners"}

QUIET_DASK = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
}
"""Looking at its own stack and load as often as it comes takes from the core that a Dask worker computes on: see the
bars of two Dask workers in docs/performance.md, Service (`python -m benchmarks.service dask`)."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
PAGE = 200
"""As many task runs as Prefect's API names in one answer."""

T = TypeVar("T")


class Engine:
    """Submits tasks to a task runner of its own, and starts that anew once when a worker's death has broken it.

    On this machine it has a worker for each slot, which is that worker's alone; a cluster's workers are its own affair.
    """

    def __init__(self, runner: Runner, address: str | None = None) -> None:
        """Raises UserError where the runner is not installed."""
        self._kind = runner
        self._address = address
        self._slots: Sequence[Slot] = ()
        self._at_model: Callable[[], AbstractContextManager[Any]] = nullcontext
        if runner in _LIBRARIES:
            try:
                importlib.import_module(_LIBRARIES[runner])
            except ImportError as error:
                raise _not_installed(runner) from error
        self._calls: dict[UUID, tuple[Task[..., Any], tuple[Any, ...]]] = {}
        self._restarts = 1
        self._broken: set[UUID] = set()
        self._lost: set[UUID] = set()
        self._open = ExitStack()
        self._held = ExitStack()
        self._runner: TaskRunner[Any] | None = None

    def __enter__(self) -> "Engine":
        return self

    def start(self, slots: Sequence[Slot]) -> None:
        """Start a worker for each slot, or connect to the cluster, where they are nobody's."""
        self._slots = slots
        self._start()

    def __exit__(self, *raised: object) -> None:
        self._open.close()
        self._held.close()
        # Only now: the server hears of a task run some time after it began.
        _record_ends(self._broken, self._lost)

    def open(self, resource: AbstractContextManager[T]) -> T:
        """Enter a context that lasts as long as the engine."""
        return self._held.enter_context(resource)

    def submit(self, task: Task[..., Any], *arguments: Any) -> PrefectFuture[Any]:
        """Hand one call to a worker, which may use a model."""
        with self._at_model():
            return self._submit(task, arguments)

    def submit_to_core(self, task: Task[..., Any], *arguments: Any) -> PrefectFuture[Any]:
        """Hand one call that needs no model to a core: to a worker if there is one for each, else to a thread here."""
        if self._address is None and len(self._slots) != CORES:
            return task.submit(*arguments)
        return self._submit(task, arguments)

    def _submit(self, task: Task[..., Any], arguments: tuple[Any, ...]) -> PrefectFuture[Any]:
        if self._runner is None:
            return task.submit(*arguments)
        named = dict(inspect.signature(task.fn).bind(*arguments).arguments)
        future = self._runner.submit(task, named)
        self._calls[future.task_run_id] = (task, arguments)
        return future

    def results(self, futures: list[PrefectFuture[Any]]) -> Iterator[tuple[int, Any]]:
        """The place in `futures` and the result of each call, as they come; the first failure is raised.

        Raises:
            UserError: workers died, and again after a restart.
        """
        waiting = dict(zip(futures, range(len(futures)), strict=True))
        while waiting:
            lost = []
            for future in as_completed(list(waiting)):
                try:
                    result = future.result()
                except self._worker_died as error:
                    lost.append((future, error))
                else:
                    yield waiting.pop(future), result
            if lost:
                # Calls of a pool that has been replaced since may be asked for only now.
                if any(future.task_run_id not in self._broken for future, _ in lost):
                    self._restart(len(lost), lost[0][1])
                waiting = {self._repeat(future): place for future, place in waiting.items()}

    def recorded(self, task_run_ids: Iterable[UUID]) -> tuple[UUID, ...]:
        """Of these task runs those whose end the server will hear of, and those that repeated the others.

        What the workers of a broken pool had still to tell may be gone with them.
        """
        told = [each for each in task_run_ids if each not in self._broken]
        return (*told, *(each for each in self._calls if each not in self._broken and each not in told))

    def _repeat(self, lost: PrefectFuture[Any]) -> PrefectFuture[Any]:
        self._lost.add(lost.task_run_id)
        task, arguments = self._calls[lost.task_run_id]
        return self.submit(task, *arguments)

    def _start(self) -> None:
        self._worker_died: tuple[type[BaseException], ...] = (BrokenExecutor,)
        if self._kind == "threads":
            hold([slot.device for slot in self._slots])
            return
        if self._slots and (self._slots[0].cores > 1 or self._kind == "processes"):
            # torch reads how many threads are its own when it is imported.
            self._open.enter_context(in_environment("OMP_NUM_THREADS", str(self._slots[0].cores)))
        if self._kind == "processes":
            devices = multiprocessing.get_context("spawn").SimpleQueue()
            for slot in self._slots:
                devices.put(slot.device)
            runner: Any = _ProcessPool(len(self._slots), initializer=_begin_on_a_slot, initargs=(devices,))
            self._runner = self._open.enter_context(runner)
        elif self._kind == "dask":
            self._start_dask()
        else:
            self._start_ray()

    def _restart(self, lost: int, error: BaseException) -> None:
        if self._restarts == 0:
            raise UserError(
                f"A worker of --runner {self._kind} died again ({type(error).__name__}): killed, or out of memory. "
                "Finished shards and scores are kept: the same command goes on from there, with --runner threads in "
                "one process."
            ) from error
        self._restarts -= 1
        get_run_logger().warning(
            "A worker died (%s): starting the workers anew, with %s calls to repeat",
            type(error).__name__,
            lost,
        )
        self._broken |= self._calls.keys()
        self._open.close()
        self._start()

    def _start_dask(self) -> None:
        import dask.config
        from dask.base import annotate
        from distributed import KilledWorker
        from prefect_dask.task_runners import DaskTaskRunner

        from flows.running.dask_slots import GPU, HoldsSlot, has_gpus

        self._worker_died += (KilledWorker,)
        if self._address is not None:
            runner = self._open.enter_context(DaskTaskRunner(address=self._address))
            if has_gpus(runner.client):
                self._at_model = partial(annotate, resources={GPU: 1})
        else:
            self._open.enter_context(dask.config.set(QUIET_DASK))
            local = {"n_workers": len(self._slots), "threads_per_worker": 1, "host": "127.0.0.1"}
            if self._slots[0].cores > 1:
                local["env"] = {"OMP_NUM_THREADS": str(self._slots[0].cores)}
            runner = self._open.enter_context(
                DaskTaskRunner(cluster_kwargs=local | {"dashboard_address": "127.0.0.1:0"})
            )
            runner.client.register_plugin(HoldsSlot([slot.device for slot in self._slots]))
        self._runner = runner

    def _start_ray(self) -> None:
        import ray
        from prefect_ray.context import remote_options
        from prefect_ray.task_runners import RayTaskRunner
        from ray.exceptions import WorkerCrashedError

        self._worker_died += (WorkerCrashedError,)
        if self._address is not None:
            self._runner = self._open.enter_context(RayTaskRunner(address=self._address))
            gpus = ray.cluster_resources().get("GPU", 0)
        else:
            # Nothing phones home.
            self._open.enter_context(in_environment("RAY_USAGE_STATS_ENABLED", "0"))
            asked = {"num_cpus": len(self._slots), "include_dashboard": False}
            # A single one is named to every call; of several, each call is dealt one by Ray, which hides the others.
            gpus = len(self._slots) if len(self._slots) > 1 and self._slots[0].device != "cpu" else 0
            if gpus:
                self._open.enter_context(in_environment(VISIBLE, _visible(self._slots)))
                asked |= {"num_gpus": gpus}
            self._runner = self._open.enter_context(RayTaskRunner(init_kwargs=asked))
        if gpus:
            # Without the second, a worker ends after each call, and the next has to load the model anew.
            self._at_model = partial(remote_options, num_gpus=1, max_calls=0)


class _ProcessPool(ProcessPoolTaskRunner):
    """Prefect's own, mended twice.

    The thread which passes on the workers' events knows this run's server: a new thread begins with the settings of
    the process, where a sweep's own server is unknown, and the events went to a temporary server that this thread
    started, and that outlived a killed sweep.

    And nobody waits for the queue of those events to be empty: a worker that is killed while it writes to it keeps
    its lock for good, and a flow that was done would never end.
    """

    def __enter__(self) -> "_ProcessPool":
        self._settings = contextvars.copy_context()
        super().__enter__()
        if self._subprocess_message_queue is not None:
            self._subprocess_message_queue.cancel_join_thread()
        return self

    def _forward_subprocess_messages(self) -> None:
        self._settings.run(super()._forward_subprocess_messages)


def _not_installed(runner: str) -> UserError:
    return UserError(
        f"--runner {runner} needs what is not installed here: pip install 'layerscout[{runner}]'."
    )


@contextmanager
def in_environment(name: str, value: str | None) -> Iterator[None]:
    """Set a variable for the processes that are started in this block; with None, take it out."""
    before = os.environ.get(name)
    _set_variable(name, value)
    try:
        yield
    finally:
        _set_variable(name, before)


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _visible(slots: Sequence[Slot]) -> str:
    """The slots' GPUs as CUDA names them, of those that this process sees itself."""
    names = [each for each in os.environ.get(VISIBLE, "").split(",") if each]
    indices = [int(slot.device.partition(":")[2]) for slot in slots]
    return ",".join(names[index] if names else str(index) for index in indices)


def _begin_on_a_slot(devices: "multiprocessing.queues.SimpleQueue[str]") -> None:
    """In a worker process: take a slot that no other has."""
    _end_with_parent()
    hold([devices.get()])


def _end_with_parent() -> None:
    """In a worker process: end when the flow's process is gone, however it went. A pool's workers wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _record_ends(broken: set[UUID], lost: set[UUID]) -> None:
    """What the workers of a broken pool were at, or had not told the end of, would be shown as running for ever."""
    if not broken:
        return
    ids = sorted(broken)
    with get_client(sync_client=True) as client:
        for start in range(0, len(ids), PAGE):
            wanted = TaskRunFilter(id=TaskRunFilterId(any_=ids[start : start + PAGE]))
            for run in client.read_task_runs(task_run_filter=wanted):
                if run.state is None or not run.state.is_final():
                    client.set_task_run_state(run.id, _end_of(run.id in lost), force=True)


def _end_of(lost: bool) -> State[Any]:
    if lost:
        return Crashed(message="Its worker process died.")
    return Completed(message="Its worker process died before it told.")
