"""The Problem's bookkeeping, and the claims of an Attribution redone by hand."""

import dataclasses
import json
import math
import time
from itertools import combinations

import pytest
import torch

import jopa
import tiny_models
from jopa.choices import REMOVALS
from jopa.method import Method
from jopa.problem import joint_effects
from slow_reference import reference
from table_scorer import TableScorer, redundant_pair

TEXT = "write a story about the doctor and his patient"


ALL_EFFECTS = jopa.SearchOptions(all_effects=True)


def explained(model, **settings):
    settings = {"k": 2, "output": jopa.Generation(6), "method": jopa.PaperSearch(steps=20)} | settings
    return jopa.explain(TEXT, model=model, **settings)


@pytest.mark.parametrize("removal", REMOVALS)
def test_redo_the_claimed_intervention(tiny, removal):
    """Remove the reported units in plain transformers and find the reported numbers."""
    a = explained(tiny, removal=removal, search=ALL_EFFECTS)
    prompt = jopa.Prompt(a.prompt, a.input_ids, a.units)
    output = jopa.Output(a.output_ids, a.output, a.target)

    def log_prob(removed):
        return reference(tiny, prompt, output, removal, removed).sum().item()

    assert a.log_prob == pytest.approx(log_prob(()), abs=1e-3)
    assert a.log_prob_removed == pytest.approx(log_prob(a.removed), abs=1e-3)
    assert a.joint == pytest.approx(log_prob(()) - log_prob(a.removed), abs=2e-3)
    assert a.individual == pytest.approx([log_prob(()) - log_prob((i,)) for i in a.removed], abs=2e-3)
    assert a.effects == pytest.approx([log_prob(()) - log_prob((i,)) for i in range(9)], abs=2e-3)
    assert a.individual == tuple(a.effects[i] for i in a.removed)
    assert list(a.individual) == sorted(a.individual, reverse=True)
    assert a.synergy == pytest.approx(a.joint - sum(a.individual), abs=1e-9)
    assert a.probability_ratio == pytest.approx(math.exp(-a.joint / len(a.output_ids)))


def test_the_counterfactual_under_delete_is_what_the_model_says_to_the_edited_prompt(tiny):
    a = explained(tiny, removal="delete")
    gone = {position for unit in a.chosen for position in unit.positions}
    edited = torch.tensor([[i for position, i in enumerate(a.input_ids) if position not in gone]])
    said = tiny.generate({"input_ids": edited}, max_new_tokens=6)
    assert a.counterfactual_output == tiny.decode(said)


def test_json_round_trip_is_exact(llama):
    for a in (explained(llama), explained(llama, search=ALL_EFFECTS, target=(1, 3))):
        again = jopa.Attribution.from_json(a.to_json())
        assert again == a
        assert again.to_json() == a.to_json()


def test_the_json_schema_is_the_documented_one(llama):
    record = json.loads(explained(llama).to_json())
    assert list(record) == [
        *("schema", "model", "prompt", "output", "removal", "k", "removed", "log_prob", "log_prob_removed"),
        *(
            "probability_ratio",
            "individual",
            "synergy",
            "counterfactual_output",
            "method",
            "seed",
            "evaluations",
        ),
        *("ffe", "seconds", "trace", "stop", "certificate", "versions", "details"),
    ]
    assert list(record["model"]) == ["id", "revision", "dtype", "device"]
    assert list(record["prompt"]) == ["text", "ids", "units", "rendered"]
    assert list(record["prompt"]["units"][0]) == ["text", "start", "end", "positions", "message", "document"]
    assert list(record["output"]) == ["text", "ids", "target"]
    assert record["method"] == {
        **{"name": "jopa", "steps": 20, "initial": "abs", "sampling": "gradient"},
        **{"gradients": "once", "lookahead": 32},
    }
    assert "effects" in json.loads(explained(llama, search=ALL_EFFECTS).to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "no object"),
        ('{"schema": 2}', "schema must be 1, got 2"),
        ('{"schema": true}', "schema must be 1, got True"),
        ('{"schema": 1}', "missing required field 'model'"),
        ('{"schema": NaN}', "not finite"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_json_that_is_no_attribution_is_refused(text, message):
    with pytest.raises(jopa.InputFileError, match=message):
        jopa.Attribution.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"removed": [999, 1]}, "'removed' must be different units below 9"),
        ({"removed": [1, 1]}, "'removed' must be different units"),
        ({"individual": [1.0]}, "'individual' must have 2 numbers"),
        ({"scores": [1.0]}, "'scores' must have 9 numbers"),
        ({"k": "2"}, "k"),
        ({"seconds": -1}, "seconds"),
        ({"certificate": "divine"}, "certificate"),
        ({"log_prob": float("inf")}, "not finite"),
        ({"output": {"text": "a", "ids": [1], "target": [0, 2]}}, "target"),
        ({"trace": [{"step": 0}]}, "trace"),
        ({"method": {}}, "'method' must have a text under 'name'"),
    ],
    ids=str,
)
def test_an_attribution_of_wrong_values_is_refused(llama, change, message):
    record = explained(llama).to_dict() | change
    with pytest.raises(jopa.InputFileError, match=message):
        jopa.Attribution.from_dict(record)


def test_the_same_seed_gives_the_same_json_but_for_times(llama):
    def record(seed):
        return dataclasses.replace(explained(llama, search=jopa.SearchOptions(seed=seed)), seconds=0.0).to_json()

    assert record(5) == record(5)
    assert record(5) != record(6)


def test_cost_is_what_the_method_spent(llama):
    a = explained(llama, removal="zero")
    assert a.evaluations == a.trace[-1].evaluations
    assert a.ffe == a.trace[-1].ffe
    without_search = explained(llama, method=jopa.PaperSearch(steps=0), removal="zero")
    assert without_search.evaluations == 2  # the whole prompt and the first set


def test_memo_counts_each_set_once():
    scorer = TableScorer(6, redundant_pair)
    problem = jopa.Problem(scorer)
    assert problem.log_probs([(0,), (1, 2), (2, 1), (0,)]) == pytest.approx([-1.3, -1.25, -1.25, -1.3])
    assert problem.evaluations == len(scorer.asked) == 2
    problem.log_prob((0,))
    assert len(scorer.asked) == 2


def test_joint_effects_and_synergy_of_the_planted_pair():
    problem = jopa.Problem(TableScorer(8, redundant_pair))
    pair, first, second = joint_effects(problem, [(2, 5), (2,), (5,)])
    assert (pair, first, second) == pytest.approx((5.1, 0.05, 0.05), abs=1e-5)


def test_certificates_are_checked_not_promised():
    problem = jopa.Problem(TableScorer(6, redundant_pair))
    assert problem.certificate((2, 5)) == "none"
    neighbours = [(2, i) for i in (0, 1, 3, 4)] + [(5, i) for i in (0, 1, 3, 4)]
    problem.log_probs(neighbours[:-1])
    assert problem.certificate((2, 5)) == "none"
    problem.log_probs(neighbours)
    assert problem.certificate((2, 5)) == "one-swap-optimal"
    assert problem.certificate((2, 0)) == "none"
    problem.log_probs(combinations(range(6), 2))
    assert problem.certificate((2, 5)) == "optimal"
    assert problem.certificate((2, 0)) == "none"


def test_k_equal_to_all_units_is_optimal(llama):
    a = explained(llama, k=9)
    assert sorted(a.removed) == list(range(9))
    assert a.certificate == "optimal"


def test_the_callers_own_output_and_target(llama):
    a = explained(llama, output="once upon time there was", target="time there")
    assert a.output == "once upon time there was"
    assert a.target == (2, 4)
    with pytest.raises(jopa.SettingError, match="occurs 0 times"):
        explained(llama, output="once upon time", target="doctor")
    with pytest.raises(jopa.SettingError, match="occurs 2 times"):
        explained(llama, output="the doctor the doctor", target="doctor")
    with pytest.raises(jopa.SettingError, match="target must lie within the output's 3 tokens, got 2:9"):
        explained(llama, output="once upon time", target=(2, 9))


def test_the_target_of_an_output_with_ids_can_be_named(llama):
    ids = llama.encode_continuation("once upon time there was")
    output = jopa.Output(ids, "once upon time there was", (0, 5))
    assert explained(llama, output=output, target="time there").target == (2, 4)
    assert explained(llama, output=output, target=(1, 3)).target == (1, 3)
    assert explained(llama, output=output).target == (0, 5)


def test_an_output_of_the_caller_s_own_must_fit_the_context(llama):
    output = jopa.Output((6,) * 125, "a" * 125, (0, 125))
    with pytest.raises(jopa.PromptError, match="more than the model's context of 128 tokens"):
        explained(llama, output=output)


def test_the_answer_without_the_units_is_generated_as_the_output_was(llama):
    def length(**settings):
        return len(llama.encode_continuation(explained(llama, **settings).counterfactual_output))

    assert length(output=jopa.Generation(3)) == 3
    longer = jopa.SearchOptions(counterfactual=jopa.Generation(7))
    assert length(output=jopa.Generation(3), search=longer) == 7
    assert length(output="once upon time", search=longer) == 7


def test_a_sampled_output_says_how_it_was_sampled(llama):
    a = explained(llama, output=jopa.Generation(6, temperature=1.5, seed=3))
    assert a.details["generation"] == {"max_new_tokens": 6, "temperature": 1.5, "seed": 3}
    assert "generation" not in explained(llama).details


def test_an_empty_output_says_how_to_give_one(llama, monkeypatch):
    monkeypatch.setattr(jopa.LanguageModel, "stop_ids", frozenset(tiny_models.VOCABULARY.values()))
    silent = dataclasses.replace(llama)
    with pytest.raises(jopa.PromptError, match=r"stopped at once; give .*\(output\) .*\(prefill\)"):
        explained(silent)
    with pytest.raises(jopa.PromptError, match="output to explain is empty"):
        explained(llama, output="")


def test_a_prompt_longer_than_the_context_names_both_lengths(llama):
    with pytest.raises(jopa.PromptError, match=r"the prompt has 203 tokens .* context of 128 tokens"):
        jopa.explain("doctor " * 200, model=llama)
    with pytest.raises(jopa.PromptError, match=r"the prompt has 12 tokens and the output up to 500"):
        explained(llama, output=jopa.Generation(500))


def test_settings_are_checked_before_the_model_is_loaded():
    with pytest.raises(jopa.SettingError, match="unknown removal"):
        jopa.explain("hello", model="no/such-model", removal="blank")
    with pytest.raises(jopa.SettingError, match="unknown method"):
        jopa.explain("hello", model="no/such-model", method="blank")


def test_k_is_checked_before_the_output_is_generated(llama, monkeypatch):
    monkeypatch.setattr(jopa.LanguageModel, "generate", None)
    with pytest.raises(jopa.SettingError, match="k must be between 1 and the prompt's 9 units, got 10"):
        explained(llama, k=10)


def test_a_method_refuses_before_the_output_is_generated(llama, monkeypatch):
    monkeypatch.setattr(jopa.LanguageModel, "generate", None)
    with pytest.raises(jopa.SettingError, match=r"C\(9, 4\) = 126 sets are more than the limit of 100"):
        explained(llama, k=4, method=jopa.make_method("exhaustive", limit=100))


def test_compare_generates_once_whatever_refuses(llama, monkeypatch):
    answers, refused = [], []
    generate_ids = jopa.LanguageModel.generate_ids
    monkeypatch.setattr(
        jopa.LanguageModel, "generate_ids", lambda *given, **how: answers.append(1) or generate_ids(*given, **how)
    )
    methods = [jopa.make_method("exhaustive", limit=100), jopa.make_method("ablation"), jopa.make_method("random")]
    callbacks = jopa.Callbacks(on_refusal=lambda method, _: refused.append(method.name))
    found = jopa.compare(TEXT, methods, model=llama, k=4, output=jopa.Generation(4), callbacks=callbacks)
    assert [a.method["name"] for a in found] == ["ablation", "random"]
    assert refused == ["exhaustive"]
    assert len(answers) == 1
    with pytest.raises(jopa.SettingError, match="more than the limit of 100"):
        jopa.compare(TEXT, methods[:1], model=llama, k=4, callbacks=callbacks)
    assert len(answers) == 1


@dataclasses.dataclass(frozen=True)
class FailingMethod(Method):
    """Fails after the answer is there."""

    name = "failing"
    summary = cost = ""

    def run(self, problem, k, *, seed=0):
        raise jopa.ScoringError("no scores")


@pytest.mark.parametrize("first_fails", [False, True])
def test_the_seconds_of_the_answer_count_once(llama, monkeypatch, first_fails):
    generate_ids, profiles = jopa.LanguageModel.generate_ids, []

    def slow(*given, **how):
        time.sleep(0.3)
        return generate_ids(*given, **how)

    monkeypatch.setattr(jopa.LanguageModel, "generate_ids", slow)
    method = jopa.make_method("ablation")
    methods = [FailingMethod(), method] if first_fails else [method, method]
    callbacks = jopa.Callbacks(on_profile=profiles.append, on_refusal=lambda *_: None)
    jopa.compare(TEXT, methods, model=llama, k=2, output=jopa.Generation(2), callbacks=callbacks)
    first, *others = [profile.generating for profile in profiles]
    assert first >= 0.3
    assert all(seconds < 0.3 for seconds in others)


def test_progress_tells_each_stage(llama):
    told = []
    explained(llama, callbacks=jopa.Callbacks(progress=lambda stage, done, total: told.append((stage, done, total))))
    assert [stage for stage, done, _ in told if done == 1] == [
        "answering",
        "searching",
        "answering without them",
    ]
    assert ("searching", 20, 20) in told
    assert ("answering", 6, 6) in told
