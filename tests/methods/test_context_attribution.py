"""CAMAB, TracLLM, AttnTrace and ARC-JSD against slow, obvious computations; the contract is tested for all methods."""

import math
from itertools import combinations

import pytest
import torch

import jopa
from jopa.methods.attention import AttnTrace
from jopa.methods.context_attribution import ARCJSD, CAMAB, TracLLM
from jopa.testing import TableScorer

TEXT = "write a story about the doctor and his patient"
OUTPUT = jopa.Output((7, 8, 9, 10, 11), "", (1, 4))


def scorer(model, removal="delete"):
    return jopa.ModelScorer(model, jopa.build_prompt(model.tokenizer, TEXT, unit="word"), OUTPUT, removal)


def kept_ids(scorer, removed):
    """The prompt's ids without those units, each with the unit it belongs to (None: template)."""
    unit_of = {position: i for i, unit in enumerate(scorer.prompt.units) for position in unit.positions}
    return [(id_, unit_of.get(n)) for n, id_ in enumerate(scorer.prompt.ids) if unit_of.get(n) not in removed]


# ARC-JSD


def distributions(model, scorer, removed):
    ids = [id_ for id_, _ in kept_ids(scorer, removed)]
    logits = model.model(torch.tensor([[*ids, *OUTPUT.ids]])).logits[0]
    return logits[len(ids) - 1 :].softmax(-1)[slice(*OUTPUT.target)].double()


@torch.no_grad()
def test_arc_jsd_is_the_divergence_of_plain_forwards(llama):
    mine = scorer(llama)
    whole = distributions(llama, mine, ())
    expected = []
    for unit in range(mine.n_units):
        other = distributions(llama, mine, {unit})
        middle = (whole + other) / 2
        kl = [(p * (p / middle).log()).sum() for p in (whole, other)]
        expected.append(float(sum(kl)) / 2)
    ranking = ARCJSD().rank(jopa.Problem(mine))
    assert ranking.scores == pytest.approx(expected, abs=1e-6)
    assert max(expected) > 1e-5


def test_arc_jsd_asks_for_few_distributions_at_once(llama, monkeypatch):
    at_once = []
    mine = scorer(llama)
    plain = mine.log_distributions
    monkeypatch.setattr(mine, "log_distributions", lambda keep: at_once.append(len(keep)) or plain(keep))
    whole = ARCJSD().rank(jopa.Problem(mine))
    vocabulary = llama.model.config.vocab_size
    monkeypatch.setattr("jopa.methods.context_attribution._DISTRIBUTION_NUMBERS", 2 * 3 * vocabulary)
    at_once.clear()
    assert ARCJSD().rank(jopa.Problem(mine)).scores == pytest.approx(whole.scores, abs=1e-6)
    assert at_once == [1, 2, 2, 2, 2, 1]


def test_a_distribution_that_is_no_number_is_an_error(llama, monkeypatch):
    mine = scorer(llama)
    plain = mine.log_distributions
    monkeypatch.setattr(mine, "log_distributions", lambda keep: plain(keep) * math.nan)
    with pytest.raises(jopa.ScoringError, match="a distribution with NaN"):
        ARCJSD().run(jopa.Problem(mine), 2)


# CAMAB


def test_camab_recovers_weights_that_add_up():
    weights = [0.5, 2.0, -1.0, 0.0, 3.0, 0.1, 1.0, 0.2]
    problem = jopa.Problem(TableScorer(8, lambda removed: -2.0 - sum(weights[i] for i in removed)))
    assert CAMAB(queries=100).rank(problem, seed=1).scores == pytest.approx(weights, abs=0.1)


def test_camab_is_the_ridge_regression_of_what_it_scored():
    def log_prob(removed):
        return -1.0 - 4.0 * (removed >= {1, 6}) - 0.3 * len(removed) - 1.0 * (4 in removed)

    table = TableScorer(9, log_prob)
    scores = CAMAB(queries=6).rank(jopa.Problem(table), seed=3).scores
    empty = log_prob(set(range(9)))
    kept = [set(range(9)) - removed for removed in table.asked if len(removed) < 9]
    x = torch.tensor([[float(i in units) for i in range(9)] for units in kept]).double()
    y = torch.tensor([log_prob(set(range(9)) - units) - empty for units in kept]).double()
    expected = torch.linalg.solve(x.T @ x + 0.01 * torch.eye(9), x.T @ y)
    assert len(kept) == 7
    assert {len(units) for units in kept[1:]} == {4}
    assert scores == pytest.approx(expected.tolist(), abs=1e-5)


def test_camab_looks_where_weights_may_be_large():
    """Thompson sampling keeps the unit that carries the output more often than one half of the time."""
    table = TableScorer(20, lambda removed: -1.0 - 6.0 * (7 in removed))
    CAMAB(queries=40).rank(jopa.Problem(table), seed=0)
    assert sum(7 not in removed for removed in table.asked[2:]) > 30


# TracLLM


def slow_search(value, n_units, kept, score):
    """The same search written down once more, for one way of scoring; every set is scored as it comes."""
    parts = [list(range(n_units))]
    while True:
        parts = [half for part in parts for half in (part[: len(part) // 2], part[len(part) // 2 :]) if half]
        scores = [score(value, parts, part) for part in parts]
        if len(parts) > kept:
            best = sorted(sorted(range(len(parts)), key=lambda i: (-scores[i], i))[:kept])
            parts, scores = [parts[i] for i in best], [scores[i] for i in best]
        if all(len(part) == 1 for part in parts):
            return {part[0]: score for part, score in zip(parts, scores, strict=True)}


def loo(value, parts, part):
    every = {unit for other in parts for unit in other}
    return 2 * (value(every) - value(every - set(part)))


def single(value, parts, part):
    return value(set(part)) - value(set())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_units", "kept"), [(5, 1), (13, 2), (16, 3), (4, 6)])
def test_trac_llm_is_its_search_written_down_once_more(n_units, kept, seed):
    random = torch.Generator().manual_seed(seed)
    alone = torch.rand(n_units, generator=random).tolist()
    pairs = {pair: float(torch.randn((), generator=random)) for pair in combinations(range(n_units), 2)}

    def log_prob(removed):
        return -9.0 - sum(alone[i] for i in removed) - sum(pairs[p] for p in pairs if set(p) <= removed)

    def value(units):
        return log_prob(frozenset(range(n_units)) - units)

    found = [slow_search(value, n_units, kept, score) for score in (loo, single)]
    expected = {unit: max(own.get(unit, -math.inf) for own in found) for own in found for unit in own}
    selection = TracLLM(kept=kept, permutations=0).run(jopa.Problem(TableScorer(n_units, log_prob)), 1)
    assert dict(zip(selection.details["found"], selection.details["scores"], strict=True)) == pytest.approx(
        expected, abs=1e-5
    )
    assert selection.removed == (max(expected, key=lambda unit: (expected[unit], -unit)),)


def test_trac_llm_finds_one_source_among_many_units_at_little_cost():
    table = TableScorer(200, lambda removed: -1.0 - 8.0 * (137 in removed) - 0.001 * len(removed))
    selection = TracLLM(kept=2, permutations=2).run(jopa.Problem(table), 1)
    assert selection.removed == (137,)
    assert len(table.asked) < 160


def test_trac_llm_finds_a_source_that_stands_twice_because_its_segments_are_kept_alone():
    table = TableScorer(64, lambda removed: -1.0 - 8.0 * (removed >= {9, 50}))
    assert set(TracLLM(kept=4).run(jopa.Problem(table), 2).removed) == {9, 50}


@pytest.mark.parametrize("n_units", [1, 2, 7, 33, 100])
def test_trac_llm_says_before_how_many_masks_it_takes(n_units):
    for method in (TracLLM(), TracLLM(kept=1, permutations=0), TracLLM(single=False)):
        table = TableScorer(n_units, lambda removed: -1.0 - len(removed))
        method.run(jopa.Problem(table), 1)
        assert len(table.asked) <= method.most_masks(n_units, 1)


def test_trac_llm_keeps_at_least_k_segments():
    table = TableScorer(30, lambda removed: -1.0 - sum(0.1 * unit for unit in removed))
    assert set(TracLLM(kept=1, permutations=0).run(jopa.Problem(table), 4).removed) == {26, 27, 28, 29}


def test_methods_that_need_the_empty_prompt_say_what_to_do(llama):
    prompt = jopa.build_prompt(llama.tokenizer, TEXT, plain=True)
    problem = jopa.Problem(jopa.ModelScorer(llama, prompt, OUTPUT, "delete"))
    for method in (CAMAB(), TracLLM()):
        with pytest.raises(jopa.PromptError, match=r"score of the prompt without any unit.*use removal 'zero'"):
            method.run(problem, 2)
    assert problem.evaluations == 0


# AttnTrace


@torch.no_grad()
def plain_attention(model, scorer, removed):
    """For each kept unit the attention to its tokens, from transformers' own weights."""
    ids = kept_ids(scorer, removed)
    inputs = torch.tensor([[*(id_ for id_, _ in ids), *OUTPUT.ids]])
    before = model.model.config._attn_implementation
    model.model.set_attn_implementation("eager")
    try:
        layers = model.model(inputs, output_attentions=True).attentions
    finally:
        model.model.set_attn_implementation(before)
    rows = slice(len(ids) - 1 + OUTPUT.target[0], len(ids) - 1 + OUTPUT.target[1])
    weights = torch.stack([layer[0, :, rows].mean(dim=(0, 1)) for layer in layers]).mean(dim=0)
    found = {}
    for n, (_, unit) in enumerate(ids):
        if unit is not None:
            found.setdefault(unit, []).append(float(weights[n]))
    return found


@pytest.mark.parametrize("removal", ["delete", "zero"])
def test_attn_trace_is_the_mean_of_plain_attention_over_its_draws(llama, removal):
    mine = scorer(llama, removal)
    asked = []
    plain = mine.token_attention

    def watched(keep):
        asked.append(set((~keep).nonzero()[:, 0].tolist()))
        return plain(keep)

    mine.token_attention = watched
    ranking = AttnTrace(top=2, subsamples=6, share=0.5).rank(jopa.Problem(mine), seed=2)
    assert len({frozenset(removed) for removed in asked}) > 1
    expected = [[] for _ in range(mine.n_units)]
    for removed in asked:
        for unit, weights in plain_attention(llama, mine, removed).items():
            best = sorted(weights, reverse=True)[:2]
            expected[unit].append(sum(best) / len(best))
    assert ranking.scores == pytest.approx([sum(own) / max(1, len(own)) for own in expected], abs=1e-6)


def test_attn_trace_counts_each_draw_at_its_length(llama):
    mine = scorer(llama)
    AttnTrace(subsamples=3, share=1.0).rank(jopa.Problem(mine))
    assert mine.ffe == pytest.approx(3 * (len(mine.prompt.ids) + 3) / (len(mine.prompt.ids) + 5))
