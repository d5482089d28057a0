"""Every command over a model behind a server, and a benchmark and the page over one."""

import json
import sys
from dataclasses import replace

import pytest
from fake_server import FakeChat, FakeServer, connect, connect_chat
from test_chat import PROMPT as STORY
from test_chat import story

import jopa
import tiny_bench
from jopa import cli
from jopa.benchmark.experiment import read_experiment
from jopa.benchmark.model_spec import ModelSpec
from jopa.benchmark.run import run_bench
from jopa.methods import make_method
from jopa.web.limits import RequestLimits
from jopa.web.models import stoppable, vocabulary_size
from jopa.web.requests import read_request
from jopa.web.server import build_app, setup
from jopa.web.work import run_request

PROMPT = "the doctor and his patient"


@pytest.fixture
def run(monkeypatch, capsys):
    def call(model, *words):
        monkeypatch.setattr("jopa.remote.connecting.connect", lambda url, **_: model)
        monkeypatch.setattr(sys, "argv", ["jopa", *words, "--endpoint", "http://fake:8000", "--endpoint-model", "tiny"])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert not exit_.value.code, captured.err
        return captured.out, captured.err

    return call


def test_explain_says_what_was_sent(run, llama):
    server = FakeServer(llama)
    remote = connect(server)
    connecting = len(server.bodies)
    out, err = run(remote, "explain", PROMPT, "--k", "1", "--max-new-tokens", "3", "--json", "-")
    assert (jopa.Attribution.from_json(out).details or {})["server"]["requests"] > 0
    sent = [len(row) for body in server.bodies[connecting:] for row in body["prompt"]]
    requests = len(server.bodies) - connecting  # those of the probe carry tokens, too, and are in neither number
    assert f"{requests} requests with {sum(sent)} tokens were sent to http://fake:8000" in err


@pytest.mark.parametrize("more", [["--k", "1"], ["--compare", "joint,ablation"], ["--diagnose", "--unit", "word"]])
def test_a_dry_run_says_the_cost_and_scores_nothing(run, llama, more):
    remote = connect(FakeServer(llama))
    sent = remote.tokens_sent
    out, _ = run(remote, "explain", PROMPT, "--dry-run", *more)
    assert out.startswith("at most ")
    assert "nothing was scored" in out
    assert remote.tokens_sent == sent


def test_a_chat_api_is_explained_and_shown(run, tmp_path):
    page = tmp_path / "page.html"
    chat = connect_chat(FakeChat(story))
    out, _ = run(chat, "explain", STORY, "--k", "2", "--json", "-", "--html", str(page))
    assert json.loads(out)["objective"] == "text-similarity"
    assert "text-similarity" in page.read_text()
    out, _ = run(connect_chat(FakeChat(story)), "explain", STORY, "--compare", "joint,greedy", "--k", "2")
    assert "text-similarity" in out
    out, _ = run(connect_chat(FakeChat(story)), "explain", STORY, "--dry-run")
    assert out.startswith("at most ")


def test_diagnose_and_detect_ask_a_server(run, llama):
    out, err = run(connect(FakeServer(llama)), "explain", PROMPT, "--diagnose", "--unit", "word", "--json", "-")
    assert json.loads(out)["kind"] == "diagnosis"
    out, err = run(
        connect(FakeServer(llama)), "detect", PROMPT, "--max-new-tokens", "3", "--budget", "4", "--json", "-"
    )
    verdict = json.loads(out)
    assert verdict["score"] is None  # the weights were not fitted to this model: an order, and no probability
    assert isinstance(verdict["order"], float)
    assert "were sent to" in err


def test_an_experiment_names_endpoints_as_it_names_models(llama, tmp_path, monkeypatch):
    home = tiny_bench.save(tmp_path, llama)
    methods = [make_method("ablation"), make_method("greedy")]
    here = tiny_bench.experiment(home, methods, limit=2)
    there = replace(here, models=(ModelSpec("tiny", "tiny", endpoint="http://fake:8000", api="vllm"),))
    asked = {}

    def fake_connect(url, **settings):
        asked.update(settings, url=url)
        return connect(FakeServer(llama))

    monkeypatch.setattr("jopa.benchmark.cells.connect", fake_connect)
    run_bench(here, tmp_path / "here")
    run_bench(there, tmp_path / "there")
    assert asked["url"] == "http://fake:8000"
    assert asked["model"] == "tiny"
    pairs = list(zip(tiny_bench.cells(tmp_path / "here"), tiny_bench.cells(tmp_path / "there"), strict=True))
    assert pairs
    for one, other in pairs:
        assert "error" not in other
        assert one["removed"] == other["removed"]
        assert one["counterfactual_output"] == other["counterfactual_output"]
        assert one["log_prob_removed"] == pytest.approx(other["log_prob_removed"], abs=1e-3)
        assert one["metrics"]["pr"] == pytest.approx(other["metrics"]["pr"], abs=1e-3)
        assert other["metrics"]["kl"] is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("endpoint = 'http://x'", "name it there as 'id'"),
        ("id = 'm'\nendpoint = 'http://x'\ndtype = 'float32'", "leave out 'dtype'"),
        ("id = 'm'\napi = 'vllm'", "needs an 'endpoint'"),
        ("id = 'm'\nendpoint = 'http://x'\napi = 'chat'", "vllm or sglang"),
    ],
)
def test_entries_that_do_not_fit_are_refused(tmp_path, entry, said):
    path = tmp_path / "x.toml"
    lines = ["title = 'x'", "ks = [1]", "[[models]]", "name = 'a'", entry, "[[data]]", "name = 'd'", "path = 'd.jsonl'"]
    path.write_text("\n".join([*lines, "[[methods]]", "name = 'joint'"]))
    with pytest.raises(jopa.SettingError, match=said):
        read_experiment(path)


def test_a_served_model_is_an_entry_of_an_experiment(tmp_path):
    path = tmp_path / "x.toml"
    entry = ["name = 'a'", "id = 'm'", "endpoint = 'http://x'", "api = 'sglang'", "tokenizer = 't'"]
    lines = ["title = 'x'", "ks = [1]", "[[models]]", *entry, "[[data]]", "name = 'd'", "path = 'd.jsonl'"]
    path.write_text("\n".join([*lines, "[[methods]]", "name = 'joint'"]))
    (model,) = read_experiment(path).models
    assert model == ModelSpec("a", "m", endpoint="http://x", api="sglang", tokenizer="t")


def test_the_page_offers_what_a_server_can_do_and_explains(llama):
    remote = connect(FakeServer(llama))
    offered = setup(remote, RequestLimits())
    assert [removal["name"] for removal in offered["removals"]] == ["delete"]
    names = {method["name"] for method in offered["methods"]}
    assert "joint" in names
    assert "jopa" not in names
    assert "fake:8000" in offered["model"]["device"]
    record = {"prompt": PROMPT, "k": 1, "max_new_tokens": 3, "budget": 10}
    request = read_request(record, RequestLimits(), vocabulary_size(remote))
    events = []
    with stoppable(remote, lambda: False, 60):
        run_request(remote, request, events.append)
    assert events[-1]["kind"] == "result"
    with stoppable(remote, lambda: True, 60), pytest.raises(jopa.StoppedError):
        run_request(connect(FakeServer(llama)), request, events.append)


def test_the_page_refuses_a_chat_api():
    with pytest.raises(jopa.SettingError, match="the page needs log-probabilities"):
        build_app(connect_chat(FakeChat(story)))
