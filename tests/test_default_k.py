"""How many units are looked for where nobody says: three, or as many as a shorter prompt allows."""

import pytest

import jopa
import tiny_models
from jopa.explanation.planning import DEFAULT_K, fitting_k

TWO = "write a story about rain. tell me what you think."


def explain(model, prompt=TWO, **settings):
    return jopa.explain(prompt, model=model, unit="sentence", output="once upon time", **settings)


def test_a_prompt_of_two_units_is_explained_and_the_result_says_why_k_is_2(llama):
    a = explain(llama)
    assert (a.k, len(a.removed), len(a.units)) == (2, 2, 2)
    assert a.details is not None
    assert a.details["default_k"] == "by default 3; the prompt has 2 units"
    assert "k = 2 of 2 units (sentences) (by default 3; the prompt has 2 units)" in a.to_html()


def test_the_usual_k_and_a_given_one_need_no_words(llama):
    assert "default_k" not in (explain(llama, TWO + " give me a green bird.").details or {})
    given = explain(llama, k=2)
    assert given.k == 2
    assert "default_k" not in (given.details or {})


def test_a_given_k_above_the_units_is_still_refused(llama):
    with pytest.raises(jopa.SettingError, match="k must be between 1 and the prompt's 2 units, got 3"):
        explain(llama, k=3)


def test_without_a_template_one_unit_stays():
    bare = tiny_models.language_model("gpt2", chat=False)
    a = explain(bare)
    assert a.k == 1
    assert a.details is not None
    assert a.details["default_k"].endswith("the prompt has 2 units and no other token, so one unit stays")


def test_compare_and_the_smallest_set_take_it_too(llama):
    found = jopa.compare(TWO, ["ablation", "random"], model=llama, unit="sentence", output="once upon time")
    assert [a.k for a in found] == [2, 2]
    smallest = explain(llama, search=jopa.SearchOptions(until_pr=0.99))
    assert "default_k" not in (smallest.details or {})


def test_one_unit(llama):
    prompt = jopa.build_prompt(llama.tokenizer, "write", unit="word")
    assert fitting_k(None, prompt) == (1, {"default_k": "by default 3; the prompt has 1 unit"})
    assert fitting_k(7, prompt) == (7, {})
    assert DEFAULT_K == 3
