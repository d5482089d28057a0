"""Commands that put prompts before a model take the same options for it."""

import inspect
import json

import pytest

import tiny_models
from jopa import cli
from jopa.cli import benchmarking, detecting, explaining, serving
from jopa.model import loading
from jopa.prompt.options import PromptOptions
from jopa.web import server

PROMPT = "write a story about the doctor"


@pytest.mark.parametrize("command", [explaining.explain, benchmarking.bench, detecting.detect, serving.serve])
def test_every_command_that_loads_a_model_has_them(command):
    assert {"plain", "template_arg", "trust_remote_code"} <= set(inspect.signature(command).parameters)


def ran(monkeypatch, capsys, *words):
    monkeypatch.setattr(loading, "load", lambda *_, **__: tiny_models.language_model("llama"))
    monkeypatch.setattr("sys.argv", ["jopa", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_detect_takes_plain_prompts_and_says_so(monkeypatch, capsys):
    words = ["detect", PROMPT, "--budget", "4", "--max-new-tokens", "3", "--json", "-"]
    usual = json.loads(ran(monkeypatch, capsys, *words))
    plain = json.loads(ran(monkeypatch, capsys, *words, "--plain"))
    assert "plain" not in usual["looking"]
    assert plain["looking"]["plain"] is True
    assert plain["numbers"] != usual["numbers"]
    told = json.loads(ran(monkeypatch, capsys, *words, "--template-arg", "mood=3"))
    assert told["looking"]["template_args"] == {"mood": 3}


def test_the_page_puts_prompts_as_the_server_was_told(monkeypatch):
    told = {}
    monkeypatch.setattr(server, "serve", lambda _load, **settings: told.update(settings))
    monkeypatch.setattr("sys.argv", ["jopa", "serve", "--template-arg", "enable_thinking=false"])
    with pytest.raises(SystemExit):
        cli.main()
    assert told["options"] == PromptOptions(template_args={"enable_thinking": False})
