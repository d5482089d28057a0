"""Watching and ending the work, and the events of a request, without a server."""

import json
import threading
import time
from functools import partial
from itertools import combinations
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import jopa
from jopa.errors import StoppedError
from jopa.methods import METHODS
from jopa.problem import Best
from jopa.prompt.continuation import decoded
from jopa.reports.attribution_html import parts_html, to_html
from jopa.scoring.protocols import Model
from jopa.web.jobs import FINAL_KINDS
from jopa.web.limits import RequestLimits
from jopa.web.models import stoppable
from jopa.web.requests import read_request
from jopa.web.results import token_texts
from jopa.web.service import ExplanationService
from jopa.web.work import run_request
from small_tokenizers import small_tokenizer
from table_scorer import TableScorer, redundant_pair

PROMPT = "write a story about the doctor and his patient"
LIMITS = RequestLimits(characters=300, max_new_tokens=12, k=4, budget=30, seconds=60)


# --- watching and ending the work -----------------------------------------------------------------------------------


def test_the_whole_prompt_is_reported_first_then_every_better_set_of_the_requested_size():
    scorer = TableScorer(6, redundant_pair)
    problem, seen = jopa.Problem(scorer), []
    problem.watch(2, seen.append)
    problem.log_probs([(3,), (0, 1, 2)])  # other sizes are not reported
    problem.log_probs([(3, 4), (0, 1), (0, 3)])  # the best of several
    problem.log_probs([(0, 1), (1, 3)])  # no better one
    problem.log_probs([(5, 2)])
    assert [(best.units, best.evaluations) for best in seen] == [((), 1), ((0, 1), 6), ((2, 5), 8)]
    assert [best.log_prob for best in seen] == pytest.approx([-1.0, -1.5, -6.1])
    assert [best.ffe for best in seen] == [1.0, 6.0, 8.0]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"captum", "reagent", "proxyspex"}))
def test_every_method_can_be_watched(llama, name):
    seen = []
    a = jopa.explain(
        PROMPT, k=2, model=llama, method=name, output=jopa.Generation(6), callbacks=jopa.Callbacks(on_best=seen.append)
    )
    assert (seen[0].units, seen[0].log_prob, seen[0].evaluations) == ((), a.log_prob, 1)
    assert all(len(best.units) == 2 for best in seen[1:])
    scores = [best.log_prob for best in seen[1:]]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] <= a.log_prob_removed + 1e-6


def test_what_a_watcher_raises_ends_the_search():
    scorer = TableScorer(12, redundant_pair)
    problem = jopa.Problem(scorer)

    def stop_at_a_pair(best: Best) -> None:
        if best.units:
            raise StoppedError("stopped")

    problem.watch(2, stop_at_a_pair)
    with pytest.raises(StoppedError):
        jopa.make_method("greedy").run(problem, 2)
    assert len(scorer.asked) < 1 + 12 + 11 + 1


def test_text_is_reported_as_it_is_written(llama):
    seen = []
    callbacks = jopa.Callbacks(on_text=lambda *news: seen.append(news))
    a = jopa.explain(PROMPT, k=2, model=llama, output=jopa.Generation(6), callbacks=callbacks)
    said = [text for stage, text in seen if stage == "answering"]
    without = [text for stage, text in seen if stage == "answering without them"]
    assert said == [llama.decode(a.output_ids[: i + 1]) for i in range(len(a.output_ids))]
    assert without[-1] == a.counterfactual_output


def hooks_of(model):
    return [[*module._forward_pre_hooks, *module._forward_hooks] for module in model.model.modules()]


@pytest.mark.parametrize("callback", ["progress", "on_best", "on_text"])
def test_ending_the_work_leaves_the_model_as_it_came(llama, callback):
    def stop(*_):
        raise StoppedError("stopped")

    before = jopa.explain(PROMPT, k=2, model=llama, output=jopa.Generation(6))
    hooks = hooks_of(llama)
    declared = llama.model.generation_config
    with pytest.raises(StoppedError):
        jopa.explain(PROMPT, k=2, model=llama, output=jopa.Generation(6), callbacks=jopa.Callbacks(**{callback: stop}))
    assert llama.model.generation_config is declared
    assert hooks_of(llama) == hooks
    after = jopa.explain(PROMPT, k=2, model=llama, output=jopa.Generation(6))
    assert (after.removed, after.output_ids) == (before.removed, before.output_ids)


def test_the_next_forward_ends_the_work(llama):
    stop = threading.Event()
    with pytest.raises(StoppedError, match=r"^stopped$"), stoppable(llama, stop.is_set, 60):
        llama.model(input_ids=torch.tensor([[3, 4]]))
        stop.set()
        llama.model(input_ids=torch.tensor([[3, 4]]))
    with (
        pytest.raises(StoppedError, match=r"after 0 seconds, this page's limit"),
        stoppable(llama, lambda: False, 0),
    ):
        llama.model(input_ids=torch.tensor([[3, 4]]))
    assert not llama.model._forward_pre_hooks


def test_who_ends_a_probe_teaches_it_nothing(llama):
    fresh = jopa.LanguageModel(llama.model, llama.tokenizer, "fresh")
    with pytest.raises(StoppedError), stoppable(fresh, lambda: True, 60):
        fresh.require_removal("hide", 12)
    fresh.require_removal("hide", 12)


@pytest.mark.parametrize(("name", "refused"), [("grad-x-input", True), ("attention", True), ("ablation", False)])
def test_methods_that_keep_much_memory_take_fewer_tokens(llama, name, refused):
    limits = RequestLimits(gradient_tokens=10)
    record = {"prompt": PROMPT, "methods": [name], "k": 1, "max_new_tokens": 4}
    events = []
    arguments = (llama, read_request(record, limits, 40), events.append, limits)
    if refused:
        with pytest.raises(jopa.SettingError, match=f"takes at most 10 with the method '{name}'"):
            run_request(*arguments)
        assert not events
    else:
        run_request(*arguments)
        assert events[-1]["kind"] == "result"


# --- the work -------------------------------------------------------------------------------------------------------


@pytest.fixture(name="service")
def running_service(llama):
    service = ExplanationService(llama, LIMITS)
    yield service
    service.jobs.close()


def submit(service, **request):
    return service.submit({"prompt": PROMPT, "unit": "word", "max_new_tokens": 8, "k": 2, **request}, "visitor")


def events(service, **request):
    job, found = submit(service, **request), []
    deadline = time.monotonic() + 60
    while not found or found[-1]["kind"] not in FINAL_KINDS:
        assert time.monotonic() < deadline
        found += job.read()
        time.sleep(0.005)
    service.jobs.end(job)
    return json.loads(json.dumps(found))


def test_a_request_is_answered_from_the_prompt_to_the_result(llama, service):
    found = events(service, methods=["jopa"])
    kinds = [event["kind"] for event in found]
    assert kinds[0] == "prompt"
    assert kinds[-1] == "result"
    assert {"answer", "text", "best", "progress"} <= set(kinds)
    a = jopa.explain(PROMPT, k=2, model=llama, unit="word", output=jopa.Generation(8), method="jopa")
    result = found[-1]
    assert tuple(result["results"][0]["removed"]) == a.removed
    assert "".join(piece["text"] for piece in found[0]["pieces"]) == PROMPT
    answered = next(event for event in found if event["kind"] == "answer")
    assert (tuple(answered["ids"]), "".join(answered["tokens"])) == (a.output_ids, a.output)
    back = jopa.Attribution.from_json(result["json"])
    assert (back.removed, back.output_ids) == (a.removed, a.output_ids)
    assert result["results"][0]["parts"] == parts_html(back)
    assert result["html"] == to_html(back)


def test_units_taken_out_by_hand_are_scored_like_any_answer(llama, service):
    whole = events(service)
    ids = next(event for event in whole if event["kind"] == "answer")["ids"]
    found = events(service, units=[5, 1], output_ids=ids, target=[2, 6])
    assert found[-1]["kind"] == "result", found[-1]
    assert "answering" not in {event.get("stage") for event in found}
    a = jopa.Attribution.from_json(found[-1]["json"])
    assert (set(a.removed), a.target, a.method["name"]) == ({1, 5}, (2, 6), "by-hand")
    output = jopa.Output(tuple(ids), llama.decode(ids), (2, 6))
    prompt = jopa.build_prompt(llama.tokenizer, PROMPT, unit="word")
    problem = jopa.Problem(jopa.ModelScorer(llama, prompt, output, "delete"))
    assert a.log_prob_removed == pytest.approx(problem.log_prob([1, 5]), abs=1e-4)


def test_two_methods_are_compared_on_the_same_output(service):
    found = events(service, methods=["greedy", "ablation"])
    assert [result["method"] for result in found[-1]["results"]] == ["greedy", "ablation"]
    assert "★" in found[-1]["table"]
    record = json.loads(found[-1]["json"])["comparison"]
    assert record[0]["output"] == record[1]["output"]
    assert {event["method"] for event in found if event["kind"] == "best"} == {0, 1}


def test_of_two_methods_one_may_refuse(service):
    long = {"prompt": "one two three four five six seven eight nine ten " * 4, "k": 4}
    found = events(service, methods=["exhaustive", "ablation"], **long)
    assert [result["method"] for result in found[-1]["results"]] == ["ablation"]
    (line,) = found[-1]["refused"]
    assert line.startswith("exhaustive: C(40, 4) = 91,390 sets are more than the limit")
    assert jopa.Attribution.from_json(found[-1]["json"]).method["name"] == "ablation"
    assert {event["method"] for event in found if event["kind"] == "best" and event["units"]} == {1}
    alone = events(service, methods=["exhaustive"], **long)[-1]
    assert (alone["kind"], alone["message"]) == ("error", line.removeprefix("exhaustive: "))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"k": 4, "prompt": "a b"}, "between 1 and the prompt's 2 units"),
        ({"units": [99]}, "the prompt has the units 0 to 8"),
        ({"target": [7, 30]}, "the target must lie within the output's 8 tokens"),
        ({"prompt": "a \ud800"}, "half a surrogate pair"),
        ({"prompt": "a " * 140}, "more than the model's context"),
    ],
)
def test_the_service_is_well_after_an_error(service, request_, message):
    failed = events(service, **request_)[-1]
    assert failed["kind"] == "error"
    assert message in failed["message"]
    assert events(service)[-1]["kind"] == "result"


def test_a_fault_of_ours_is_one_line_for_the_visitor(service, monkeypatch, capsys):
    def broken(*_, **__):
        raise ZeroDivisionError("secret details")

    monkeypatch.setattr("jopa.web.work.planned", broken)
    last = events(service)[-1]
    assert last == {"kind": "error", "message": "unexpected ZeroDivisionError; the server's log says more"}
    assert "secret details" in capsys.readouterr().err


@pytest.mark.parametrize(("broken_work", "last"), [(False, "result"), (True, "error")])
def test_the_page_goes_on_where_memory_cannot_be_given_back(service, monkeypatch, capsys, broken_work, last):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with monkeypatch.context() as patched:
        patched.setattr("jopa.web.service.release_memory", broken)
        if broken_work:
            patched.setattr("jopa.web.work.planned", broken)
        assert events(service)[-1]["kind"] == last
        deadline = time.monotonic() + 60
        while service.jobs._at_work is not None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert "device-side assert" in capsys.readouterr().err
    assert events(service)[-1]["kind"] == "result"


def test_who_goes_away_stops_the_model(llama, service):
    forwards = []

    def slow(*_):
        forwards.append(time.monotonic())
        time.sleep(0.02)

    hook = llama.model.register_forward_pre_hook(slow)
    try:
        job = submit(service, methods=["shapley"])
        deadline = time.monotonic() + 60
        while not forwards:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        service.jobs.end(job)
        while service.jobs._at_work is not None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        left = time.monotonic()
        time.sleep(0.1)
        assert max(forwards) <= left
        assert len(forwards) < 40
    finally:
        hook.remove()
    assert not llama.model._forward_pre_hooks
    assert events(service)[-1]["kind"] == "result"


def test_tokens_of_one_character_show_it_once():
    class Bytes(Any):
        def decode(self, ids):
            return bytes(ids).decode("utf-8", errors="replace")

    text = "é→😀a"
    ids = tuple(text.encode())
    texts = token_texts(cast(Model, Bytes()), jopa.Output(ids, text, (0, len(ids))))
    assert "".join(texts) == text
    assert [part for part in texts if part] == ["é", "→", "😀", "a"]


@pytest.mark.parametrize("kind", ["sentencepiece-bpe", "sentencepiece-legacy", "sentencepiece-unigram"])
def test_characters_of_byte_tokens_in_a_row_are_shown_each_with_its_last_token(kind):
    tokenizer = small_tokenizer(kind)
    model = cast(Model, SimpleNamespace(decode=partial(decoded, tokenizer)))
    ids = tuple(tokenizer.encode("the doctor \u0130\u0935\u16a0 said", add_special_tokens=False))
    text = model.decode(ids)
    texts = token_texts(model, jopa.Output(ids, text, (0, len(ids))))
    assert "".join(texts) == text
    for i, char in enumerate("\u0130\u0935\u16a0"):
        token = next(number for number, part in enumerate(texts) if char in part)
        assert model.decode(ids[: token + 1]).endswith("\u0130\u0935\u16a0"[: i + 1])
        assert not model.decode(ids[:token]).endswith(char)


def test_the_best_that_is_reported_is_the_best_there_is():
    seen = []
    problem = jopa.Problem(TableScorer(6, redundant_pair))
    problem.watch(2, seen.append)
    for pair in combinations(range(6), 2):
        problem.log_prob(pair)
    assert seen[-1].units == (2, 5)
