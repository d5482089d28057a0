"""From coarse to fine: the same as plain removals, one budget, shared scores, and what each level may claim."""

import json

import pytest

import jopa
import tiny_models
from jopa.problem import SharedScores
from table_scorer import TableScorer

SENTENCES = ["the doctor met birds.", "please write a story.", "two people think.", "there was rain.", "a man said it."]
DOCUMENTS = [{"id": f"d{i}", "text": " ".join(SENTENCES[i % 5 :] + SENTENCES[: i % 5][:1])} for i in range(6)]
DOCUMENTS.append({"id": "one", "text": "once upon a time."})
QUESTION = "tell me about the doctor"
ANSWER = "the doctor met birds."


@pytest.fixture(scope="module")
def model():
    return tiny_models.sentence_model()


def explain(model, refine=("sentence",), **settings):
    settings = {"k": 2, "unit": "document", "output": ANSWER, "method": jopa.JointSearch(budget=20)} | settings
    search = settings.pop("search", jopa.SearchOptions(refine=refine))
    found = jopa.explain(QUESTION, documents=DOCUMENTS, model=model, search=search, **settings)
    assert isinstance(found, jopa.Attribution)
    return found


@pytest.fixture(scope="module")
def found(model):
    return explain(model, ("sentence", "word"))


def test_the_levels_make_a_tree(found):
    assert [level.unit for level in found.levels] == ["document", "sentence", "word"]
    first, second, third = found.levels
    assert len(first.units) == first.n_units == len(DOCUMENTS) and first.inside == ()
    assert first.opened[:2] == first.removed and len(first.opened) == 4
    for before, after in ((first, second), (second, third)):
        assert len(after.units) < after.n_units and set(after.inside) == set(before.opened)
        for unit, parent in zip(after.units, after.inside, strict=True):
            assert set(unit.positions) <= set(before.units[parent].positions)
    assert third.opened == () and third.units == found.units and third.removed == found.removed
    assert third.certificate == found.certificate


def test_the_result_says_what_went_with_whole_documents(found):
    assert [source["removed_with"] for source in found.details["sources"]] == ["frame"] * len(DOCUMENTS)


def test_each_level_can_be_redone(model, found):
    options = jopa.PromptOptions(documents=DOCUMENTS)
    output = jopa.Output(found.output_ids, found.output, found.target)
    for level in found.levels:
        whole = jopa.build_prompt(model.tokenizer, QUESTION, options, unit=level.unit)
        assert whole.ids == found.input_ids
        problem = jopa.Problem(jopa.ModelScorer(model, whole, output, removal="delete"))
        chosen = [whole.units.index(level.units[i]) for i in level.removed]
        assert level.log_prob_removed == pytest.approx(problem.log_prob(chosen), abs=1e-4)
        for unit, effect in zip(chosen, level.individual, strict=True):
            assert problem.log_prob() - problem.log_prob([unit]) == pytest.approx(effect, abs=1e-4)


def test_one_budget_is_shared(model):
    found = explain(model, ("sentence",), method=jopa.JointSearch(budget=12))
    assert found.ffe == pytest.approx(sum(level.ffe for level in found.levels))
    assert found.ffe <= 12 + 4
    assert found.evaluations == sum(level.evaluations for level in found.levels)
    assert found.method["budget"] == 12


def test_the_whole_prompt_is_scored_once(found):
    assert all(level.shared >= 1 for level in found.levels[1:])


def test_json_gives_the_same_value_back_and_damage_is_refused(found):
    assert jopa.Attribution.from_json(found.to_json()) == found
    record = json.loads(found.to_json())
    record["levels"][1]["inside"][0] = 6
    with pytest.raises(jopa.InputFileError, match="'inside' of level 1"):
        jopa.Attribution.from_dict(record)
    assert "levels" not in explain_flat(found).to_dict()


def explain_flat(found):
    from dataclasses import replace

    return replace(found, levels=())


def test_a_method_that_ranks_and_a_search_until_a_value_refine_too(model):
    ranked = explain(model, method="ablation")
    assert ranked.scores is not None and len(ranked.scores) == len(ranked.units)
    until = explain(model, search=jopa.SearchOptions(until_pr=0.99, refine=("sentence",)))
    assert [level.unit for level in until.levels] == ["document", "sentence"]


def test_more_units_than_there_are_documents(model):
    found = explain(model, k=9)
    assert len(found.levels[0].removed) == 7 and len(found.removed) == 9
    with pytest.raises(jopa.SettingError, match="k must be between 1"):
        explain(model, k=1000)


def test_a_trace_is_refined_with_the_rest(model):
    found = explain(
        model,
        output=f"<think>{SENTENCES[0]} {SENTENCES[1]}</think>{ANSWER}",
        options=jopa.PromptOptions(attribute="documents,trace"),
    )
    assert found.levels[0].n_units == len(DOCUMENTS) + 1
    assert found.output == ANSWER


def test_scores_are_shared_where_the_same_tokens_are_removed():
    scores = {}
    scorer = TableScorer(2, lambda removed: -1.0 - len(removed))
    one = jopa.Problem(scorer, shared=SharedScores([(1, 2), (3,)], scores))
    one.log_probs([(), (0,), (1,)])
    finer = TableScorer(3, lambda removed: -99.0)
    other = jopa.Problem(finer, shared=SharedScores([(1,), (2,), (3,)], scores))
    assert other.log_probs([(), (0, 1), (2,)]) == [-1.0, -2.0, -2.0]
    assert other.evaluations == 0 and finer.asked == []
    assert other.log_prob((0,)) == -99.0 and other.evaluations == 1


@pytest.mark.parametrize(
    ("unit", "refine", "said"),
    [
        ("sentence", ("document",), "not finer"),
        ("sentence", ("sentence",), "not finer"),
        ("document", ("word", "sentence"), "'sentence' is not finer than 'word'"),
        ("document", ("syllable",), "unknown unit 'syllable'"),
        ([(0, 3)], ("word",), "not spans"),
    ],
)
def test_what_is_not_finer_is_refused(model, unit, refine, said):
    with pytest.raises(jopa.SettingError, match=said):
        explain(model, refine, unit=unit)


def test_all_effects_and_a_single_text_do_not_fit():
    with pytest.raises(jopa.SettingError, match="all_effects"):
        jopa.SearchOptions(refine=("sentence",), all_effects=True)
    with pytest.raises(jopa.SettingError, match="tuple"):
        jopa.SearchOptions(refine="sentence")


def test_long_inputs_are_refined_unless_told_otherwise(model, monkeypatch):
    monkeypatch.setattr("jopa.explanation.planning.REFINED_TOKENS", 300)
    text = "Tell me a story about the doctor. Please write of birds in rain.\n\n" * 20
    kinds = {}

    def levels(search=None, **settings):
        found = jopa.explain(
            text, k=1, model=model, output="yes", method=jopa.JointSearch(budget=4), search=search, **settings
        )
        assert isinstance(found, jopa.Attribution)
        kinds["details"] = found.details
        return [level.unit for level in found.levels]

    assert levels() == ["paragraph", "sentence"]
    assert "more than" in kinds["details"]["refined_by_default"]
    assert levels(jopa.SearchOptions(refine=())) == []


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("context-cite", lambda level: level.evaluations - 1),
        ("camab", lambda level: level.evaluations - 1),
        ("integrated-gradients", lambda level: level.ffe / 3),
        ("joint", lambda level: level.ffe),
        ("proxy-search", lambda level: level.ffe),
    ],
)
def test_a_budget_is_that_of_all_levels_whatever_its_unit(model, name, most):
    found = explain(model, method=name, search=jopa.SearchOptions(refine=("sentence",), budget=20))
    assert len(found.levels) == 2
    assert sum(most(level) for level in found.levels) <= 20 + 1


def test_a_budget_that_a_level_cannot_have_is_refused_before_any_forward(model):
    n_forwards = 0

    def count(*_):
        nonlocal n_forwards
        n_forwards += 1

    hook = model.model.register_forward_pre_hook(count)
    try:
        with pytest.raises(jopa.SettingError, match="ablations must be at least 8, got 4"):
            explain(model, method="context-cite", search=jopa.SearchOptions(refine=("sentence",), budget=9))
    finally:
        hook.remove()
    assert n_forwards == 0
