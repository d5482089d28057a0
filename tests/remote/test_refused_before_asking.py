"""What a server cannot do is refused before it is asked for an answer."""

import sys

import pytest
from fake_server import FakeChat, FakeServer, connect, connect_chat

import jopa
from jopa import cli
from jopa.remote.client import checked_url

PROMPT = "the doctor and his patient"


@pytest.mark.parametrize("ask", [jopa.explain, jopa.diagnose], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("removal", ["zero", "hide"])
def test_a_removal_that_no_server_does(llama, ask, removal):
    remote = connect(FakeServer(llama))
    before = remote.client.requests
    with pytest.raises(jopa.SettingError, match="removes units by 'delete' alone"):
        ask(PROMPT, model=remote, removal=removal)
    assert remote.client.requests == before


def test_two_prompts_over_a_chat_api(monkeypatch, capsys):
    server = FakeChat(lambda _: "yes")
    chat = connect_chat(server)
    monkeypatch.setattr("jopa.remote.connecting.connect", lambda _url, **_: chat)
    words = ["explain", PROMPT, "--against", "green birds", "--endpoint", "http://fake:8000", "--api", "chat"]
    monkeypatch.setattr(sys, "argv", ["jopa", *words, "--endpoint-model", "tiny"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert "--against needs log-probabilities" in capsys.readouterr().err
    assert not server.asked


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://127.0.0.1:abc", "http://a:99999", "http://:8000", "http://a b", "ftp://a", "http://\n"],
)
def test_what_is_no_address(url):
    with pytest.raises(jopa.SettingError, match="is no server's address"):
        checked_url(url)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/chat/completions", "/v1/completions/", "/v1/models"])
def test_the_paths_of_the_api_are_no_part_of_the_address(end):
    assert checked_url("http://localhost:8000/proxy" + end) == "http://localhost:8000/proxy"


def test_half_a_character_as_an_answer():
    chat = connect_chat(FakeChat(lambda _: "yes"))
    with pytest.raises(jopa.PromptError, match="half a surrogate pair"):
        chat.encode_continuation("once \ud83d")
