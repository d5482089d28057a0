"""Cost before and after, limits of tokens, stopping from another thread, and many searches at once."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fake_server import FakeServer, connect

import jopa
from jopa.errors import StoppedError
from jopa.remote.client import Client, stop_requests_when

PROMPT = "write a story about the doctor and his patient"
BLACK_BOX = [name for name, kind in jopa.METHODS.items() if kind.requires == "scores" and name != "proxyspex"]


@pytest.mark.parametrize("name", ["joint", "greedy", "exhaustive", "ablation"])
def test_the_limit_ends_a_search_as_a_budget_does(server, name):
    prompt = PROMPT
    settings = {"k": 2, "method": name, "removal": "delete", "output": jopa.Generation(4)}
    free = connect(server)
    jopa.explain(prompt, model=free, **settings)
    limit = free.tokens_sent * 2 // 3
    remote = connect(server, max_tokens_sent=limit)
    found = jopa.explain(prompt, model=remote, **settings)
    assert remote.tokens_sent <= limit
    assert "limit of tokens" in found.stop
    assert len(found.removed) == 2


def test_a_limit_below_one_is_refused_before_the_server_is_asked(server):
    asked = len(server.headers)
    with pytest.raises(jopa.SettingError, match="max_tokens_sent must be at least 1, got 0"):
        connect(server, max_tokens_sent=0)
    assert len(server.headers) == asked


def test_a_limit_that_leaves_nothing_is_one_line(server):
    remote = connect(server, max_tokens_sent=40)
    with pytest.raises(StoppedError, match=r"40 tokens.*raise the limit"):
        jopa.explain(PROMPT, k=2, model=remote, output=jopa.Generation(4))
    assert remote.tokens_sent <= 40


@pytest.mark.parametrize("name", BLACK_BOX)
def test_the_cost_is_said_before_and_not_exceeded(server, name):
    remote = connect(server)
    begun, sent = len(server.bodies), remote.tokens_sent
    settings = {"k": 2, "output": jopa.Generation(4), "unit": "word"}
    cost = jopa.cost_at_most("the doctor and his patient", [name], model=remote, **settings)
    assert len(server.bodies) == begun
    jopa.explain("the doctor and his patient", model=remote, method=name, removal="delete", **settings)
    assert len(server.bodies) - begun <= cost.requests
    assert remote.tokens_sent - sent <= cost.tokens


@pytest.mark.parametrize("name", ["context-cite", "random", "ablation"])
def test_the_cost_of_a_search_until_a_pr_is_not_exceeded(server, name):
    remote = connect(server, rows_per_request=1)
    text, most = "write a story about the doctor and his patient in rain please", 10
    search = jopa.SearchOptions(until_pr=1e-30, max_k=most)
    settings = {"output": jopa.Generation(4), "unit": "word", "search": search}
    cost = jopa.cost_at_most(text, [name], model=remote, **settings)
    begun, sent = len(server.bodies), remote.tokens_sent
    jopa.explain(text, model=remote, method=name, removal="delete", **settings)
    assert len(server.bodies) - begun <= cost.requests
    assert remote.tokens_sent - sent <= cost.tokens


def test_a_method_that_cannot_be_run_has_no_cost(server):
    with pytest.raises(jopa.SettingError, match="jopa"):
        jopa.cost_at_most(PROMPT, ["jopa"], model=connect(server))


def test_requests_in_flight_end_when_somebody_says_stop():
    cancelled = threading.Event()

    async def hang(request):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return httpx.Response(200, json={})

    client = Client("http://fake", transport=httpx.MockTransport(hang), attempts=1)
    began = time.monotonic()

    def check():
        if time.monotonic() - began > 0.2:
            raise jopa.StoppedError("stopped")

    with stop_requests_when(check), pytest.raises(jopa.StoppedError, match="stopped"):
        client.post("/x", {})
    assert cancelled.wait(2)
    assert time.monotonic() - began < 10


def test_ten_searches_at_once_find_what_each_finds_alone(llama):
    prompts = [f"write a story about the doctor and {word}" for word in ("his", "patient", "who", "said", "time")] * 2
    server = FakeServer(llama)
    remote = connect(server, cache=True, in_flight=3)

    def explain(prompt, model):
        return jopa.explain(prompt, k=2, model=model, output=jopa.Generation(3), unit="word")

    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(lambda prompt: explain(prompt, remote), prompts))
    for prompt, found in zip(prompts, together, strict=True):
        alone = explain(prompt, llama)
        assert found.removed == alone.removed
        assert found.joint == pytest.approx(alone.joint, abs=1e-4)


def test_detect_reads_a_prompt_through_a_server_as_it_does_here(server, llama):
    config = jopa.DetectionConfig(k=1, budget=40, max_new_tokens=4)  # all sets are scored, with gradients or without
    here, there = (jopa.detect(PROMPT, model=model, config=config) for model in (llama, connect(server)))
    assert there.score == pytest.approx(here.score, abs=1e-3)
    assert there.evidence.surprisals == pytest.approx(here.evidence.surprisals, abs=1e-4)
    assert there.evidence.units == here.evidence.units
    assert there.span == here.span
