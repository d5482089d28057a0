"""How an experiment puts prompts before its models: plain text, arguments of the chat template, its date, its units."""

from dataclasses import replace

import pytest

import tiny_bench
import tiny_models
from jopa import cli
from jopa.benchmark.experiment import merged, read_experiment
from jopa.benchmark.run import run_bench
from jopa.errors import SettingError
from jopa.methods import make_method
from jopa.storage import read_lines

DATED = (
    "<s>{% for m in messages %}<|user|> {% if strftime_now('%d') == '01' %}once{% else %}upon{% endif %} "
    "{% if loud is defined %}please {% endif %}{{ m['content'] }} {% endfor %}<|assistant|>"
)
FILE = """
title = "t"
ks = [1]
unit = "auto"
sentence_bert = false
max_new_tokens = 3
[[models]]
name = "tiny"
id = "somewhere"
template_args = { loud = true }
[[data]]
name = "mine"
path = "prompts.jsonl"
limit = 1
[[methods]]
name = "random"
"""


@pytest.fixture
def home(tmp_path, llama):
    return tiny_bench.save(tmp_path, llama)


@pytest.fixture
def loads(monkeypatch):
    """What the model was loaded with; its template has a date."""
    asked = []
    tokenizer = tiny_models.tokenizer.__wrapped__(True)
    tokenizer.chat_template = DATED

    def load(source, **options):
        asked.append(options)
        return replace(tiny_models.language_model("llama"), id=str(source), tokenizer=tokenizer)

    monkeypatch.setattr("jopa.benchmark.cells.load", load)
    return asked


def on_day(monkeypatch, day):
    class Clock:
        @staticmethod
        def now():
            import datetime

            return datetime.datetime(2026, 11, day)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)


def test_a_run_that_goes_on_another_day_is_refused(home, tmp_path, loads, monkeypatch):
    wanted = tiny_bench.experiment(home, [make_method("random")], limit=1)
    on_day(monkeypatch, 1)
    run_bench(wanted, tmp_path / "run")
    on_day(monkeypatch, 2)
    run_bench(wanted, tmp_path / "run")  # nothing is left to do
    with pytest.raises(SettingError, match="is not the one on record: what stands around its prompt"):
        run_bench(replace(wanted, ks=(1, 2, 3)), tmp_path / "run")
    assert len(read_lines(tmp_path / "run" / "cells.jsonl")) == 2
    on_day(monkeypatch, 1)
    assert run_bench(replace(wanted, ks=(1, 2, 3)), tmp_path / "run").done == 1


def test_template_arguments_and_plain_prompts_are_used_and_recorded(home, tmp_path, loads):
    def prompt(name, **settings):
        wanted = tiny_bench.experiment(home, [make_method("random")], limit=1)
        wanted = replace(wanted, models=tuple(replace(model, **settings) for model in wanted.models))
        run_bench(wanted, tmp_path / name)
        assert len(read_lines(tmp_path / name / "cells.jsonl")) == 2
        return tuple(read_lines(tmp_path / name / "examples.jsonl")[0]["prompt"]["ids"])

    usual, loud, plain = prompt("usual"), prompt("loud", template_args={"loud": True}), prompt("plain", plain=True)
    assert len(loud) == len(usual) + 1
    assert len(plain) < len(usual)
    assert tiny_models.VOCABULARY["<|user|>"] not in plain


def test_the_file_and_the_command_say_how_models_are_loaded_and_prompts_put(tmp_path, home, loads, monkeypatch):
    path = home / "experiment.toml"
    path.write_text(FILE)
    spec = read_experiment(path).models[0]
    assert (spec.plain, dict(spec.template_args), spec.trust_remote_code) == (False, {"loud": True}, False)
    path.write_text(FILE.replace("template_args = { loud = true }", "plain = true\ntemplate_args = { loud = true }"))
    with pytest.raises(SettingError, match="plain text cannot take template_args"):
        read_experiment(path)
    path.write_text(FILE.replace("template_args = { loud = true }", "trust_remote_code = true"))
    assert read_experiment(path).models[0].trust_remote_code
    path.write_text(FILE.replace("template_args = { loud = true }\n", ""))
    words = ["bench", str(path), "--out", str(tmp_path / "run"), "--trust-remote-code", "--template-arg", "loud=true"]
    monkeypatch.setattr("sys.argv", ["jopa", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert loads[-1]["trust_remote_code"] is True
    ids = read_lines(tmp_path / "run" / "examples.jsonl")[0]["prompt"]["ids"]
    assert ids[3] == tiny_models.VOCABULARY["please"]


def test_a_run_of_an_older_version_goes_on(home):
    wanted = tiny_bench.experiment(home, [make_method("random")]).to_dict()
    old = {**wanted, "models": [{k: v for k, v in m.items() if k != "plain"} for m in wanted["models"]]}
    assert merged(old, wanted)
    changed = {**wanted, "models": [{**m, "plain": True} for m in wanted["models"]]}
    with pytest.raises(SettingError, match="models 'tiny', plain"):
        merged(old, changed)
