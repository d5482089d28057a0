"""Every method on every planted problem, against brute force; a new method is tested here by being in the table."""

from dataclasses import fields
from itertools import combinations
from typing import Any

import pytest
import torch

import jopa
from jopa.testing import PLANTED, TableScorer, TableWhiteBoxScorer, best_sets, check_method, redundant_pair

# Methods that need a model itself run on a tiny one below.
NEED_A_MODEL = {name for name, method in jopa.METHODS.items() if method.requires == "model"}
ON_TABLES = sorted(set(jopa.METHODS) - NEED_A_MODEL)
EXTRAS = {"context-cite": "sklearn", "interactions": "sklearn", "captum": "captum", "proxyspex": "shapiq"}

# What a method cannot promise: random choices, attention (a table has none that means anything) and first derivatives.
PROMISES_NOTHING = {"random", "attention", "last-attention", "attn-trace"}
RANKS_ONE_BY_ONE = {"ablation", "grad-x-input", "arc-jsd"}
HAS_NO_SIGN = {"arc-jsd"}  # a divergence is large whether the output becomes likelier or less likely


def make(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    return jopa.make_method(name)


def table(planted) -> Any:
    return jopa.Problem(TableWhiteBoxScorer(PLANTED[planted].n_units, PLANTED[planted].log_prob))


def run(name, problem, k, seed=0):
    selection = make(name).run(problem, k, seed=seed)
    assert len(selection.removed) == len(set(selection.removed)) == k
    assert all(type(unit) is int and 0 <= unit < problem.n_units for unit in selection.removed)
    assert selection.stop
    assert selection.scores is None or len(selection.scores) == problem.n_units
    return selection


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("name", ON_TABLES)
def test_k_distinct_units_for_every_k(name, planted):
    n_units = PLANTED[planted].n_units
    for k in range(1, n_units + 1):
        run(name, table(planted), k)


@pytest.mark.parametrize("name", ON_TABLES)
def test_a_prompt_of_one_unit(name):
    problem = jopa.Problem(TableWhiteBoxScorer(1, PLANTED["dominant"].log_prob))
    assert run(name, problem, 1).removed == (0,)


@pytest.mark.parametrize("name", ON_TABLES)
def test_the_same_seed_gives_the_same_selection(name):
    assert run(name, table("pair"), 2, seed=4) == run(name, table("pair"), 2, seed=4)


@pytest.mark.parametrize("name", ON_TABLES)
def test_evaluations_are_counted_truly(name):
    problem = table("pair")
    run(name, problem, 3)
    assert problem.evaluations == len(problem.scorer.asked) == len(set(problem.scorer.asked))


@pytest.mark.parametrize("name", sorted(set(ON_TABLES) - PROMISES_NOTHING))
def test_finds_the_unit_that_dominates(name):
    assert run(name, table("dominant"), 1).removed == (3,)


@pytest.mark.parametrize("name", sorted(set(ON_TABLES) - PROMISES_NOTHING - HAS_NO_SIGN))
def test_never_prefers_the_unit_whose_removal_helps(name):
    assert run(name, table("negative"), 1).removed == (4,)


@pytest.mark.parametrize("name", sorted(RANKS_ONE_BY_ONE))
def test_ranking_units_one_by_one_misses_the_redundant_pair(name):
    """The paper's argument for joint search: doctor and patient are each dispensable, not both."""
    problem = table("pair")
    removed = frozenset(run(name, problem, 2).removed)
    assert removed == {0, 1}
    assert problem.log_prob(removed) > problem.log_prob({2, 5}) + 4


@pytest.mark.parametrize("name", ["exhaustive", "interactions"])
def test_joint_methods_find_the_redundant_pair(name):
    for k in (2, 3):
        problem = table("pair")
        assert frozenset(run(name, problem, k).removed) in best_sets(problem.scorer, k)


@pytest.mark.parametrize("name", ON_TABLES)
@pytest.mark.parametrize("k", [0, 8])
def test_k_out_of_range_is_refused_before_any_work(name, k):
    problem = table("pair")
    with pytest.raises(jopa.SettingError, match=f"k must be between 1 and the prompt's 7 units, got {k}"):
        make(name).run(problem, k)
    assert problem.scorer.asked == []


@pytest.mark.parametrize("name", sorted(jopa.METHODS))
def test_a_black_box_is_enough_or_refused_before_any_work(name):
    scorer = TableScorer(7, redundant_pair)
    method = make(name)
    if method.requires == "scores":
        run(name, jopa.Problem(scorer), 2)
        return
    with pytest.raises(jopa.SettingError, match=f"method '{name}' needs .*, which this model or scorer does not give"):
        method.run(jopa.Problem(scorer), 2)
    assert scorer.asked == []


@pytest.mark.parametrize("name", sorted(jopa.METHODS))
def test_says_what_it_is(name):
    method = jopa.METHODS[name]
    assert method.name == name
    assert method.summary and "\n" not in method.summary and len(method.summary) < 90
    assert method.cost
    assert method.__doc__ and len(method.__doc__) > 80
    for item in fields(method):
        assert item.name in method.__doc__, f"{name} does not document its setting {item.name}"
    assert make(name).settings["name"] == name
    assert hash(make(name)) == hash(make(name))


@pytest.mark.parametrize("name", sorted(jopa.METHODS))
def test_settings_out_of_range_are_refused(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    for item in fields(jopa.METHODS[name]):
        if item.type in ("int", int):
            with pytest.raises(jopa.SettingError, match=rf"{item.name} must be"):
                jopa.make_method(name, **{item.name: -1})


@pytest.mark.parametrize("name", sorted(jopa.METHODS))
def test_settings_of_the_wrong_type_are_refused_and_defaults_are_of_the_right_one(name):
    method = jopa.METHODS[name]()
    settings = {item.name: getattr(method, item.name) for item in fields(method)}
    assert jopa.make_method(name, **settings) == method
    for setting in settings:
        with pytest.raises(jopa.SettingError, match=f"setting '{setting}' of method '{name}' must be of type"):
            jopa.make_method(name, **{setting: [1]})


FAST = {
    "jopa": {"steps": 10},
    "integrated-gradients": {"steps": 4},
    "continuous-mask": {"steps": 5},
    "shapley": {"permutations": 4},
    "context-cite": {"ablations": 16},
    "interactions": {"ablations": 24, "candidates": 4},
    "proxyspex": {"ablations": 40},
    "camab": {"queries": 8},
    "trac-llm": {"permutations": 2},
    "attn-trace": {"subsamples": 4},
    "reagent": {"steps": 5},
}


@pytest.mark.parametrize("name", sorted(jopa.METHODS))
def test_runs_on_a_real_model_and_is_scored_by_the_problem(name, llama):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    method = jopa.make_method(name, **FAST.get(name, {}))
    text = "write a story about the doctor and his patient"
    a = jopa.explain(text, model=llama, method=method, removal="delete", output=jopa.Generation(5))
    assert len(set(a.removed)) == 3
    assert a.evaluations >= 1
    assert a.ffe > 0
    assert jopa.Attribution.from_json(a.to_json()) == a
    prompt = jopa.build_prompt(llama.tokenizer, text)
    scorer = jopa.ModelScorer(llama, prompt, jopa.Output(a.output_ids, a.output, a.target), "delete")
    values = {s: jopa.Problem(scorer).log_prob(s) for s in [(), a.removed]}
    assert a.joint == pytest.approx(values[()] - values[a.removed], abs=1e-4)


@pytest.mark.parametrize("name", sorted(jopa.METHODS))
def test_ffe_is_the_tokens_that_enter_the_model(name, llama):
    """Recount by watching what is embedded; a backward counts twice its forward."""
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    forwards, with_gradient = [], []

    def count(_module, _arguments, embedded):
        forwards.append(embedded.shape[:2].numel())
        if torch.is_grad_enabled():
            with_gradient.append(embedded.shape[:2].numel())

    prompt = jopa.build_prompt(llama.tokenizer, "write a story about the doctor and his patient")
    output = jopa.Output((7, 8, 9, 10, 11), "", (0, 5))
    problem = jopa.Problem(jopa.ModelScorer(llama, prompt, output, "delete"))
    method = jopa.make_method(name, **FAST.get(name, {}))
    hook = llama.model.get_input_embeddings().register_forward_hook(count)
    try:
        method.run(problem, 2)
    finally:
        hook.remove()
    total = sum(forwards) + 2 * sum(with_gradient)
    assert problem.ffe == pytest.approx(total / (len(prompt.ids) + 5))


def test_methods_agree_where_they_must():
    """With additive effects every ranking is the ranking of the individual effects."""
    weights = [0.5, 2.0, 0.1, 1.0, 0.0]
    problem = jopa.Problem(TableWhiteBoxScorer(5, lambda removed: -3.0 - sum(weights[i] for i in removed)))
    for name in sorted(set(ON_TABLES) - PROMISES_NOTHING):
        assert set(run(name, problem, 2).removed) == {1, 3}, name
    best = min(combinations(range(5), 2), key=problem.log_prob)
    assert best == (1, 3)


CHECKED = {"joint": {"budget": 30}, "continuous-mask": {"steps": 5}, "jopa": {"steps": 10}}


@pytest.mark.parametrize("name", ON_TABLES)
def test_the_check_for_authors_holds_for_our_own_methods(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    check_method(jopa.make_method(name, **CHECKED.get(name, {})), finds_dominant=name not in PROMISES_NOTHING)
