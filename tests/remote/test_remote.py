"""A model behind a server against the same model here."""

import asyncio
from itertools import combinations
from typing import Any

import httpx
import pytest
import torch
from fake_server import FakeServer, connect

import jopa

PROMPT = "write a story about the doctor and his patient"


def test_log_probs_are_those_of_the_model_itself(server, llama):
    prompt = jopa.build_prompt(llama.tokenizer, PROMPT)
    output = jopa.Output(llama.encode_continuation("time there was who said"), "time there was who said", (1, 4))
    n = len(prompt.units)
    keep = torch.rand(23, n, generator=torch.Generator().manual_seed(1)) > 0.3
    keep[0] = True
    here, there = llama.scorer(prompt, output, "delete"), connect(server).scorer(prompt, output, "delete")
    assert (here.log_probs(keep).double() - there.log_probs(keep)).abs().max() < 1e-5
    assert there.n_units == n
    assert isinstance(here, jopa.TextScorer)
    assert isinstance(there, jopa.TextScorer)
    assert here.repeated_tokens() == there.repeated_tokens()


def test_ffe_is_the_tokens_sent_over_the_whole(server, llama):
    prompt = jopa.build_prompt(llama.tokenizer, PROMPT)
    output = jopa.Output(llama.encode_continuation("time there was"), "time there was", (0, 3))
    scorer = connect(server).scorer(prompt, output, "delete")
    keep = torch.ones(2, len(prompt.units), dtype=torch.bool)
    keep[1, 0] = False
    scorer.log_probs(keep)
    whole = len(prompt.ids) + 3
    assert scorer.ffe == (2 * whole - 1) / whole
    assert scorer.work.tokens == 2 * whole - 1
    assert scorer.work.evaluations == 2
    assert scorer.work.forwards == 1


@pytest.mark.parametrize(
    "settings", [{"k": 2}, {"search": jopa.SearchOptions(until_pr=0.9, max_k=3)}, {"k": 2, "target": (1, 3)}]
)
def test_an_explanation_is_that_of_the_model_itself(server, llama, settings):
    options = {"output": jopa.Generation(5), "unit": "word", **settings}
    here, there = jopa.explain(PROMPT, model=llama, **options), jopa.explain(PROMPT, model=connect(server), **options)
    for name in ("removed", "output", "output_ids", "counterfactual_output", "certificate", "target", "k"):
        assert getattr(here, name) == getattr(there, name), name
    assert there.joint == pytest.approx(here.joint, abs=1e-4)
    assert "fake:8000" in str(there.model["device"])
    assert there.details is not None
    assert there.details["server"]["tokens_sent"] > 0
    assert jopa.Attribution.from_json(there.to_json()) == there


BLACK_BOX = [name for name, kind in jopa.METHODS.items() if kind.requires == "scores" and name != "proxyspex"]


@pytest.mark.parametrize("name", BLACK_BOX)
def test_every_black_box_method_finds_what_it_finds_here(server, llama, name):
    options = {"k": 2, "method": name, "removal": "delete", "output": jopa.Generation(3)}
    options |= {"search": jopa.SearchOptions(seed=3)}
    here, there = (jopa.explain("the doctor and his", model=model, **options) for model in (llama, connect(server)))
    assert here.removed == there.removed
    assert here.evaluations == there.evaluations
    assert here.certificate == there.certificate


@pytest.mark.parametrize("name", sorted(set(jopa.METHODS) - {*BLACK_BOX, "proxyspex"}))
def test_other_methods_refuse_before_any_work(server, name):
    remote = connect(server)
    asked = len(server.bodies)
    with pytest.raises(jopa.SettingError, match=name):
        jopa.explain(PROMPT, k=1, model=remote, method=name, removal="delete", output=jopa.Generation(3))
    assert len(server.bodies) == asked


def test_other_removals_are_refused(server):
    with pytest.raises(jopa.SettingError, match="delete"):
        jopa.explain(PROMPT, k=1, model=connect(server), removal="hide", output="time there was")


def test_token_ids_are_sent_and_never_text(server):
    remote = connect(server)
    begin = len(server.bodies)
    jopa.explain(PROMPT, k=1, model=remote, output=jopa.Generation(3))
    for body in server.bodies[begin:]:
        rows = body.get("prompt") or body.get("input_ids")
        ids = [token for row in rows for token in (row if isinstance(row, list) else [row])]
        assert ids
        assert all(isinstance(token, int) for token in ids)
        assert "text" not in body


def test_stop_tokens_are_no_part_of_the_output(llama, monkeypatch):
    server = FakeServer(llama)
    remote = connect(server)
    end = llama.tokenizer.eos_token_id
    monkeypatch.setattr(server, "_generate", lambda ids, n: ([7, 8, end], [-1.0, -1.0, -1.0], True))
    assert remote.generate_ids([1, 9]) == (7, 8)


def test_rows_are_matched_by_their_numbers(llama):
    server = FakeServer(llama)
    server.change = lambda answer: {"choices": answer["choices"][::-1]}
    here = jopa.explain(PROMPT, k=2, model=llama, output=jopa.Generation(4))
    assert jopa.explain(PROMPT, k=2, model=connect(server), output=jopa.Generation(4)).removed == here.removed


def test_results_do_not_hang_on_the_order_of_arrival(llama):
    """Many small requests in flight, of which later ones overtake earlier ones."""
    server = FakeServer(llama)
    right: Any
    right, count = server.transport.handler, 0

    async def late(request):
        nonlocal count
        count += 1
        await asyncio.sleep(0.02 if count % 2 else 0.0)
        return right(request)

    prompt = jopa.build_prompt(llama.tokenizer, PROMPT)
    output = jopa.Output(llama.encode_continuation("time there was"), "time there was", (0, 3))
    keep = ~torch.eye(len(prompt.units), dtype=torch.bool)
    server.transport = httpx.MockTransport(late)
    remote = connect(server, rows_per_request=1, in_flight=8)
    there = remote.scorer(prompt, output, "delete").log_probs(keep)
    assert (llama.scorer(prompt, output, "delete").log_probs(keep).double() - there).abs().max() < 1e-5


def test_an_unknown_api_is_refused(server):
    with pytest.raises(jopa.SettingError, match="vllm, sglang"):
        connect(server, api="tgi")


def test_another_tokenizer_is_refused_naming_both(server):
    from small_tokenizers import small_tokenizer

    with pytest.raises(jopa.SettingError, match=r"PreTrainedTokenizerFast|TokenizersBackend.*'tiny'"):
        connect(server, tokenizer=small_tokenizer("byte-level"))


def test_every_pair_is_scored_for_an_optimal_certificate(server):
    found = jopa.explain("the doctor and his", k=2, model=connect(server), output=jopa.Generation(4))
    n = len(found.units)
    assert found.certificate in ("optimal", "one-swap-optimal")
    assert found.evaluations <= 1 + n + len(list(combinations(range(n), 2)))


def test_a_diagnosis_is_that_of_the_model_itself(server, llama):
    text, options = "write a story about the doctor", {"output": jopa.Generation(5), "unit": "word"}
    here, there = (jopa.diagnose(text, model=model, **options) for model in (llama, connect(server)))
    assert here.output_ids == there.output_ids
    for one, other in zip(here.table, there.table, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_methods_are_compared_on_one_output(server, llama):
    names = ["joint", "ablation"]
    for here, there in zip(
        jopa.compare(PROMPT, names, model=llama, k=2, output=jopa.Generation(4)),
        jopa.compare(PROMPT, names, model=connect(server), k=2, output=jopa.Generation(4)),
        strict=True,
    ):
        assert here.removed == there.removed
        assert here.method == there.method


def test_the_page_and_the_terminal_say_where_the_model_is(server):
    from rich.console import Console

    from jopa.reports.attribution_html import to_html
    from jopa.reports.terminal import to_terminal

    found = jopa.explain(PROMPT, k=1, model=connect(server), output=jopa.Generation(3))
    assert "fake:8000" in to_html(found)
    assert "None" not in to_html(found)
    console = Console(record=True, width=120)
    console.print(to_terminal(found))
    assert "tiny" in console.export_text()
