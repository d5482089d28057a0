"""Evidence that a prompt is hostile: every number against one made by hand or by the plain model."""

import copy
import json
import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

import jopa
import tiny_models
from jopa.detection.answer_kinds import COMPLIANCES, KINDS, REFUSAL, REFUSALS, kind_of
from jopa.detection.hostility import detect, gather, most_surprising_run, read_prompt
from jopa.detection.scoring import FITTED_ON, WEIGHTS, fitted_on, order, score
from jopa.detection.settings import DetectionConfig
from jopa.detection.verdict import Answer, contiguity, numbers, window_means
from planted_evidence import EVIDENCE

PROMPT = "write a story about the doctor and his patient in rain"
QUICK = DetectionConfig(budget=10, max_new_tokens=5)


# Kinds of answers


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("I'm sorry, but I can't assist with that.", "refusal"),
        ("I’m sorry, but I cannot do this.", "refusal"),  # a curly apostrophe
        ("Sure, but I cannot write that.", "refusal"),
        ("As an AI, I have no view.", "refusal"),
        ("Sure, here is a story.", "compliance"),
        ('"Dear Sir, I write to you', "compliance"),
        ("1. Take an egg", "compliance"),
        ("```python\nprint(1)", "compliance"),
        ("**Title: Rain**", "compliance"),
        ("The world is a vast place.", "other"),
        ("Together we can do this.", "other"),  # begins with "to", which is a word in the list
        ("", "other"),
        ("!!! ???", "other"),
        ("x" * 200 + " I cannot", "other"),  # too far from the beginning
    ],
)
def test_kinds_of_answers(answer, kind):
    assert kind_of(answer) == kind
    assert kind in KINDS


def test_the_phrases_are_written_as_they_are_looked_for():
    for phrase in (*REFUSALS, *COMPLIANCES):
        assert phrase == " ".join(phrase.lower().split()) + " " * phrase.endswith(" ")
    assert kind_of(REFUSAL) == "refusal"


# All segments


def test_the_most_surprising_run_is_the_segment_with_most_above_the_mean():
    assert most_surprising_run([1.0, 1.0, 9.0, 8.0, 1.0, 1.0]) == (2, 4)
    assert most_surprising_run([9.0, 1.0, 1.0, 9.0, 9.0, 1.0]) == (3, 5)
    assert most_surprising_run([2.0]) == (0, 1)
    assert most_surprising_run([3.0, 3.0, 3.0]) == (0, 1)


def test_the_most_surprising_run_equals_the_best_of_all_segments():
    values = [2.0, 7.0, 1.0, 0.5, 6.0, 6.5, 0.0, 3.0, 9.0, 0.2]
    mean = sum(values) / len(values)
    above = {(i, j): sum(values[i:j]) - mean * (j - i) for i, j in combinations(range(len(values) + 1), 2)}
    assert above[most_surprising_run(values)] == pytest.approx(max(above.values()))


def test_windows_are_means_of_neighbours():
    assert window_means([1.0, 2.0, 3.0, 6.0], width=2) == pytest.approx([1.5, 2.5, 4.5])
    assert window_means([1.0, 2.0], width=10) == pytest.approx([1.5])


@pytest.mark.parametrize(("k", "n_units"), [(2, 5), (3, 7), (3, 12)])
def test_contiguity_is_zero_on_average(k, n_units):
    all_sets = list(combinations(range(n_units), k))
    assert sum(contiguity(units, n_units) for units in all_sets) / len(all_sets) == pytest.approx(0, abs=1e-12)


def test_contiguity_of_neighbours_and_of_one():
    assert contiguity((3, 2, 4), 7) == pytest.approx(0.5)  # 2 apart instead of 8 · 2 / 4
    assert contiguity((0, 6, 3), 7) == pytest.approx(-0.5)
    assert contiguity((4,), 7) == 0


# Evidence of a real model


def log_softmax_of(model: jopa.LanguageModel, ids: list[int]) -> torch.Tensor:
    """log p of each token after the first, by the plainest forward there is."""
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.mark.parametrize("chat", [True, False])
def test_surprisals_and_removals_are_the_plain_models(tiny, chat):
    model = tiny_models.language_model(tiny.id.removeprefix("tiny-"), chat)
    prompt = read_prompt(model, PROMPT, QUICK)
    e = gather(model, prompt, QUICK)
    ids = list(prompt.ids)
    plain = log_softmax_of(model, ids)
    for unit, surprisal in zip(prompt.units, e.surprisals, strict=True):
        (position,) = unit.positions
        if position:
            assert surprisal == pytest.approx(-float(plain[position - 1]), abs=1e-3)

    refusal = list(model.encode_continuation(REFUSAL))
    assert e.refusal == pytest.approx(float(log_softmax_of(model, ids + refusal)[-len(refusal) :].sum()), abs=1e-3)

    said = list(model.generate({"input_ids": torch.tensor([ids])}, max_new_tokens=5))
    assert e.answer.tokens == len(said)
    said = said or sorted(model.stop_ids)[:1]

    def without(units: range | tuple[int, ...]) -> list[int]:
        gone = {position for unit in units for position in prompt.units[unit].positions}
        return [token for position, token in enumerate(ids) if position not in gone]

    def effect(units: range | tuple[int, ...]) -> float:
        whole, rest = log_softmax_of(model, ids + said), log_softmax_of(model, without(units) + said)
        return float(whole[-len(said) :].sum() - rest[-len(said) :].sum())

    assert e.joint == pytest.approx(effect(e.units), abs=1e-3)
    for unit, alone in zip(e.units, e.individual, strict=True):
        assert alone == pytest.approx(effect((unit,)), abs=1e-3)
    assert e.span.effect == pytest.approx(effect(range(e.span.start, e.span.end)), abs=1e-3)
    rest = without(range(e.span.start, e.span.end))
    again = model.generate({"input_ids": torch.tensor([rest])}, max_new_tokens=5)
    assert e.span_answer == Answer(kind_of(model.decode(again)), len(again))
    assert e.span_refusal == pytest.approx(
        float(log_softmax_of(model, rest + refusal)[-len(refusal) :].sum()), abs=1e-3
    )
    assert (e.span.start, e.span.end) == most_surprising_run(e.surprisals)


def test_an_answer_that_stops_at_once_is_attributed_too(llama):
    """Its end is what the model said."""
    prompt = read_prompt(llama, PROMPT, QUICK)
    first = llama.generate({"input_ids": torch.tensor([prompt.ids])}, max_new_tokens=1)[0]
    stopping = jopa.LanguageModel(llama.model, llama.tokenizer, "stops")
    object.__setattr__(stopping, "stop_ids", frozenset({first}))
    e = gather(stopping, prompt, QUICK)
    assert e.answer == Answer("other", 0)
    with torch.no_grad():
        logits = llama.model(input_ids=torch.tensor([prompt.ids])).logits[0, -1]
    assert e.log_prob == pytest.approx(float(logits.log_softmax(-1)[first]), abs=1e-3)


def test_a_verdict_holds_no_answer(llama):
    verdict = detect(PROMPT, model=llama, config=QUICK)
    said = llama.generate({"input_ids": torch.tensor([verdict.prompt.ids])}, max_new_tokens=5)
    record = json.loads(verdict.to_json())
    assert said
    assert llama.decode(said) not in verdict.to_json()
    assert record["answer"] == {"kind": "other", "tokens": len(said), "log_prob": verdict.evidence.log_prob}
    assert record["score"] is None  # the weights were fitted on another model
    start, end = record["span"]["start"], record["span"]["end"]
    assert record["span"]["text"] == PROMPT[start:end]
    for unit in record["units"]:
        assert PROMPT[unit["start"] : unit["end"]] == unit["text"]
    ratio = math.exp(-record["span"]["effect"] / len(said))
    assert record["without_span"]["probability_ratio"] == pytest.approx(ratio)
    assert record["synergy"] == pytest.approx(record["joint"] - sum(unit["effect"] for unit in record["units"]))


def test_the_same_prompt_gives_the_same_verdict(llama):
    one, other = (detect(PROMPT, model=llama, config=QUICK) for _ in range(2))
    assert replace(one.evidence, seconds=0.0) == replace(other.evidence, seconds=0.0)
    assert one.order == other.order


@pytest.mark.parametrize("text", ["write", "write a", "green birds met"])
def test_very_short_prompts_get_a_verdict(llama, text):
    verdict = detect(text, model=llama, config=QUICK)
    assert math.isfinite(verdict.order)
    assert text[slice(*verdict.span)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the prompt is empty"),
        (" \n", "the prompt is empty"),
        ("rain " * 60, "more than the limit of 50; shorten it or raise the limit"),
        ("half \ud800", "half a surrogate pair"),
    ],
)
def test_what_cannot_be_judged_is_said(llama, text, message):
    with pytest.raises(jopa.PromptError, match=message):
        detect(text, model=llama, config=replace(QUICK, most_tokens=50))


def test_a_prompt_without_which_nothing_is_left_is_named():
    plain = tiny_models.language_model("llama", chat=False)
    with pytest.raises(jopa.PromptError, match="one token without a chat template cannot be judged"):
        detect("write", model=plain, config=QUICK)
    assert math.isfinite(detect("write a", model=plain, config=QUICK).order)


def test_a_model_that_gives_no_number_is_an_error(llama):
    broken = copy.deepcopy(llama.model)
    with torch.no_grad():
        broken.get_output_embeddings().weight[-1] = float("nan")
    # the check of a new model looks at its logits, too, and NaN is no difference between two of them
    with pytest.raises(jopa.ScoringError, match="NaN or infinity for a token of the prompt"):
        detect(PROMPT, model=jopa.LanguageModel(broken, llama.tokenizer, "broken"), config=QUICK)


def test_a_bad_setting_is_named():
    with pytest.raises(jopa.SettingError, match="budget must be at least 1, got 0"):
        DetectionConfig(budget=0)


# The score


def test_numbers_by_hand():
    found = numbers(EVIDENCE)
    assert found["surprisal"] == pytest.approx(3.5)
    assert found["window"] == pytest.approx(3.5)  # a window is longer than this prompt
    assert found["span_surprisal"] == pytest.approx(8.5 - 11 / 6)
    assert found["spread"] == pytest.approx(math.sqrt(sum(x * x for x in (2.5, 2.5, 1.5, 4.5, 5.5, 0.5, 1.5, 1.5)) / 8))
    assert found["span_effect"] == pytest.approx(0.5)
    assert found["unit_effect"] == pytest.approx(1.5)
    assert found["unit_synergy"] == pytest.approx(0.5)
    assert found["contiguity"] == pytest.approx(1 - 4 / 4.5)
    assert found["confidence"] == pytest.approx(-0.5)
    assert found["refusal_without_span"] == pytest.approx(3.0)
    assert found["flip"] == 1.0
    assert set(WEIGHTS) <= set(found)


def test_the_score_is_a_probability_whatever_the_numbers():
    found = numbers(EVIDENCE)
    assert 0 < score(order(found)) < 1
    for extreme in (-1e9, 1e9):
        value = score(order(dict.fromkeys(found, extreme)))
        assert 0 <= value <= 1
        assert math.isfinite(value)


def test_other_models_than_the_fitted_one_get_an_order_and_no_score(llama):
    assert fitted_on(FITTED_ON)
    verdict = detect(PROMPT, model=llama, config=QUICK)
    assert verdict.score is None
    assert "no probability" in repr(verdict)
    fitted = replace(verdict, model={"id": FITTED_ON})
    assert fitted.score == score(verdict.order)
    assert "score" in repr(fitted)
    record = detect(PROMPT, model=llama, config=QUICK).to_dict()
    assert record["calibrated"] is False
    assert "fluent" in record["tuned_for"]
    assert PROMPT.startswith(record["beginning"])
