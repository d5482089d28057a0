"""The tasks of a benchmark over Ray: one worker for each GPU or share of the processors, the model loaded once in each.

Each free worker gets one task, or a few that share forwards, so slow and fast workers finish together. Workers send
each record as soon as it is known, and only the caller writes records. If a worker dies, its finished records are kept,
a new worker replaces it, and the rest of its tasks go to the next free workers, one at a time; a task with which
several workers died is recorded as failed instead.

Distributes tasks; does not know what they do. https://docs.ray.io/en/latest/ray-core/actors.html
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any

from jopa.benchmark.cells import JournalEntry, ModelCache, Names, Task, failed_cell, run_tasks
from jopa.benchmark.experiment import Experiment
from jopa.benchmark.records import ExampleRecord, SearchRecord
from jopa.errors import JopaError, SettingError, reason_of
from jopa.scoring.batched_runner import BatchedRunner

MAX_ATTEMPTS = 3
"""How many workers may die with a task before it is recorded as failed."""
MAX_CONSECUTIVE_FAILURES = 4 * MAX_ATTEMPTS
"""After this many deaths in a row for each worker, without a record between them, the cause is not one example."""


@dataclass(frozen=True)
class RayMap:
    """A map for `run_bench` that runs tasks with the workers of a Ray cluster.

    Attributes:
        address: of a running cluster ("auto", "ray://host:10001"); None starts one on this machine, if this process
            is not connected to one already.
        workers: how many; by default one a GPU, or, without any, one for every `cpus` processors.
        cpus: processors that each worker computes with.
        together: tasks that a worker runs at a time; their searches share forwards.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    together: int = 1

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("cpus", self.cpus), ("together", self.together)):
            if value is not None and value < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")

    def __call__(self, experiment: Experiment, tasks: Sequence[Task]) -> Iterator[JournalEntry]:
        """Run tasks; records come as soon as they are known, tasks in no fixed order.

        Raises:
            SettingError: Ray is not installed, the cluster cannot be reached, or this machine has too few processors
                for a worker.
            JopaError: a worker cannot start or load its model, or the model does not fit what is on record; or workers
                die one after another without any result.
        """
        ray = _ray()
        own = not ray.is_initialized()
        if own:
            try:
                ray.init(
                    address=self.address or "local",
                    log_to_driver=False,
                    logging_level="error",
                    include_dashboard=False,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                where = f"no Ray cluster at '{self.address}'" if self.address else "Ray does not start here"
                raise SettingError(f"{where}: {' '.join(str(error).split())}") from error
        try:
            yield from _Pool(ray, self, experiment, tasks).lines()
        finally:
            if own:
                ray.shutdown()


class _Worker:
    """A worker: runs tasks in a process of its own."""

    def __init__(self, experiment: Experiment, settings: RayMap) -> None:
        import signal

        import torch

        # Ray's own handler raises SystemExit, which would be recorded as an error of the method at work.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(settings.cpus)
        self._experiment = experiment
        self._models = ModelCache(BatchedRunner(settings.together) if settings.together > 1 else None)

    def run_task(self, tasks: Sequence[Task]) -> Iterator[JournalEntry]:
        """Run tasks, and yield their records one by one."""
        yield from run_tasks(self._experiment, tasks, self._models)


@dataclass
class _Job:
    """Tasks that a worker has been given."""

    worker: Any
    tasks: dict[Names, Task]
    lines: Any


class _Pool:
    """The workers, the tasks of each, and the tasks that wait."""

    def __init__(self, ray: Any, settings: RayMap, experiment: Experiment, tasks: Sequence[Task]) -> None:
        self._ray = ray
        self._experiment = experiment
        self._settings = settings
        self._waiting = deque(_bundles(tasks, settings.together))
        self._attempts: dict[Names, int] = {}
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        if settings.address is None and not gpus and settings.cpus > cpus:
            raise SettingError(f"this machine has {cpus} processors for Ray; a worker cannot have {settings.cpus}")
        count = settings.workers or (gpus if gpus else max(1, cpus // settings.cpus))
        self._count = min(count, len(self._waiting))
        self._options = {"num_gpus": 1} if gpus else {"num_cpus": settings.cpus}

    def lines(self) -> Iterator[JournalEntry]:
        """Give tasks to workers and yield their records until nothing is left."""
        jobs = [self._assign(self._start_worker()) for _ in range(self._count)]
        failures = 0
        errors = self._ray.exceptions
        while jobs:
            ready, _ = self._ray.wait([job.lines for job in jobs], num_returns=1)
            job = next(job for job in jobs if job.lines is ready[0])
            try:
                line = self._ray.get(next(job.lines))
            except StopIteration:
                jobs.remove(job)
                if self._waiting:
                    jobs.append(self._assign(job.worker))
            except errors.RayTaskError as error:
                raise _original_error(error) from error
            except (
                errors.RayError
            ) as error:  # the worker or its machine is gone, perhaps with a record that was not received
                failures += 1
                self._require_progress(error, failures)
                jobs.remove(job)
                for task in job.tasks.values():
                    yield from self._requeue(task)
                if self._waiting:
                    jobs.append(self._assign(self._start_worker()))
            else:
                failures = 0
                job.tasks[line.names] = _without_finished(job.tasks[line.names], line)
                yield line

    def _start_worker(self) -> Any:
        return self._ray.remote(_Worker).options(**self._options).remote(self._experiment, self._settings)

    def _assign(self, worker: Any) -> _Job:
        tasks = self._waiting.popleft()
        lines = worker.run_task.options(num_returns="streaming").remote(tasks)
        return _Job(worker, {task.names: task for task in tasks}, lines)

    def _require_progress(self, error: Any, failures: int) -> None:
        """Stop if examples are not the cause of the deaths, before all examples are recorded as failed."""
        reason = reason_of(error)
        if getattr(error, "actor_init_failed", False):
            raise JopaError(f"a worker cannot start; are jopa and its packages on every machine? {reason:.300}")
        if failures >= MAX_CONSECUTIVE_FAILURES * self._count:
            raise JopaError(
                f"{failures} workers died one after another without any result; does the model fit into the memory of "
                f"each? {reason:.300}"
            )

    def _requeue(self, task: Task) -> Iterator[JournalEntry]:
        """Put a task whose worker died back into the queue, alone; after too many deaths, record its failure."""
        if not task.pending:
            return
        self._attempts[task.names] = self._attempts.get(task.names, 0) + 1
        if self._attempts[task.names] < MAX_ATTEMPTS:
            self._waiting.appendleft((task,))
            return
        error = JopaError(f"{MAX_ATTEMPTS} workers died with this example, perhaps because memory was too small")
        yield from (failed_cell(key, error) for key in task.pending)


def _bundles(tasks: Sequence[Task], size: int) -> Iterator[tuple[Task, ...]]:
    """Tasks in bundles; those of a bundle have the same model."""
    for _model, of_model in groupby(tasks, key=lambda task: task.model):
        while bundle := tuple(islice(of_model, size)):
            yield bundle


def _without_finished(task: Task, line: JournalEntry) -> Task:
    """A task after one of its records is written."""
    record = line.record
    if isinstance(record, ExampleRecord):
        return replace(task, recorded=record)
    if isinstance(record, SearchRecord):
        return replace(task, selections=(*task.selections, record))
    key_done = record.key
    return replace(task, pending=tuple(key for key in task.pending if key != key_done))


def _original_error(error: Any) -> Exception:
    """The error that a worker raised, unchanged if it is one of ours."""
    cause = error.cause
    return cause if isinstance(cause, JopaError) else JopaError(f"a worker failed: {' '.join(str(cause).split())}")


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise SettingError('work over several machines needs the package ray: pip install "jopa[bench]"') from error
    return ray
