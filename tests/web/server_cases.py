"""The limits, the request and the raw connection that tests of the running page share."""

import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

from page_client import LOCAL, events, submit

from jopa.web.limits import RequestLimits

PROMPT = "write a story about the doctor and his patient"

LIMITS = RequestLimits(characters=300, max_new_tokens=12, k=4, budget=30, seconds=60, waiting=6, per_visitor=3)

REQUEST = {"prompt": PROMPT, "unit": "word", "max_new_tokens": 8, "k": 2}

SECONDS = 60
"""After so long a test fails; none needs a tenth of it."""


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_idle(url):
    """Whether a job of another visitor starts at once."""
    found = events(url, submit(url, source="127.0.0.9", **REQUEST))
    first = next(found)
    found.close()
    return first["kind"] == "started"


def raw(url, data, seconds=SECONDS):
    """All bytes that the page answers to these bytes until it closes the connection."""
    answer = b""
    with socket.create_connection((LOCAL, urlsplit(url).port), timeout=seconds) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may be closed before all is sent
            connection.sendall(data)
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
    return answer
