"""A running page and a plain HTTP client for its tests; nothing leaves this machine."""

import http.client
import json
import queue
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

from jopa.web import server

LOCAL = "127.0.0.1"
submitted: list[tuple[str, str]] = []
"""Address of the page and id of every job that `submit` submitted."""


def serving(model, **settings) -> str:
    """The address of the page, served from a thread as `jopa serve` serves it."""
    ready: queue.Queue[str] = queue.Queue()
    settings |= {"port": 0, "on_ready": ready.put}
    threading.Thread(target=server.serve, args=(lambda: model,), kwargs=settings, daemon=True).start()
    return ready.get(timeout=60)


@contextmanager
def connected(url, source=LOCAL):
    """A connection to the page from one of this machine's loopback addresses."""
    connection = http.client.HTTPConnection(LOCAL, urlsplit(url).port, timeout=60, source_address=(source, 0))
    try:
        yield connection
    finally:
        connection.close()


def call(url, path="/", method="GET", body=None, headers=None, source=LOCAL):
    """Status and text of one request. A body that is no bytes travels as JSON."""
    with connected(url, source) as connection:
        body = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode()


def submit(url, source=LOCAL, **request):
    """The id of a submitted job."""
    status, text = call(url, "/jobs", "POST", request, source=source)
    assert status == 201, text
    submitted.append((url, json.loads(text)["id"]))
    return submitted[-1][1]


def events(url, job_id):
    """The events of a job as they come; closing it closes the connection."""
    with connected(url) as connection:
        connection.request("GET", f"/jobs/{job_id}/events")
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
