"""What real servers, gateways and environments do besides what their documents say."""

import asyncio
import copy
import json
import socket
import threading
from contextlib import contextmanager

import httpx
import pytest
import torch
from fake_server import FakeChat, FakeServer, connect, connect_chat

import jopa
import tiny_models
from jopa.remote.chat_model import ChatRequest
from jopa.remote.client import Client
from jopa.remote.conversation import character_tokenizer

PROMPT = "write a story about the doctor and his patient"
KEY = "sk-very-secret-0123456789"
BEGIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextmanager
def real_server(raw):
    """Sends the same bytes to everybody; gives its url and the requests."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(raw)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_a_key_as_it_is_read_from_a_file(monkeypatch, end):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + end)
    with real_server(BEGIN + b"Content-Length: 2\r\n\r\n{}") as (url, heard):
        assert Client(url, attempts=1).get("/v1/models") == {}
    assert f"Authorization: Bearer {KEY}\r\n".encode() in heard[0]


@pytest.mark.parametrize("key", [KEY + "\nmore", KEY + "\u2013", KEY + "\x7f"])
def test_what_can_be_no_key_is_one_line_without_it(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(jopa.SettingError, match="OPENAI_API_KEY") as raised:
        Client("http://127.0.0.1:9")
    assert KEY not in str(raised.value)


def test_the_key_in_place_of_its_variable_is_not_repeated():
    with pytest.raises(jopa.SettingError, match="not the key itself") as raised:
        Client("http://127.0.0.1:9", key_variable=KEY)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ALL_PROXY": "ftp://somewhere"}, "Unknown scheme"),
        ({"NO_PROXY": "localhost,fe80::/10", "HTTP_PROXY": "http://127.0.0.1:9"}, "Invalid port"),
        ({"SSL_CERT_FILE": "/nowhere/at/all.pem"}, "No such file"),
    ],
)
def test_an_environment_that_cannot_be_used_is_one_line(monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(jopa.SettingError, match=rf"environment names.*{said}"):
        Client("https://localhost:8000")


@pytest.mark.parametrize("url", ["http://ho\tst", "http://xn--a", "http://999.1.1.1", "http://[v1.x]", "http://a/\x01"])
def test_what_looks_like_an_address_and_is_none(url):
    with pytest.raises(jopa.SettingError, match="is no server's address"):
        Client(url)


@pytest.mark.parametrize("settings", [{"attempts": True}, {"in_flight": True}, {"timeout": float("nan")}])
def test_settings_that_are_no_numbers(settings):
    with pytest.raises(jopa.SettingError, match=r"number|above 0"):
        Client("http://127.0.0.1:9", **settings)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n{}  ", "cut the connection.*tried 2 times"),
        (b'Transfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n', "cut the connection.*tried 2 times"),
        (b"Content-Length: 90\r\n\r\n{}", "cut the connection.*tried 2 times"),
        (b'\r\n{"choices": [{"ind', "cut the connection .its answer ends in the middle.; tried 2 times"),
        (b"\r\n", "cut the connection.*tried 2 times"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\n \n\r\n0\r\n\r\n", "cut the connection.*tried 2 times"),
        (b"Content-Length: 0\r\n\r\n", "no JSON"),
        (b"\r\n<html>", "no JSON"),
        (b"Content-Length: 9000\r\n\r\n" + b"[" * 9000, "no JSON"),
    ],
)
def test_a_body_that_cannot_be_read_is_one_line(raw, said):
    with real_server(BEGIN + raw) as (url, _), pytest.raises(jopa.ModelError, match=said):
        Client(url, attempts=2, first_wait=0.01).get("/v1/models")


def test_a_server_that_sends_blanks_while_it_works_is_not_waited_for_without_end():
    """OpenRouter does so, lest a proxy cuts the connection."""

    async def blanks():
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=blanks()))
    with pytest.raises(jopa.ModelError, match=r"did not answer within 0.1 s; tried 2 times"):
        Client("http://fake", timeout=0.1, attempts=2, first_wait=0.01, transport=transport).get("/v1/models")


def test_an_empty_refusal_and_another_address_are_said():
    empty = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with real_server(empty) as (url, _), pytest.raises(jopa.ModelError, match=r"status 404\): Not Found"):
        Client(url).get("/v1/models")
    moved = b"HTTP/1.1 308 Moved\r\nLocation: https://elsewhere/v1/models\r\nContent-Length: 0\r\n\r\n"
    with (
        real_server(moved) as (url, _),
        pytest.raises(jopa.ModelError, match="on to https://elsewhere/v1/models; give"),
    ):
        Client(url).get("/v1/models")


@pytest.mark.parametrize("status", [429, 520, 529])
def test_an_error_in_the_body_of_a_good_answer_is_tried_again(quick, status):
    """OpenRouter answers 200 with the error's status in the body; Cloudflare and Anthropic have further statuses."""

    def fault(request, number):
        error = {"error": {"message": "Provider returned error", "code": status}}
        return {2: httpx.Response(200, json=error), 3: httpx.Response(status, json={})}.get(number)

    model = connect_chat(FakeChat(lambda _: "yes", fault=fault))
    assert ask(model) == "yes"
    assert model.client.requests == 4
    with pytest.raises(jopa.ModelError, match=r"status 400\): no credits"):
        ask(connect_chat(FakeChat(lambda _: "yes", fault=lambda *_: httpx.Response(200, json={"error": "no credits"}))))


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("https://api/openai", "https://api/openai/v1/models"),
        ("https://api/openai/v1/", "https://api/openai/v1/models"),
        ("https://api/v1beta/openai/", "https://api/v1beta/openai/models"),
        ("https://api/v1beta/openai/chat/completions", "https://api/v1beta/openai/models"),
        ("https://api/paas/v4", "https://api/paas/v4/models"),
        ("https://gateway/v1/account/name/compat", "https://gateway/v1/account/name/compat/models"),
        ("https://gateway/v1/account/name/v1", "https://gateway/v1/account/name/v1/models"),
        ("https://api/inference/chat/completions", "https://api/inference/models"),
        ("http://[::1]:8000", "http://[::1]:8000/v1/models"),
    ],
)
def test_addresses_with_versions_of_their_own(url, asked):
    heard = []

    def answer(request):
        heard.append(str(request.url))
        return httpx.Response(200, json={})

    Client(url, transport=httpx.MockTransport(answer)).get("/v1/models")
    assert heard == [asked]


def ask(model):
    text = character_tokenizer().apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True)
    return model.ask([ChatRequest(text, 7)])[0].text


def models(answer):
    return lambda request, number: answer if request.url.path == "/v1/models" else None


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_chat_api_without_a_list_of_models(status):
    assert ask(connect_chat(FakeChat(lambda _: "yes", fault=models(httpx.Response(status, json={}))))) == "yes"
    with pytest.raises(jopa.ModelError, match=f"status {status}"):
        connect(FakeServer(tiny_models.language_model("llama"), fault=models(httpx.Response(status, json={}))))


def test_a_list_of_models_without_its_frame_and_with_many():
    cards = [{"id": f"maker/model-{number}"} for number in range(300)]
    server = FakeChat(lambda _: "yes", fault=models(httpx.Response(200, json=[*cards, {"id": "tiny"}])))
    assert ask(connect_chat(server)) == "yes"


def test_a_chat_api_takes_more_names_than_it_lists():
    """OpenRouter's `:nitro`, a deployment at Azure; llama.cpp's server would answer to a misspelt name, too."""

    def fault(request, number):
        unknown = json.loads(request.content or b"{}").get("model") == "model-217"
        if unknown:
            return httpx.Response(404, json={"error": {"message": "The model does not exist"}})
        return httpx.Response(200, json={"data": cards}) if request.url.path == "/v1/models" else None

    cards = [{"id": "maker/model-217", "owned_by": "somebody"}]
    server = FakeChat(lambda _: "yes", fault=fault)
    assert ask(connect_chat(server, model="maker/model-217:nitro")) == "yes"
    with pytest.raises(
        jopa.ModelError, match=r"not exist; its list has no model 'model-217'; it offers 'maker/model-217'"
    ):
        ask(connect_chat(server, model="model-217"))
    cards[0]["owned_by"] = "llamacpp"
    with pytest.raises(jopa.ModelError, match=r"no model 'maker/model'; it offers 'maker/model-217'"):
        connect_chat(server, model="maker/model")


@pytest.mark.parametrize(
    ("message", "reason", "said"),
    [
        ({"content": "yes"}, "length", "yes"),
        ({"content": "yes", "reasoning_content": "hm"}, "stop", "yes"),
        ({"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "yes"}]}, "stop", "yes"),
        ({"content": None, "refusal": "I cannot."}, "stop", "I cannot."),
        ({"content": ""}, "eos_token", ""),
        ({"content": "ye\ud83d"}, "length", "ye?"),
    ],
)
def test_what_the_model_says_in_other_forms(message, reason, said):
    answer = json.dumps({"choices": [{"message": message, "finish_reason": reason}]})
    model = connect_chat(
        FakeChat(str, fault=lambda _, number: httpx.Response(200, text=answer) if number > 1 else None)
    )
    assert ask(model) == said


@pytest.mark.parametrize(
    ("message", "reason", "said"),
    [
        ({"content": "", "reasoning": "hm, let me"}, "length", "raise max_new_tokens"),
        ({"content": None, "reasoning_content": "hm"}, "length", "raise max_new_tokens"),
        ({"content": "\n\n"}, "length", "raise max_new_tokens"),
        ({"content": "", "reasoning_content": "It is Paris."}, "stop", "took all that the model said for thoughts"),
        ({"content": "\n", "reasoning": "It is Paris."}, "stop", "took all that the model said for thoughts"),
        ({"content": "Once there"}, "content_filter", "a filter of the server"),
        ({"content": None, "tool_calls": [{"id": "x"}]}, "tool_calls", "called a tool"),
        ({"content": [{"type": "thinking"}]}, "length", "raise max_new_tokens"),
        ({"content": None}, ["stop"], "has no text"),
        (None, "error", "the server failed"),
    ],
)
def test_no_answer_is_never_scored_as_an_empty_one(message, reason, said):
    answer = {"choices": [{"message": message, "finish_reason": reason}]}
    model = connect_chat(
        FakeChat(str, fault=lambda _, number: httpx.Response(200, json=answer) if number > 1 else None)
    )
    with pytest.raises(jopa.ScoringError, match=said):
        ask(model)


def particular(request, number):
    """Takes neither `max_tokens` nor a temperature."""
    body = json.loads(request.content or b"{}")
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    if "max_tokens" not in body:
        said = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
    wrong = {"max_tokens", "temperature"} & set(body)
    return httpx.Response(400, json={"error": {"message": said}}) if wrong else None


def test_a_model_that_takes_no_temperature_is_asked_without_one():
    server = FakeChat(lambda messages: messages[0]["content"], fault=particular)
    model = connect_chat(server)
    found = jopa.explain("one two three", k=1, model=model, unit="word")
    assert found.details["similarity"]["greedy"] is False
    assert [set(body) - {"model", "messages"} for body in server.asked[2:3]] == [{"max_completion_tokens"}]
    assert model.tokens_sent == found.details["server"]["tokens_sent"] + 6  # and those of the first answer
    with pytest.raises(jopa.ModelError, match="temperature"):  # sampling as asked for is not to be had
        model.generate_ids(
            [ord(letter) for letter in model.decode(model.encode_continuation("x"))], jopa.Generation(3, 0.7)
        )


def test_another_thread_may_have_found_the_way_meanwhile():
    def slow(request, number):
        if number == 2:
            other.takes_temperature = False
            other._limit_name = "max_completion_tokens"
        return particular(request, number)

    other = connect_chat(FakeChat(lambda _: "yes", fault=slow))
    assert ask(other) == "yes"


def damaged(place, value):
    def change(answer):
        *path, last = place
        inner = answer
        for step in path:
            inner = inner[step]
        inner[last] = value
        return answer

    return change


SGLANG = (0, "meta_info", "input_token_logprobs")
VLLM = ("choices", 0)


@pytest.mark.parametrize(
    ("api", "place", "value"),
    [
        ("sglang", (*SGLANG, -1), None),
        ("sglang", (*SGLANG, -1), [-1.0]),
        ("sglang", (*SGLANG, -1), {"logprob": -1.0}),
        ("sglang", (*SGLANG, -1, 1), None),
        ("vllm", (*VLLM, "prompt_logprobs", -1), [-1.0]),
        ("vllm", (*VLLM, "index"), [0]),
    ],
)
def test_entries_of_another_form_are_one_line(llama, api, place, value):
    server = FakeServer(llama, api)
    remote = connect(server)
    server.change = damaged(place, value)
    with pytest.raises(jopa.ScoringError, match="the server"):
        remote.sequence_log_probs([1, 5, 6, 7], 2)


@pytest.mark.parametrize(
    "choice",
    [
        {"token_ids": None, "logprobs": {"tokens": ["7", "8"], "token_logprobs": [-1.0, -2.0]}},
        {"token_ids": None, "logprobs": None},
        {"token_ids": [[7], 8], "logprobs": {"token_logprobs": [-1.0, -2.0]}},
        {"token_ids": 7.5, "logprobs": {"token_logprobs": [-1.0]}},
    ],
)
def test_an_answer_without_ids_is_one_line(llama, choice):
    """The text of a token is no id, though it looks like one."""
    remote = connect(FakeServer(llama))
    with pytest.raises(jopa.ScoringError, match=r"id|logprobs"):
        remote.server.read_answer({"choices": [{"index": 0, "text": "x", **choice}]})
    old = {"tokens": ["token_id:7", "token_id:8"], "token_logprobs": [-1.0, -2.0]}
    assert remote.server.read_answer({"choices": [{"index": 0, "logprobs": old}]}).ids == (7, 8)


def test_scores_of_other_weights_under_the_same_name_are_not_taken_from_the_cache(server):
    """A later checkpoint at the same address writes the same greedy answer, with other log-probabilities."""
    before, ids = server.model, [1, 5, 6, 7, 8]
    later = copy.deepcopy(before)
    with torch.no_grad():
        later.model.model.norm.weight *= 3
    assert server._generate(ids, 8)[0] == FakeServer(later, server.api)._generate(ids, 8)[0]
    first = connect(server, cache=True).sequence_log_probs(ids, 3)
    right = FakeServer(later)._prompt_log_probs(ids)[-3:]
    server.model = later
    assert connect(server, cache=True).sequence_log_probs(ids, 3) == pytest.approx(right)
    server.model = before
    asked = len(server.scored)
    assert connect(server, cache=True).sequence_log_probs(ids, 3) == first
    assert len(server.scored) == asked + 1  # the probe alone: what was scored before is still there


def test_a_server_whose_rounding_changes_a_little_keeps_its_cache(server):
    ids = [1, 5, 6, 7, 8]
    connect(server, cache=True).sequence_log_probs(ids, 3)
    right = server._prompt_log_probs
    server._prompt_log_probs = lambda ids: [value + (-1) ** place * 0.004 for place, value in enumerate(right(ids))]
    asked = len(server.scored)
    connect(server, cache=True).sequence_log_probs(ids, 3)
    assert len(server.scored) == asked + 1


def test_a_tokenizer_that_cannot_be_read_is_one_line(llama, tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 7}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(jopa.ModelError, match="cannot load the tokenizer"):
        connect(FakeServer(llama), tokenizer=tmp_path)


@pytest.mark.parametrize("shift", [5.0, -40.0])
def test_logits_are_not_taken_for_log_probabilities(llama, shift):
    """vLLM with `--logprobs-mode raw_logits` gives them as it writes and as a prompt alike."""
    server = FakeServer(llama)
    logits = server._log_softmax
    server._log_softmax = lambda ids: logits(ids) + shift
    with pytest.raises(jopa.ModelError, match=r"gives no log-probabilities.*raw_logprobs"):
        connect(server)
