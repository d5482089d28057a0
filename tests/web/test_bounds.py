"""What unread streams and large requests may cost: the model's time, and memory."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_client import LOCAL, call, events, serving, submit, submitted

from jopa.web import body, connections, endpoints
from jopa.web.limits import RequestLimits

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

REQUEST = {"prompt": "write a story about the doctor", "unit": "word", "max_new_tokens": 8, "k": 2}
LIMITS = RequestLimits(max_new_tokens=12, budget=30, seconds=600)
SECONDS = 60
WORDS = "green birds met two people in rain one day and the doctor said that once upon time there was story".split()


@pytest.fixture(scope="module")
def url(llama):
    return serving(llama, limits=LIMITS)


@pytest.fixture(autouse=True)
def _jobs_of_these_servers_are_forgotten():
    """Tests of other files end the jobs on that list, and one server here has ended by then."""
    yield
    submitted.clear()


@pytest.fixture
def slow(llama):
    """A request whose work would take minutes."""
    hook = llama.model.register_forward_pre_hook(lambda *_: time.sleep(0.5))
    yield {**REQUEST, "methods": ["shapley"], "max_new_tokens": 12}
    hook.remove()


def test_a_stream_that_is_opened_and_never_read_does_not_hold_the_model(llama, url, slow, monkeypatch):
    """The bytes that keep a stream alive fill the buffers on its way, which are small here; and they come faster."""
    monkeypatch.setattr(endpoints, "ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(connections, "WRITE_SECONDS", 1.0)
    job = submit(url, **slow)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((LOCAL, urlsplit(url).port))
        connection.sendall(f"GET /jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        deadline = time.monotonic() + SECONDS
        while call(url, f"/jobs/{job}/events")[0] != 404:  # 409 as long as the stream counts as read
            assert time.monotonic() < deadline, "the job goes on, and nobody reads it"
            time.sleep(0.2)
    other = {**REQUEST, "methods": ["ablation"], "max_new_tokens": 1}
    assert list(events(url, submit(url, source="127.0.0.9", **other)))[-1]["kind"] == "result"


def test_a_stream_that_is_read_is_kept_alive(url, slow, monkeypatch):
    monkeypatch.setattr(endpoints, "ALIVE_SECONDS", 0.01)
    found = events(url, submit(url, **{**slow, "methods": ["ablation"], "max_new_tokens": 1}))
    assert list(found)[-1]["kind"] == "result"


def test_all_bodies_together_are_bounded(url, monkeypatch):
    monkeypatch.setattr(body, "MAX_BYTES_AT_ONCE", 5000)
    status, text = call(url, "/jobs", "POST", b"x" * 6000)
    assert (status, text.startswith("too many large requests come at once")) == (503, True)
    assert call(url, "/jobs", "POST", b"x" * 4000)[0] == 400
    assert call(url, "/jobs", "POST", b"x" * 4000)[0] == 400  # what was held is given back


def megabytes(pid: int, field: str) -> float:
    """A field of a process's status: VmRSS (its memory now) or VmHWM (the most it ever had)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_requests_give_their_memory_back():
    """Requests of almost all tokens that the server's limit allows, with a model whose own size does not matter."""
    server = Path(__file__).with_name("tiny_server.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, str(server)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            texts = [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(95)) for i in range(20)]
            large = {
                **{"prompt": "who said that", "documents": [{"text": text} for text in texts], "unit": "document"},
                **{"max_new_tokens": 8, "k": 2},
            }
            requests = [large, {**large, "task": "diagnose"}, {**large, "methods": ["ablation"]}, large]
            assert list(events(url, submit(url, **REQUEST)))[-1]["kind"] == "result"
            before = megabytes(process.pid, "VmRSS")
            after = []
            for request in requests:
                last = list(events(url, submit(url, **request)))[-1]
                assert last["kind"] == "result", last
                after.append(megabytes(process.pid, "VmRSS"))
            peak = megabytes(process.pid, "VmHWM")
        finally:
            process.terminate()
    assert after[-1] - before < 80, (before, after)
    assert after[-1] - after[0] < 40, (before, after)
    assert peak - before < 400, (before, peak)
