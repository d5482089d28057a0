"""A server that is stopped while it works."""

import multiprocessing
import os
import signal
import time

import pytest
from page_client import events, submit
from server_cases import SECONDS
from tiny_server import language_model_with_context

from forked import forked
from jopa.web import server
from jopa.web.limits import RequestLimits

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_a_server_that_is_stopped_ends_its_jobs_without_a_traceback(tmp_path):
    model, limits = language_model_with_context(4096), RequestLimits(tokens=2000)
    reading, writing = multiprocessing.Pipe(duplex=False)
    process = forked(
        lambda: server.serve(lambda: model, port=0, limits=limits, on_ready=writing.send), tmp_path / "said"
    )
    try:
        assert reading.poll(SECONDS)
        url = reading.recv()
        long = " ".join(["write a story about the doctor and his patient in rain"] * 40)
        found = events(url, submit(url, prompt=long, methods=["shapley"], max_new_tokens=100))
        assert next(event for event in found if event["kind"] == "answer")
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        assert all(event["kind"] not in ("result", "error") for event in found)
        process.join(SECONDS)
    finally:
        process.kill()
    assert (process.exitcode, (tmp_path / "said").read_text()) == (0, "")
    assert time.monotonic() - began < 30
