"""A server that is stopped while it works."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from page_client import events, submit
from server_cases import SECONDS

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_a_server_that_is_stopped_ends_its_jobs_without_a_traceback():
    server = Path(__file__).with_name("tiny_server.py")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, str(server)], env=environment, **pipes) as process:
        try:
            url = process.stdout.readline().strip()
            long = " ".join(["write a story about the doctor and his patient in rain"] * 40)
            found = events(url, submit(url, prompt=long, methods=["shapley"], max_new_tokens=100))
            assert next(event for event in found if event["kind"] == "answer")
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert all(event["kind"] not in ("result", "error") for event in found)
            _, said = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert (process.returncode, said) == (0, "")
    assert time.monotonic() - began < 30
