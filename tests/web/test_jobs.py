"""The queue of jobs, with work of a few lines: order, limits, estimates, and jobs that nobody reads."""

import threading
import time

import pytest
from server_cases import until

from jopa.web import jobs
from jopa.web.jobs import FINAL_KINDS, JobQueue, QueueFullError, VisitorBusyError

SECONDS = 20
"""After so long a test fails; none needs a tenth of it."""


class Work:
    """Does a job when the test lets it, and remembers the order."""

    def __init__(self):
        self.done = []
        self.gate = threading.Event()

    def __call__(self, job):
        while not (self.gate.is_set() or job.stop.is_set()):
            job.is_wanted()
            time.sleep(0.005)
        if not job.stop.is_set():
            self.done.append(job.request)
            job.emit({"kind": "result"})


@pytest.fixture
def work():
    work = Work()
    yield work
    work.gate.set()


@pytest.fixture
def queue(work):
    queue = JobQueue(work, max_waiting=4, max_per_visitor=3)
    yield queue
    queue.close()


def ends(job):
    """The kind of a job's last event."""
    seen = []
    until(lambda: seen.extend(job.read()) or (seen and seen[-1]["kind"] in FINAL_KINDS))
    return seen[-1]["kind"]


def test_second_jobs_come_after_the_first_jobs_of_others(queue, work):
    first = queue.submit("a1", kind="x", visitor="a")
    until(lambda: first.started)
    later = [queue.submit(name, kind="x", visitor=name[0]) for name in ("a2", "a3", "b1", "c1")]
    assert [queue.position(job) for job in later] == [(3, None), (4, None), (1, None), (2, None)]
    assert queue.position(first) is None
    work.gate.set()
    assert {ends(job) for job in [first, *later]} == {"result"}
    assert work.done == ["a1", "b1", "c1", "a2", "a3"]


def test_a_visitor_and_the_queue_have_limits(queue):
    first = queue.submit("a1", kind="x", visitor="a")
    until(lambda: first.started)
    others = [queue.submit(f"a{i}", kind="x", visitor="a") for i in (2, 3)]
    with pytest.raises(VisitorBusyError, match="at most 3: wait for one, or stop one"):
        queue.submit("a4", kind="x", visitor="a")
    for visitor in "bc":
        queue.submit(visitor, kind="x", visitor=visitor)
    with pytest.raises(QueueFullError, match="4 requests are waiting"):
        queue.submit("d", kind="x", visitor="d")
    queue.end(others[0])
    assert queue.find(others[0].id) is None
    queue.submit("a4", kind="x", visitor="a")


def test_the_time_until_a_job_is_done_is_estimated_from_its_kind(queue, work):
    work.gate.set()
    assert ends(queue.submit("a", kind="x", visitor="a")) == "result"
    until(lambda: queue._at_work is None)
    work.gate.clear()
    at_work = queue.submit("b", kind="x", visitor="b")
    until(lambda: at_work.started)
    known, unknown = queue.submit("c", kind="x", visitor="c"), queue.submit("d", kind="y", visitor="d")
    before, seconds = queue.position(known)
    assert before == 1
    assert 0 < seconds < SECONDS
    assert queue.position(unknown) == (2, None)


def test_jobs_that_fail_do_not_count_for_the_estimate():
    def fail_or_wait(job):
        if job.request == "good":
            time.sleep(0.2)
        job.emit({"kind": "result"} if job.request == "good" else {"kind": job.request, "message": ""})

    queue = JobQueue(fail_or_wait, max_waiting=4, max_per_visitor=3)
    for request in ("error", "stopped", "good", "error", "stopped"):
        assert ends(queue.submit(request, kind="x", visitor="a")) in FINAL_KINDS
        until(lambda: queue._at_work is None)
    at_work, waiting = (queue.submit("good", kind="x", visitor=name) for name in "ab")
    until(lambda: at_work.started)
    _, seconds = queue.position(waiting)
    assert seconds >= 0.2  # its own time, whatever is left of the other's
    queue.close()


@pytest.mark.parametrize("error", [RuntimeError("device-side assert"), SystemExit(3), MemoryError()])
@pytest.mark.parametrize("before", [[], ["result"]])
def test_work_that_raises_ends_its_own_job_alone(error, before, capfd):
    def raise_once(job):
        for kind in before or (["result"] if job.request == "good" else []):
            job.emit({"kind": kind})
        if job.request == "bad":
            raise error

    queue = JobQueue(raise_once, max_waiting=4, max_per_visitor=3)
    bad = queue.submit("bad", kind="x", visitor="a")
    good = queue.submit("good", kind="x", visitor="a")
    assert ends(bad) == (before[0] if before else "error")
    assert ends(good) == "result"
    until(lambda: queue._at_work is None)
    assert not bad.read()  # one last event, and nothing after it
    assert bad.request is None
    assert type(error).__name__ in capfd.readouterr().err
    queue.close()


def test_jobs_that_nobody_reads_are_dropped(queue, work, monkeypatch):
    monkeypatch.setattr(jobs, "READ_SECONDS", 0.1)
    unread = [queue.submit(f"a{i}", kind="x", visitor="a") for i in range(3)]
    until(lambda: all(job.stop.is_set() for job in unread))
    assert all(queue.find(job.id) is None for job in unread)
    work.gate.set()
    assert ends(queue.submit("b", kind="x", visitor="b")) == "result"
    assert work.done == ["b"]


def test_a_job_with_an_open_connection_is_not_dropped_because_the_server_is_busy(queue, work, monkeypatch):
    monkeypatch.setattr(jobs, "READ_SECONDS", 0.1)
    job = queue.submit("watched", kind="x", visitor="a")
    job.is_connected = True
    time.sleep(0.3)  # the server has no time to read
    assert queue.find(job.id) is job
    work.gate.set()
    assert ends(job) == "result"


def test_unread_events_are_few():
    job = jobs.Job("a", "x", "a", (0, 1))
    for i in range(5000):
        job.emit({"kind": "text", "stage": "answering", "text": "x" * i})
        job.emit({"kind": "progress", "stage": "searching", "done": i})
    assert [event.get("done") for event in job.read()] == [None, 4999]
    for i in range(jobs.MAX_UNREAD_EVENTS + 1):
        job.emit({"kind": "best", "evaluations": i})
    assert job.stop.is_set()
    assert job.read() == []


def test_what_was_requested_is_released_afterwards(queue, work):
    work.gate.set()
    job = queue.submit("a", kind="x", visitor="a")
    assert ends(job) == "result"
    until(lambda: job.request is None)
    queue.end(job)
    assert not queue._jobs


def test_closing_ends_the_worker(work):
    queue = JobQueue(work, max_waiting=4, max_per_visitor=3)
    at_work, waiting = (queue.submit(name, kind="x", visitor=name) for name in "ab")
    queue.close()
    queue._worker.join(SECONDS)
    assert not queue._worker.is_alive()
    assert at_work.stop.is_set()
    assert waiting.stop.is_set()
    assert work.done == []
