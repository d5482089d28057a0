"""Visitors who send slowly, send too much or read nothing do not hold the page."""

import json
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from page_client import LOCAL, call, events, serving, submit, submitted
from server_cases import LIMITS, REQUEST, SECONDS, is_idle, raw, until

from jopa.web import body, connections
from jopa.web.access import visitor_of

pytestmark = pytest.mark.usefixtures("all_jobs_end")


@pytest.fixture(scope="module")
def url(llama):
    return serving(llama, limits=LIMITS)


def post_chunked(chunk, count, extra=b""):
    """The bytes of a request whose body comes in pieces."""
    head = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" + extra + b"\r\n"
    return head + (b"%x\r\n" % len(chunk) + chunk + b"\r\n") * count + b"0\r\n\r\n"


def test_bytes_are_counted_however_they_come(url):
    status, text = call(url, "/jobs", "POST", b"x" * 2_000_001)
    assert (status, text) == (413, "a request may have 2,000,000 bytes\n")
    assert raw(url, post_chunked(b" " * 10_000, 201)).startswith(b"HTTP/1.1 413 ")
    answer = raw(url, post_chunked(b" " * 10_000, 201, b"Content-Length: 2\r\n"))
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))
    small = raw(url, post_chunked(json.dumps(REQUEST).encode(), 1, b"Connection: close\r\n"))
    assert small.startswith(b"HTTP/1.1 201 ")
    job = json.loads(small.partition(b"\r\n\r\n")[2])["id"]
    assert call(url, f"/jobs/{job}", "DELETE")[0] == 204


@pytest.mark.parametrize("length", ["9" * 5000, "2000001"])
def test_an_announced_length_beyond_the_limit_is_refused_unread(url, length, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    at_once = property(lambda _: 0.3, lambda *_: None)  # uvicorn closes the connection after 5 seconds
    monkeypatch.setattr(connections.TimedProtocol, "timeout_keep_alive", at_once, raising=False)
    answer = raw(url, f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode(), 15)
    assert answer.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))


def test_a_refused_visitor_may_finish_sending_and_then_reads_why(url):
    """The connection stays open for the rest of a body that is too long: a browser reads the answer after sending."""
    with socket.create_connection((LOCAL, urlsplit(url).port), timeout=SECONDS) as connection:
        connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n")
        time.sleep(0.2)  # the refusal has been sent
        for _ in range(30):
            connection.sendall(b" " * 100_000)
            time.sleep(0.001)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200 " in connection.recv(65536)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nX: "])
def test_half_a_head_is_closed(url, monkeypatch, sent):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    began = time.monotonic()
    raw(url, sent)
    assert time.monotonic() - began < 8


def test_half_a_second_head_is_closed(url, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with socket.create_connection((LOCAL, urlsplit(url).port), timeout=SECONDS) as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"G")
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_half_a_body_is_closed(url, monkeypatch, capfd):
    monkeypatch.setattr(body, "BODY_SECONDS", 0.3)
    answer = raw(url, b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    with socket.create_connection((LOCAL, urlsplit(url).port)) as connection:
        connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{")
    assert call(url)[0] == 200
    assert capfd.readouterr().err == ""


def test_jobs_that_nobody_reads_do_not_hold_the_model(url, slow):
    """By the real limit: with a shorter one, a busy machine makes a visitor who reads look like one who does not."""
    unread = [submit(url, **slow) for _ in range(3)]
    status, text = call(url, "/jobs", "POST", slow)
    assert (status, "at most 3: wait for one" in text) == (429, True)
    assert list(events(url, submit(url, source="127.0.0.2", **REQUEST)))[-1]["kind"] == "result"
    until(lambda: call(url, f"/jobs/{unread[-1]}", "DELETE")[0] == 404)
    until(lambda: is_idle(url))


def test_a_full_queue_says_so(url, slow):
    job = submit(url, **slow)
    found = events(url, job)
    while next(found)["kind"] != "started":
        pass
    for i in range(LIMITS.waiting):
        submit(url, source=f"127.0.1.{i + 1}", **slow)
    assert call(url, "/jobs", "POST", REQUEST, source="127.0.2.1")[0] == 503
    found.close()


def test_an_answer_that_nobody_takes_is_dropped(url, monkeypatch):
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.3)
    page = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(SECONDS)
        connection.connect((LOCAL, urlsplit(url).port))
        connection.sendall(page * 2000)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(50 * SECONDS):
                connection.sendall(b" ")
                time.sleep(0.02)


@pytest.mark.parametrize(
    ("address", "visitor"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_network_is_one_visitor(address, visitor):
    assert visitor_of(address) == visitor


def test_an_address_that_anybody_could_write_is_not_believed(url, slow):
    for _ in range(3):
        submit(url, **slow)
    assert call(url, "/jobs", "POST", slow, {"X-Forwarded-For": "192.0.2.1"})[0] == 429


def test_behind_a_proxy_the_visitor_is_whom_the_proxy_names(llama, slow):
    url = serving(llama, limits=LIMITS, public_url="https://jopa.example.org")
    visitors = ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"]
    found = [call(url, "/jobs", "POST", slow, {"X-Forwarded-For": f"192.0.2.9, {name}"}) for name in visitors]
    assert [status for status, _ in found] == [201, 201, 201, 429, 201]
    submitted.extend((url, json.loads(text)["id"]) for status, text in found if status == 201)
