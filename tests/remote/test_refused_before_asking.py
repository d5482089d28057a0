"""What a server cannot do is refused before it is asked for an answer."""

import sys

import pytest
from fake_server import FakeChat, FakeServer, connect, connect_chat

import jopa
from jopa import cli

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
