"""The running page: its addresses, who is let in, and requests that are meant to harm it."""

import base64
import json
import socket
import sys
from urllib.parse import urlsplit

import pytest
from page_client import call, connected, events, serving, submit
from server_cases import LIMITS, REQUEST, is_idle, raw, until

import jopa
from jopa.web import server as app
from jopa.web.access import public_origin

pytestmark = pytest.mark.usefixtures("all_jobs_end")


@pytest.fixture(scope="module")
def url(llama):
    return serving(llama, limits=LIMITS)


@pytest.fixture(scope="module")
def guarded(llama):
    return serving(llama, limits=LIMITS, password="geheim: ä")


@pytest.mark.parametrize(
    "path",
    [
        *("/queue/", "/queue/gradio_api/queue/join", "/queue/gradio_api/file=/etc/passwd", "/docs", "/openapi.json"),
        *(
            "/app.py",
            "/../app.py",
            "/..%2fapp.py",
            "/page.js/",
            "/jobs/",
            "/jobs/x/",
            "/jobs/../page.js",
            "//",
            "/login",
        ),
    ],
)
def test_nothing_but_the_page_and_its_jobs_is_reached(url, path):
    assert call(url, path) == (404, "there is nothing here\n")
    assert call(url, path, "POST", {})[0] == 404


def test_another_method_is_refused(url):
    line = "this address takes another HTTP method\n"
    for method, path in [("POST", "/"), ("GET", "/jobs"), ("PUT", "/page.js"), ("POST", "/jobs/x/events")]:
        assert call(url, path, method) == (405, line)


def test_the_page_and_its_parts_load_nothing_from_elsewhere(url):
    with connected(url) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
    for name in app.STATIC:
        status, text = call(url, f"/{name}")
        assert status == 200
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("HTTPS", ""), name


def test_a_request_is_submitted_and_its_events_are_read_once(url):
    job = submit(url, **REQUEST)
    found = events(url, job)
    first = next(found)
    assert call(url, f"/jobs/{job}/events")[0] == 409
    kinds = [first["kind"], *(event["kind"] for event in found)]
    assert set(kinds[: kinds.index("started")]) <= {"waiting"}
    assert kinds[kinds.index("started") + 1] == "prompt"
    assert kinds[-1] == "result"
    status, text = call(url, f"/jobs/{job}/events")
    assert (status, text.startswith("there is no such request: it has ended")) == (404, True)
    assert call(url, f"/jobs/{job}", "DELETE")[0] == 404


def test_a_job_is_ended_by_delete_and_by_closing_the_stream(url, slow):
    job = submit(url, **slow)
    found = events(url, job)
    next(found)
    assert call(url, f"/jobs/{job}", "DELETE") == (204, "")
    assert "result" not in {event["kind"] for event in found}
    until(lambda: is_idle(url))
    found = events(url, submit(url, **slow))
    next(found)
    found.close()
    until(lambda: is_idle(url))


def test_other_sites_and_other_names_are_refused(url):
    host = urlsplit(url).netloc
    assert call(url, headers={"host": "evil.example"})[0] == 403
    assert call(url, headers={"host": "LOCALHOST:7860"})[0] == 200
    assert call(url, headers={"origin": "http://evil.example"})[0] == 403
    assert call(url, headers={"origin": "null"})[0] == 403
    assert call(url, headers={"origin": f"http://{host}"})[0] == 200


def test_a_proxy_gives_the_page_a_public_name(llama):
    url = serving(llama, public_url="https://jopa.example.org/")
    public = {"origin": "https://jopa.example.org"}
    assert call(url, headers=public)[0] == 200
    assert call(url, headers={**public, "host": "jopa.example.org"})[0] == 200
    assert call(url, headers={"origin": "https://jopa.example.org.evil.example"})[0] == 403
    assert call(url, headers={"origin": "http://jopa.example.org"})[0] == 403
    assert call(url, headers={"host": "evil.example"})[0] == 403


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://jopa.example.org", "https://jopa.example.org"),
        ("HTTPS://Jopa.Example.org:443/page/", "https://jopa.example.org"),
        ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_the_origin_of_a_public_address(url, origin):
    assert public_origin(url) == origin


@pytest.mark.parametrize("url", ["jopa.example.org", "ftp://a.b", "https://", "https://a:x", "https://me@a.b", ""])
def test_what_is_no_public_address_is_refused_before_anything_is_loaded(url):
    with pytest.raises(jopa.SettingError, match=r"must be an address such as https://jopa\.example\.org, got '"):
        app.serve(lambda: pytest.fail("loaded"), public_url=url)


def test_a_password_guards_everything(guarded):
    def status(password: str) -> int:
        value = base64.b64encode(f"anybody:{password}".encode()).decode()
        return call(guarded, headers={"authorization": f"Basic {value}"})[0]

    assert call(guarded)[0] == 401
    assert call(guarded, "/page.js")[0] == 401
    assert call(guarded, "/jobs", "POST", REQUEST)[0] == 401
    assert (status("geheim: ä"), status("geheim"), status("")) == (200, 401, 401)


@pytest.mark.parametrize("value", [b"Basic %%%", b"Basic \xc3\xa9", b"Basic", b"\xff", b"Basic " + b"A" * 9000])
def test_a_strange_authorization_is_no_password(guarded, url, value):
    with_password, without = (
        raw(one, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: " + value + b"\r\n\r\n")
        for one in (guarded, url)
    )
    assert with_password.startswith(b"HTTP/1.1 401 ")
    assert without.startswith(b"HTTP/1.1 200 ")


FILE = {"path": "/etc/shadow", "meta": {"_type": "gradio.FileData"}}

DEEP = b'{"prompt":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({**REQUEST, "x": FILE}, "a request has no field 'x'; its fields are prompt, system"),
        ({**REQUEST, "k": FILE}, "k must be a whole number from 1 to 4, this page's limit, got {'path'"),
        ({**REQUEST, "prompt": FILE}, "the prompt is empty"),
        ({"data": [REQUEST], "fn_index": 7, "session_hash": "a"}, "a request has no field 'data', 'fn_index'"),
        ([], "a request is a JSON object, got list"),
        (b"", "a request is JSON: Expecting value at character 0"),
        (b"\xff\xfe", "a request is JSON in UTF-8"),
        (DEEP, "the JSON of a request may be 8 lists and objects deep"),
        (b"[" * 100_000, "the JSON of a request may be 8 lists and objects deep"),
        (b'{"prompt":"' + b"[" * 300 + b'","k":' + b"9" * 4000 + b"}", "a number in a request may have 25 digits"),
        (b'{"prompt":"a","k":1e' + b"9" * 4000 + b"}", "a number in a request may have 25 digits"),
        (b'{"prompt":"a","k":NaN}', "a request is JSON: the number nan is not finite"),
        (b'{"prompt":"a","k":1e999}', "a request is JSON: the number inf is not finite"),
        (b'{"prompt":"a","units":[[0,-1e999]]}', "a request is JSON: the number -inf is not finite"),
        (b'{"prompt":"a","prompt":"b"}', "a request names a field twice"),
        ({**REQUEST, "k": -1}, "k must be a whole number from 1 to 4"),
    ],
)
def test_a_request_that_is_not_acceptable_is_one_line(url, capfd, sent, message):
    status, text = call(url, "/jobs", "POST", sent)
    assert status == 400
    assert text.startswith(message)
    assert text.count("\n") == 1
    assert capfd.readouterr().err == ""


def test_a_file_that_a_request_names_is_not_opened(url):
    opened = []
    is_over = False

    def hook(event, args):
        if event == "open" and not is_over and "secret" in str(args[0]):
            opened.append(args)

    sys.addaudithook(hook)  # it cannot be removed
    secret = {"path": "/dev/secret", "meta": {"_type": "gradio.FileData"}}
    for sent in ({**REQUEST, "x": secret}, {**REQUEST, "k": secret}, {"data": [{**REQUEST, "x": secret}]}, [secret]):
        assert call(url, "/jobs", "POST", sent)[0] == 400
    is_over = True
    assert opened == []


def test_setup_cannot_leave_its_place_in_the_page(llama):
    strange = jopa.LanguageModel(llama.model, llama.tokenizer, "</script><img src=x onerror=alert(1)>")
    page = call(serving(strange))[1]
    assert "<img" not in page
    inside = page.partition('id="setup">')[2].partition("</script>")[0]
    assert json.loads(inside)["model"]["id"] == strange.id


def test_an_address_others_can_reach_needs_a_password_or_a_word():
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(jopa.SettingError, match="--share-password"):
            app.serve(lambda: pytest.fail("loaded"), host=host)
    with pytest.raises(jopa.SettingError, match="password is empty"):
        app.serve(lambda: pytest.fail("loaded"), password="")


def test_a_taken_port_is_one_line_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(jopa.SettingError, match=rf"^cannot listen on 127.0.0.1, port {port}: .+; choose another"):
            app.serve(lambda: pytest.fail("loaded"), port=port)


def test_a_missing_starlette_says_what_brings_it(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(jopa.SettingError, match=r'pip install "jopa\[web\]"'):
        app.build_app(llama)
