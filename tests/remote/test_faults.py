"""Every way in which a server fails: one clear line, and nothing is paid for twice."""

import asyncio
import io
import json
import logging
import threading
import time

import httpx
import pytest
from fake_server import FakeServer, connect

import jopa
from jopa.remote.client import Client, checked_url
from jopa.remote.score_cache import ScoreCache, cache_key

PROMPT = "write a story about the doctor and his patient"
KEY = "sk-very-secret-0123456789"


def _without(row):
    row["choices"][0]["prompt_logprobs"] = None


def _null(row):
    row["choices"][0]["prompt_logprobs"][-1] = None


def _nan(row):
    (entry,) = row["choices"][0]["prompt_logprobs"][-1].values()
    entry["logprob"] = float("nan")


def _short(row):
    row["choices"][0]["prompt_logprobs"] = row["choices"][0]["prompt_logprobs"][:-1]


def _other_token(row):
    row["choices"][0]["prompt_logprobs"][-1] = {"999999": {"logprob": -1.0}}


def _fewer_rows(row):
    row["choices"] = row["choices"][:-1]


def _same_number(row):
    for choice in row["choices"]:
        choice["index"] = 5


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_without, "no prompt log-probabilities"),
        (_null, "gives None as the log-probability"),
        (_nan, "gives nan as the log-probability"),
        (_short, "log-probabilities where"),
        (_other_token, "gives None as the log-probability"),
        (_fewer_rows, "rows"),
        (_same_number, "rows"),
    ],
)
def test_a_damaged_answer_is_one_clear_line(llama, damage, said):
    server = FakeServer(llama)
    remote = connect(server)

    def change(answer):
        damage(answer)
        return answer

    server.change = change
    with pytest.raises(jopa.ScoringError, match=said) as raised:
        jopa.explain(PROMPT, k=1, model=remote, output=jopa.Generation(3))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda entries: None, "no prompt log-probabilities"),
        (lambda entries: entries[:-1], "log-probabilities where"),
        (lambda entries: [*entries[:-1], [None, entries[-1][1], None]], "gives None"),
        (lambda entries: [*entries[:-1], [-1.0, 999999, None]], "token 999999"),
    ],
)
def test_a_damaged_answer_of_sglang_is_one_clear_line(llama, damage, said):
    server = FakeServer(llama, "sglang")
    remote = connect(server)

    def change(answer):
        information = answer[0]["meta_info"]
        information["input_token_logprobs"] = damage(information["input_token_logprobs"])
        return answer

    server.change = change
    with pytest.raises(jopa.ScoringError, match=said):
        jopa.explain(PROMPT, k=1, model=remote, output=jopa.Generation(3))


@pytest.mark.parametrize("fault", ["429", "503", "cut", "slow"])
def test_a_failing_request_is_tried_again(llama, quick, fault):
    def fail(request, number):
        if number % 3:
            return None
        if fault == "cut":
            raise httpx.ReadError("the connection was cut", request=request)
        if fault == "slow":
            raise httpx.ReadTimeout("", request=request)
        return httpx.Response(int(fault), headers={"Retry-After": "7"}, json={"error": "busy"})

    here = jopa.explain(PROMPT, k=2, model=llama, output=jopa.Generation(4))
    there = jopa.explain(PROMPT, k=2, model=connect(FakeServer(llama, fault=fail)), output=jopa.Generation(4))
    assert there.removed == here.removed
    assert (7.0 in quick) == fault.isdigit()  # Retry-After is obeyed


def test_retry_after_is_obeyed_up_to_a_limit(llama, quick):
    replies = iter([{"Retry-After": "100000"}, {"Retry-After": "nonsense"}, {}, {}])

    def fail(request, number):
        headers = next(replies, None)
        return None if headers is None else httpx.Response(429, headers=headers, json={})

    connect(FakeServer(llama, fault=fail))
    assert [wait for wait in quick if wait] == [60.0, 1.0, 2.0, 4.0]


def test_after_the_stated_number_of_tries_there_is_one_line(llama, quick):
    server = FakeServer(llama, fault=lambda request, number: httpx.Response(503, text="<html>\nbusy"))
    with pytest.raises(jopa.ModelError, match=r"status 503.*tried 3 times") as raised:
        connect(server, attempts=3)
    assert len(server.bodies) == 3
    assert "\n" not in str(raised.value)


def test_a_real_connection_that_nobody_answers():
    client = Client("http://127.0.0.1:9", attempts=2, first_wait=0.01)
    with pytest.raises(jopa.ModelError, match=r"cannot be reached.*tried 2 times"):
        client.get("/v1/models")


def test_a_server_that_stops_in_the_middle_is_not_paid_twice(llama, quick):
    dead = False

    def fail(request, number):
        if dead and number > begun + 4:
            raise httpx.ConnectError("refused", request=request)

    server = FakeServer(llama, fault=fail)
    settings = {"cache": True, "rows_per_request": 1, "attempts": 2}
    remote = connect(server, **settings)
    dead, begun = True, len(server.bodies)
    options = {"k": 2, "output": jopa.Generation(4)}
    with pytest.raises(jopa.ModelError, match="tried 2 times"):
        jopa.explain(PROMPT, model=remote, **options)
    dead = False
    again = connect(server, **settings)
    before = len(server.scored)
    found = jopa.explain(PROMPT, model=again, **options)
    rows = [json.dumps(body["prompt"]) for body in server.scored]
    assert found.removed == jopa.explain(PROMPT, model=llama, **options).removed
    assert len(rows) > before
    repeated = [row for row in rows[before:] if row in rows[1 : 1 + 2]]  # scored before it stopped; 0 is the probe
    assert not repeated
    once_more = len(server.scored)
    assert jopa.explain(PROMPT, model=connect(server, **settings), **options).removed == found.removed
    assert len(server.scored) == once_more + 1  # the probe of connect alone


def test_without_a_cache_all_is_asked_again(llama, tmp_path):
    server = FakeServer(llama)
    for _ in range(2):
        jopa.explain(PROMPT, k=1, model=connect(server), output=jopa.Generation(3))
    rows = [json.dumps(body["prompt"]) for body in server.scored]
    assert len(rows) == 2 * len(set(rows))
    assert not (tmp_path / "cache").exists()


def test_cancelling_ends_the_requests_in_flight():
    cancelled = threading.Event()

    async def hang(request):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    began = time.monotonic()

    async def first_answers(request):
        if json.loads(request.content).get("n") == 0:
            await asyncio.sleep(0.05)
            return httpx.Response(200, json={})
        return await hang(request)

    client = Client("http://fake", transport=httpx.MockTransport(first_answers), attempts=1)

    def raise_stopped(number, answer):
        raise jopa.errors.StoppedError("enough")

    with pytest.raises(jopa.errors.StoppedError, match="enough"):
        client.post_all("/x", [{"n": number} for number in range(3)], raise_stopped)
    assert cancelled.wait(2)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("key", [KEY, None])
def test_a_refused_key_is_one_line_without_the_key(llama, monkeypatch, key):
    if key:
        monkeypatch.setenv("MY_KEY", key)
    server = FakeServer(llama, fault=lambda request, number: httpx.Response(401, json={"error": f"bad key {KEY}"}))
    with pytest.raises(jopa.ModelError, match="MY_KEY") as raised:
        connect(server, key_variable="MY_KEY")
    assert KEY not in str(raised.value)
    assert server.headers[0].get("Authorization") == (f"Bearer {KEY}" if key else None)


@pytest.fixture
def log():
    """All that is logged meanwhile, at every level."""
    text, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(text), root.level
    root.setLevel(logging.NOTSET)
    root.addHandler(handler)
    logging.getLogger("httpx").debug("the log is read")
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


def test_the_key_is_nowhere(llama, monkeypatch, tmp_path, log):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = FakeServer(llama)
    remote = connect(server, cache=True)
    found = jopa.explain(PROMPT, k=1, model=remote, output=jopa.Generation(3))
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    for text in (found.to_json(), repr(remote), str(remote), repr(remote.client), log.getvalue()):
        assert KEY not in text
    assert "the log is read" in log.getvalue()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()
    server.fault = lambda request, number: httpx.Response(400, json={"error": {"message": f"you sent {KEY}"}})
    with pytest.raises(jopa.ModelError, match=r"you sent \*\*\*"):
        remote.generate_ids([1, 2])


@pytest.mark.parametrize("url", ["http://me:secret@host", "host:8000", "ftp://host", "http://host/?key=1", ""])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(jopa.SettingError):
        checked_url(url)


def test_addresses_with_and_without_v1_are_one():
    assert {checked_url(f"http://host:8000{end}") for end in ("", "/", "/v1", "/v1/")} == {"http://host:8000"}


def test_an_unknown_model_is_named_with_those_that_are_there(server):
    with pytest.raises(jopa.ModelError, match="no model 'other'; it offers 'tiny'"):
        connect(server, model="other")


def test_a_prompt_that_is_too_long_is_refused_before_it_is_sent(server):
    remote = connect(server)
    asked = len(server.bodies)
    with pytest.raises(jopa.PromptError, match="context of 127 tokens"):
        jopa.explain(PROMPT, k=1, model=remote, output=jopa.Generation(200))
    assert len(server.bodies) == asked


def test_a_server_that_finds_the_prompt_too_long_is_heard(llama):
    server = FakeServer(llama)
    remote = connect(server)
    said = "This model's maximum context length is 16 tokens."
    server.fault = lambda request, number: httpx.Response(400, json={"error": {"message": said}})
    with pytest.raises(jopa.PromptError, match=r"maximum context length is 16.*shorten"):
        jopa.explain(PROMPT, k=1, model=remote, output="time there was")


def test_a_page_that_is_no_api_is_told(llama):
    server = FakeServer(llama, fault=lambda request, number: httpx.Response(200, text="<html>hello</html>"))
    with pytest.raises(jopa.ModelError, match="no JSON"):
        connect(server)


@pytest.mark.parametrize(("owner", "said"), [("llamacpp", "GGUF"), ("library", "Ollama"), ("openai", "vllm or sglang")])
def test_servers_without_prompt_log_probabilities_are_told(llama, owner, said):
    with pytest.raises(jopa.ModelError, match=said):
        connect(FakeServer(llama, owner))


def test_log_probabilities_that_are_not_the_models_are_refused(llama):
    server = FakeServer(llama)

    def change(answer):
        for entry in answer["choices"][0]["prompt_logprobs"][1:]:
            for found in entry.values():
                found["logprob"] -= 3
        return answer

    server.change = change
    with pytest.raises(jopa.ModelError, match="raw_logprobs"):
        connect(server)


def test_max_tokens_sent_ends_the_work(server):
    remote = connect(server, max_tokens_sent=60)
    with pytest.raises(jopa.errors.StoppedError, match="60 tokens"):
        jopa.explain(PROMPT, k=2, model=remote, output=jopa.Generation(4))
    assert remote.tokens_sent <= 60


def test_the_cache_tells_rows_servers_and_targets_apart(tmp_path):
    keys = [cache_key(*what) for what in [("a", [1, 2], 1), ("b", [1, 2], 1), ("a", [1, 3], 1), ("a", [1, 2], 2)]]
    assert len(set(keys)) == 4
    cache = ScoreCache(tmp_path / "scores")
    cache.put([(keys[0], [-1.5, -0.1])])
    assert ScoreCache(tmp_path / "scores").get(keys[0]) == [-1.5, -0.1]
    assert cache.get(keys[1]) is None


def test_a_cache_that_cannot_be_used_is_one_line(tmp_path):
    (tmp_path / "scores").write_text("this is no database, and is long enough to look like one" * 100)
    with pytest.raises(jopa.InputFileError, match="cannot use the cache of scores"):
        ScoreCache(tmp_path / "scores")
