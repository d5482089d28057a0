"""Watching and ending the work; what the page's server takes, does and refuses, without a browser."""

import base64
import json
import socket
import sys
import threading
import time
from itertools import combinations

import pytest
import torch

import jopa
from jopa.errors import StoppedError
from jopa.methods import METHODS
from jopa.problem import Best
from jopa.reports.attribution_html import parts_html, to_html
from jopa.web import server as app
from jopa.web.requests import ByHand, RequestLimits, read_request
from jopa.web.service import ExplanationService, stoppable, token_texts
from table_scorer import TableScorer, redundant_pair

PROMPT = "write a story about the doctor and his patient"
LIMITS = RequestLimits(prompt_characters=300, max_new_tokens=12, k=4, budget=30, seconds=60)


# --- watching and ending the work -----------------------------------------------------------------------------------


def test_the_whole_prompt_is_told_first_then_every_better_set_of_the_asked_size():
    scorer = TableScorer(6, redundant_pair)
    problem, told = jopa.Problem(scorer), []
    problem.watch(2, told.append)
    problem.log_probs([(3,), (0, 1, 2)])  # other sizes are not told
    problem.log_probs([(3, 4), (0, 1), (0, 3)])  # the best of several
    problem.log_probs([(0, 1), (1, 3)])  # no better one
    problem.log_probs([(5, 2)])
    assert [(best.units, best.evaluations) for best in told] == [((), 1), ((0, 1), 6), ((2, 5), 8)]
    assert [best.log_prob for best in told] == pytest.approx([-1.0, -1.5, -6.1])
    assert [best.ffe for best in told] == [1.0, 6.0, 8.0]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"captum", "reagent"}))
def test_every_method_can_be_watched(llama, name):
    told = []
    a = jopa.explain(PROMPT, k=2, model=llama, method=name, max_new_tokens=6, on_best=told.append)
    assert (told[0].units, told[0].log_prob, told[0].evaluations) == ((), a.log_prob, 1)
    assert all(len(best.units) == 2 for best in told[1:])
    scores = [best.log_prob for best in told[1:]]
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


def test_text_is_told_as_it_is_written(llama):
    told = []
    a = jopa.explain(PROMPT, k=2, model=llama, max_new_tokens=6, on_text=lambda *news: told.append(news))
    said = [text for stage, text in told if stage == "answering"]
    without = [text for stage, text in told if stage == "answering without them"]
    assert said == [llama.decode(a.output_ids[: i + 1]) for i in range(len(a.output_ids))]
    assert without[-1] == a.counterfactual_output


def hooks_of(model):
    return [[*module._forward_pre_hooks, *module._forward_hooks] for module in model.model.modules()]


@pytest.mark.parametrize("callback", ["progress", "on_best", "on_text"])
def test_ending_the_work_leaves_the_model_as_it_came(llama, callback):
    def stop(*_):
        raise StoppedError("stopped")

    before = jopa.explain(PROMPT, k=2, model=llama, max_new_tokens=6)
    hooks = hooks_of(llama)
    declared = llama.model.generation_config
    with pytest.raises(StoppedError):
        jopa.explain(PROMPT, k=2, model=llama, max_new_tokens=6, **{callback: stop})
    assert llama.model.generation_config is declared
    assert hooks_of(llama) == hooks
    after = jopa.explain(PROMPT, k=2, model=llama, max_new_tokens=6)
    assert (after.removed, after.output_ids) == (before.removed, before.output_ids)


def test_the_next_forward_ends_the_work(llama):
    stop = threading.Event()
    with pytest.raises(StoppedError, match=r"^stopped$"), stoppable(llama, stop, 60):
        llama.model(input_ids=torch.tensor([[3, 4]]))
        stop.set()
        llama.model(input_ids=torch.tensor([[3, 4]]))
    with (
        pytest.raises(StoppedError, match=r"after 0 seconds, this page's limit"),
        stoppable(llama, threading.Event(), 0),
    ):
        llama.model(input_ids=torch.tensor([[3, 4]]))
    assert not llama.model._forward_pre_hooks


# --- what may be asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  \n "}, "the prompt is empty"),
        ({"prompt": None}, "the prompt is empty"),
        ({"prompt": "x" * 20_000}, r"20,000 characters and this page takes at most 300"),
        ({"k": 0}, "k must be a whole number from 1 to 4"),
        ({"k": 2.0}, "k must be a whole number from 1 to 4"),
        ({"k": True}, "k must be a whole number from 1 to 4"),
        ({"max_new_tokens": 13}, "max_new_tokens must be a whole number from 1 to 12"),
        ({"budget": 31}, "budget must be a whole number from 1 to 30"),
        ({"unit": "../../etc/passwd"}, "unit must be one of token"),
        ({"removal": ["delete"]}, "removal must be one of delete"),
        ({"methods": ["no-such"]}, "unknown method 'no-such'"),
        ({"methods": ["greedy", "greedy"]}, "two different ones"),
        ({"methods": "greedy"}, "list of names"),
        ({"output_ids": [3, 38, 39]}, "token ids below 39"),
        ({"output_ids": []}, "1 to 12 token ids"),
        ({"output_ids": [-1]}, "list of whole numbers"),
        ({"target": [3, 3]}, "must begin before it ends"),
        ({"units": []}, "no unit is taken out"),
        ({"units": ["1"]}, "list of whole numbers"),
    ],
)
def test_a_request_out_of_range_is_refused_with_its_value_or_its_range(change, message):
    with pytest.raises(jopa.JopaError, match=message):
        read_request({"prompt": "a b", **change}, LIMITS, vocabulary=39)


def test_what_is_left_out_has_a_default():
    asked = read_request({"prompt": "a b"}, RequestLimits(), vocabulary=39)
    assert (asked.k, asked.unit, asked.removal, asked.output_ids, asked.target) == (3, "token", None, None, None)
    assert asked.methods[0].name == "joint"
    budgeted = read_request({"prompt": "a", "methods": ["jopa", "ablation"], "budget": 7}, LIMITS, 39)
    assert budgeted.methods[0] == METHODS["jopa"]().with_budget(7)
    assert budgeted.methods[1] == METHODS["ablation"]()  # its cost is fixed, so the budget is the other's


# --- the work -------------------------------------------------------------------------------------------------------


def events(service: ExplanationService, **request):
    found = []
    for batch in service.events({"prompt": PROMPT, "unit": "word", "max_new_tokens": 8, "k": 2, **request}):
        assert batch["first"] == len(found)
        found += batch["events"]
    return json.loads(json.dumps(found))


def test_a_request_is_told_from_the_prompt_to_the_result(llama):
    told = events(ExplanationService(llama, LIMITS), methods=["jopa"])
    kinds = [event["kind"] for event in told]
    assert kinds[0] == "prompt"
    assert kinds[-1] == "result"
    assert {"answer", "text", "best", "progress"} <= set(kinds)
    a = jopa.explain(PROMPT, k=2, model=llama, unit="word", max_new_tokens=8, method="jopa")
    result = told[-1]
    assert tuple(result["results"][0]["removed"]) == a.removed
    assert "".join(piece["text"] for piece in told[0]["pieces"]) == PROMPT
    answered = next(event for event in told if event["kind"] == "answer")
    assert (tuple(answered["ids"]), "".join(answered["tokens"])) == (a.output_ids, a.output)
    back = jopa.attribution.Attribution.from_json(result["json"])
    assert (back.removed, back.output_ids) == (a.removed, a.output_ids)
    assert result["results"][0]["parts"] == parts_html(back)
    assert result["html"] == to_html(back)


def test_units_taken_out_by_hand_are_scored_like_any_answer(llama):
    service = ExplanationService(llama, LIMITS)
    whole = events(service)
    ids = next(event for event in whole if event["kind"] == "answer")["ids"]
    told = events(service, units=[5, 1], output_ids=ids, target=[2, 6])
    assert told[-1]["kind"] == "result", told[-1]
    assert "answering" not in {event.get("stage") for event in told}
    a = jopa.Attribution.from_json(told[-1]["json"])
    assert (set(a.removed), a.target, a.method["name"]) == ({1, 5}, (2, 6), "by-hand")
    output = jopa.Output(tuple(ids), llama.decode(ids), (2, 6))
    prompt = jopa.build_prompt(llama.tokenizer, PROMPT, unit="word")
    problem = jopa.Problem(jopa.ModelScorer(llama, prompt, output, "delete"))
    assert a.log_prob_removed == pytest.approx(problem.log_prob([1, 5]), abs=1e-4)


def test_two_methods_are_compared_on_the_same_output(llama):
    told = events(ExplanationService(llama, LIMITS), methods=["greedy", "ablation"])
    assert [result["method"] for result in told[-1]["results"]] == ["greedy", "ablation"]
    assert "★" in told[-1]["table"]
    record = json.loads(told[-1]["json"])["comparison"]
    assert record[0]["output"] == record[1]["output"]
    assert {event["method"] for event in told if event["kind"] == "best"} == {0, 1}


def test_of_two_methods_one_may_refuse(llama):
    long = {"prompt": "one two three four five six seven eight nine ten " * 4, "k": 4}
    told = events(ExplanationService(llama, LIMITS), methods=["exhaustive", "ablation"], **long)
    assert [result["method"] for result in told[-1]["results"]] == ["ablation"]
    (line,) = told[-1]["refused"]
    assert line.startswith("exhaustive: C(40, 4) = 91,390 sets are more than the limit")
    assert jopa.Attribution.from_json(told[-1]["json"]).method["name"] == "ablation"
    assert {event["method"] for event in told if event["kind"] == "best" and event["units"]} == {1}
    alone = events(ExplanationService(llama, LIMITS), methods=["exhaustive"], **long)[-1]
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
def test_an_error_leaves_the_desk_well(llama, request_, message):
    service = ExplanationService(llama, LIMITS)
    failed = events(service, **request_)[-1]
    assert failed["kind"] == "error"
    assert message in failed["message"]
    assert events(service)[-1]["kind"] == "result"


def test_a_fault_of_ours_is_one_line_for_the_visitor(llama, monkeypatch, capsys):
    def broken(*_, **__):
        raise ZeroDivisionError("secret details")

    monkeypatch.setattr("jopa.web.service.prepare", broken)
    last = events(ExplanationService(llama, LIMITS))[-1]
    assert last == {"kind": "error", "message": "unexpected ZeroDivisionError; the server's log says more"}
    assert "secret details" in capsys.readouterr().err


def test_who_goes_away_stops_the_model(llama):
    forwards = []

    def slow(*_):
        forwards.append(time.monotonic())
        time.sleep(0.02)

    hook = llama.model.register_forward_pre_hook(slow)
    try:
        service = ExplanationService(llama, LIMITS)
        told = service.events({"prompt": PROMPT, "methods": ["shapley"], "max_new_tokens": 12, "k": 2})
        next(told)
        told.close()
        with service._model_in_use:  # free once the worker has stopped
            left = time.monotonic()
        time.sleep(0.1)
        assert max(forwards) <= left
        assert len(forwards) < 40
    finally:
        hook.remove()
    assert not llama.model._forward_pre_hooks
    assert events(service)[-1]["kind"] == "result"


def test_tokens_of_one_character_show_it_once():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode("utf-8", errors="replace")

    text = "é→😀a"
    ids = tuple(text.encode())
    texts = token_texts(Bytes(), jopa.Output(ids, text, (0, len(ids))))
    assert "".join(texts) == text
    assert [part for part in texts if part] == ["é", "→", "😀", "a"]


def test_by_hand_refuses_what_is_no_unit():
    problem = jopa.Problem(TableScorer(6, redundant_pair))
    with pytest.raises(jopa.SettingError, match="units 0 to 5"):
        ByHand((6,)).run(problem, 1)
    assert ByHand((2, 5)).run(problem, 2).removed == (2, 5)


# --- who is let in --------------------------------------------------------------------------------------------------


def client(model, **settings):
    from starlette.testclient import TestClient

    return TestClient(app.build_app(model, limits=LIMITS, **settings), base_url="http://127.0.0.1:7860")


@pytest.fixture(scope="module")
def visitor(llama):
    return client(llama)


@pytest.mark.parametrize(
    "path",
    [
        *("/queue/", "/queue/config", "/queue/gradio_api/info", "/queue/gradio_api/file=/etc/passwd", "/docs"),
        *("/queue/gradio_api/upload", "/openapi.json", "/app.py", "/../app.py", "/..%2fapp.py", "/page.js/"),
        *("/queue/gradio_api/proxy=http://example.org", "/queue/monitoring", "/queue/theme.css", "/login"),
    ],
)
def test_nothing_but_the_page_and_its_queue_is_reached(visitor, path):
    assert visitor.get(path, follow_redirects=False).status_code == 404
    assert visitor.post(path, json={}).status_code == 404


def test_the_page_and_its_parts_load_nothing_from_elsewhere(visitor):
    page = visitor.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in app.STATIC:
        part = visitor.get(f"/{name}")
        assert part.status_code == 200
        assert "http" not in part.text.replace("http://www.w3.org/2000/svg", "").replace("HTTPS", ""), name


def test_other_sites_and_other_names_are_refused(visitor):
    assert visitor.get("/", headers={"host": "evil.example"}).status_code == 403
    assert visitor.get("/", headers={"host": "localhost:7860"}).status_code == 200
    assert visitor.get("/", headers={"origin": "http://evil.example"}).status_code == 403
    assert visitor.get("/", headers={"origin": "null"}).status_code == 403
    assert visitor.get("/", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200


def test_a_long_request_is_refused_unread(visitor):
    join = "/queue/gradio_api/queue/join"
    assert visitor.post(join, content=b"x" * 200_001).status_code == 413
    assert visitor.post(join, content=iter([b"x"])).status_code == 411


def test_a_password_guards_everything(llama):
    guarded = client(llama, password="geheim: ä", host_names=None)

    def status(password: str) -> int:
        value = base64.b64encode(f"anybody:{password}".encode()).decode()
        return guarded.get("/", headers={"authorization": f"Basic {value}"}).status_code

    assert guarded.get("/").status_code == 401
    assert guarded.get("/page.js").status_code == 401
    assert guarded.post("/queue/gradio_api/queue/join", json={}).status_code == 401
    assert guarded.get("/", headers={"authorization": "Basic %%%"}).status_code == 401
    assert (status("geheim: ä"), status("geheim"), status("")) == (200, 401, 401)


def test_setup_cannot_leave_its_place_in_the_page(llama):
    strange = jopa.LanguageModel(llama.model, llama.tokenizer, "</script><img src=x onerror=alert(1)>")
    page = client(strange).get("/").text
    assert "<img" not in page
    inside = page.partition('id="setup">')[2].partition("</script>")[0]
    assert json.loads(inside)["model"]["id"] == strange.id


def test_an_address_others_can_reach_needs_a_password_or_a_word():
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(jopa.SettingError, match="--share-password"):
            app.serve(lambda: pytest.fail("loaded"), host=host)
    with pytest.raises(jopa.SettingError, match="password is empty"):
        app.serve(lambda: pytest.fail("loaded"), password="")


def test_a_taken_port_is_one_line_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(jopa.SettingError, match=rf"^cannot listen on 127.0.0.1, port {port}: .+; choose another"):
            app.serve(lambda: pytest.fail("loaded"), port=port)


def test_a_missing_gradio_says_what_brings_it(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(jopa.SettingError, match=r'pip install "jopa\[web\]"'):
        app.build_app(llama)


def test_the_best_that_is_told_is_the_best_there_is():
    told = []
    problem = jopa.Problem(TableScorer(6, redundant_pair))
    problem.watch(2, told.append)
    for pair in combinations(range(6), 2):
        problem.log_prob(pair)
    assert told[-1].units == (2, 5)
