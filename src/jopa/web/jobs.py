"""Jobs that wait for one worker: submitted by visitors, done one at a time, read as events while they go on.

The queue is short and fair. A visitor may have few jobs in it, and the second job of one visitor comes after the first
jobs of all others. A job is stopped as soon as nobody reads its events; what nobody has read yet stays small, because a
later text or progress event takes the place of an earlier one. This file knows no model and no server: the tests run it
with functions of a few lines.
"""

from __future__ import annotations

import secrets
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Event, Lock, Thread
from typing import Any, Generic, TypeVar

from jopa.errors import JopaError

JobEvent = dict[str, Any]
Request = TypeVar("Request")

FINAL_KINDS = frozenset({"result", "error", "stopped"})
"""Every job ends with exactly one event of one of these kinds."""
READ_SECONDS = 5.0
"""Seconds after which a job that no reader is connected to is stopped."""
MAX_UNREAD_EVENTS = 1000
"""Unread events after which a job is stopped, texts and progress aside: of those only the latest is kept."""
CLOSE_SECONDS = 5.0
"""Seconds to wait for the job at work when the queue is closed: a long forward cannot be interrupted."""
_DURATIONS_KEPT = 10


class BusyError(JopaError):
    """The queue takes no further job: of anybody, or of this visitor."""


class QueueFullError(BusyError):
    """As many jobs wait as may wait."""


class VisitorBusyError(BusyError):
    """This visitor has as many unfinished jobs as one visitor may have."""


@dataclass(eq=False)
class Job(Generic[Request]):
    """One request of a visitor, and the events that were not read yet. Safe to use from several threads.

    Attributes:
        request: what the worker is to do.
        kind: jobs of one kind take about equally long.
        visitor: whose job it is.
        order: jobs with a lower order are done first.
        id: a random name; who knows it can read the events.
        stop: set when the job is to end.
        started: when the worker took it (`time.monotonic`), None while it waits.
        has_reader: whether somebody asked to read its events.
        is_connected: whether the connection that reads them is open.
        ended_with: the kind of its last event; None while more may come.
    """

    request: Request | None
    kind: str
    visitor: str
    order: tuple[int, int]
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    stop: Event = field(default_factory=Event)
    started: float | None = None
    has_reader: bool = False
    is_connected: bool = False
    ended_with: str | None = None
    _last_read: float = field(default_factory=time.monotonic)
    _unread: deque[JobEvent] = field(default_factory=deque)
    _lock: Lock = field(default_factory=Lock)

    def emit(self, event: JobEvent) -> None:
        """Add an event, unless the last was added; a text or progress event replaces an unread one of its stage."""
        replaceable = event["kind"] in {"text", "progress"}
        with self._lock:
            if self.stop.is_set() or self.ended_with is not None:
                return
            if replaceable:
                for unread in self._unread:
                    if (unread["kind"], unread.get("stage")) == (event["kind"], event.get("stage")):
                        self._unread.remove(unread)
                        break
            self._unread.append(event)
            if event["kind"] in FINAL_KINDS:
                self.ended_with = event["kind"]
            if len(self._unread) > MAX_UNREAD_EVENTS:
                self.stop.set()
                self._unread.clear()

    def read(self) -> list[JobEvent]:
        """The events since the last call, oldest first. To be called every few seconds, or the job is stopped."""
        with self._lock:
            self._last_read = time.monotonic()
            events = list(self._unread)
            self._unread.clear()
            return events

    def end(self) -> None:
        """Stop the work, if it goes on, and release what was not read."""
        with self._lock:
            self.stop.set()
            self._unread.clear()

    def is_wanted(self) -> bool:
        """Whether somebody reads the events; a job that nobody reads is ended by this call.

        While a reader is connected, the connection decides: it ends the job when it closes. The time since the last
        read says nothing then, because a busy server reads late.
        """
        with self._lock:
            forgotten = not self.is_connected and time.monotonic() - self._last_read > READ_SECONDS
        if forgotten:
            self.end()
        return not self.stop.is_set()


class JobQueue(Generic[Request]):
    """Jobs in the order in which one worker thread does them.

    Args:
        work: does one job and emits its events, the last of a final kind. What it raises ends this job alone.
        max_waiting: the most jobs that may wait.
        max_per_visitor: the most unfinished jobs of one visitor, the one at work included.
    """

    def __init__(self, work: Callable[[Job[Request]], None], *, max_waiting: int, max_per_visitor: int) -> None:
        self._work = work
        self._max_waiting = max_waiting
        self._max_per_visitor = max_per_visitor
        self._changed = Condition()
        self._jobs: dict[str, Job[Request]] = {}
        self._at_work: Job[Request] | None = None
        self._submitted = 0
        self._durations: dict[str, deque[float]] = {}
        self._worker: Thread | None = None
        self._closed = False

    def submit(self, request: Request, *, kind: str, visitor: str) -> Job[Request]:
        """Let a request wait for its turn.

        Raises:
            QueueFullError: as many jobs wait as may wait.
            VisitorBusyError: the visitor has as many unfinished jobs as one may have.
        """
        with self._changed:
            self._drop_unwanted()
            waiting = [job for job in self._jobs.values() if job.started is None]
            own = sum(job.visitor == visitor for job in [*waiting, *([self._at_work] if self._at_work else [])])
            if own >= self._max_per_visitor:
                raise VisitorBusyError(
                    f"{own} requests from your address are under way, and this page takes at most "
                    f"{self._max_per_visitor}: wait for one, or stop one"
                )
            if len(waiting) >= self._max_waiting:
                raise QueueFullError(
                    f"{len(waiting)} requests are waiting, the most there may be: try again in a minute"
                )
            self._submitted += 1
            job = Job(request, kind, visitor, (own, self._submitted))
            self._jobs[job.id] = job
            if self._worker is None:
                self._worker = Thread(target=self._run, name="jopa page worker", daemon=True)
                self._worker.start()
            self._changed.notify()
            return job

    def find(self, job_id: str) -> Job[Request] | None:
        """The job with this name; None if there is none, or none any more."""
        with self._changed:
            self._drop_unwanted()
            return self._jobs.get(job_id)

    def end(self, job: Job[Request]) -> None:
        """End a job, whether it waits, is at work or is done, and forget it."""
        job.end()
        with self._changed:
            self._jobs.pop(job.id, None)

    def position(self, job: Job[Request]) -> tuple[int, float | None] | None:
        """How many jobs come before a waiting one, and the seconds until it will be done; None once it is at work.

        The seconds are those of jobs that ended with a result: a request that fails at once says nothing of the others.
        They are None as long as no job of a kind among them has.
        """
        with self._changed:
            self._drop_unwanted()
            if job.started is not None:
                return None
            before = [other for other in self._jobs.values() if other.started is None and other.order < job.order]
            seconds = 0.0
            now = time.monotonic()
            at_work = self._at_work
            for one in [*before, job, *([at_work] if at_work else [])]:
                durations = self._durations.get(one.kind)
                if not durations:
                    return len(before) + (at_work is not None), None
                usual = sum(durations) / len(durations)
                seconds += usual if one.started is None else max(0.0, usual - (now - one.started))
            return len(before) + (at_work is not None), seconds

    def close(self) -> None:
        """End all jobs, and wait a few seconds until the one at work has noticed."""
        with self._changed:
            self._closed = True
            for job in [*self._jobs.values(), *([self._at_work] if self._at_work else [])]:
                job.end()
            self._jobs.clear()
            self._changed.notify()
        if self._worker is not None:
            self._worker.join(CLOSE_SECONDS)

    def _drop_unwanted(self) -> None:
        self._jobs = {name: job for name, job in self._jobs.items() if job.is_wanted()}

    def _next(self) -> Job[Request] | None:
        """Wait for the next job and mark it as at work; None when the queue is closed."""
        with self._changed:
            while not self._closed:
                self._drop_unwanted()
                waiting = [job for job in self._jobs.values() if job.started is None]
                if waiting:
                    self._at_work = min(waiting, key=lambda job: job.order)
                    self._at_work.started = time.monotonic()
                    return self._at_work
                self._changed.wait(READ_SECONDS if self._jobs else None)
            return None

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._work(job)
            except BaseException as error:  # whatever it is: the jobs that wait need this thread
                traceback.print_exc(file=sys.stderr)
                job.emit(unexpected(error))
            finally:
                job.request = None
                with self._changed:
                    self._at_work = None
                    if job.ended_with == "result" and job.started is not None:
                        durations = self._durations.setdefault(job.kind, deque(maxlen=_DURATIONS_KEPT))
                        durations.append(time.monotonic() - job.started)
            del job


def unexpected(error: BaseException) -> JobEvent:
    """The last event of a job that ended with a fault of ours; the traceback goes to the server's log."""
    return {"kind": "error", "message": f"unexpected {type(error).__name__}; the server's log says more"}
