"""The search with a proxy, on tables: what the proxy may and may not do, the budget, and the search without one."""

import math
from itertools import combinations

import pytest
import torch

import jopa
import tiny_models
from jopa.methods.proxy_search import ProxySearch
from jopa.prompt.repeated_tokens import RepeatedToken
from table_scorer import TableScorer, TableWhiteBoxScorer, best_sets

N = 24


class Proxy:
    """Scores that a function of the removed units gives at some hundredths of a forward; counts what it is asked."""

    ffe = 0.03

    def __init__(self, n_units, log_prob, gradient):
        self._table = (TableWhiteBoxScorer if gradient else TableScorer)(n_units, log_prob)
        self._gradient = gradient
        self.masks = 0
        self.gradients = 0

    def log_probs(self, keep):
        self.masks += len(keep)
        return self._table.log_probs(keep)

    def gradient(self, factors):
        self.gradients += 1
        return None if self._gradient is None else self._gradient(factors)


class Scorer(TableScorer):
    """A table with a proxy; the proxy's masks count as work."""

    def __init__(self, n_units, log_prob, proxy=None, gradient=None):
        super().__init__(n_units, log_prob)
        self.proxy = Proxy(n_units, proxy or log_prob, gradient)

    @property
    def ffe(self):
        return len(self.asked) + 0.03 * (self.proxy.masks + 3 * self.proxy.gradients)

    def approximation(self):
        return self.proxy


def sources(*units, fall=6.0):
    """Each of these units says the same: only together is their loss felt. Others matter a little, alone."""

    def log_prob(removed):
        return -2.0 - fall * (removed >= set(units)) - 0.05 * len(removed & {0, 1, 2})

    return log_prob


def run(log_prob, k, budget=8, **proxy):
    scorer = Scorer(N, log_prob, **proxy)
    return ProxySearch(budget=budget).run(jopa.Problem(scorer), k), scorer


@pytest.mark.parametrize("planted", [(7,), (5, 17), (4, 11, 20)])
def test_a_source_in_several_copies_is_found(planted):
    found, _ = run(sources(*planted), k=len(planted), budget=12 if len(planted) == 1 else 30)
    if len(planted) < 3:  # a sweep sees one unit more than the chosen ones
        assert set(found.removed) == set(planted)
    assert found.details["proxy_masks"] > 0 and "without_proxy" not in found.details


def test_the_proxy_proposes_and_exact_scores_decide():
    """The proxy takes unit 3 for the strongest; it is exact scores that show it is not."""

    def exact(removed):
        return -1.0 - 2.0 * (9 in removed) - 0.5 * (3 in removed)

    def proxy(removed):
        return -1.0 - 1.8 * (9 in removed) - 2.0 * (3 in removed)

    found, scorer = run(exact, k=1, budget=8, proxy=proxy)
    assert found.removed == (9,)
    assert found.trace[-1].log_prob == pytest.approx(-3.0)
    assert frozenset({3}) in scorer.asked  # the proxy's favourite was scored first


def test_every_number_of_the_trace_is_exact():
    def proxy(removed):
        return -100.0 - len(removed)

    found, scorer = run(sources(2), k=1, proxy=proxy)
    scored = [sources(2)(units) for units in scorer.asked]
    assert all(min(abs(step.log_prob - score) for score in scored) < 1e-5 for step in found.trace)


@pytest.mark.parametrize("budget", [1, 2, 5, 8, 20])
@pytest.mark.parametrize("k", [1, 3])
def test_the_budget_holds(budget, k):
    found, scorer = run(sources(6), k=k, budget=budget)
    assert scorer.ffe <= budget + 2  # the whole prompt, and a last set
    assert len(found.removed) == k
    assert ProxySearch(budget=budget).most_ffe(N, k) == budget + 1


def test_where_all_sets_are_affordable_all_are_scored():
    found, scorer = run(sources(6), k=1, budget=N + 5)
    assert "all 24 sets of 1 scored" in found.stop
    assert scorer.proxy.masks == 0
    assert set(scorer.asked) == {frozenset(), *(frozenset({unit}) for unit in range(N))}


def test_without_a_proxy_exact_scores_take_its_place_and_the_search_says_so():
    scorer = TableScorer(N, sources(6))
    problem = jopa.Problem(scorer)
    found = ProxySearch(budget=20).run(problem, 2)
    assert 6 in found.removed
    assert "exact scores took its place" in found.details["without_proxy"]
    assert problem.ffe <= 22


@pytest.mark.parametrize("budget", range(1, 9))
@pytest.mark.parametrize(("n_units", "k"), [(5, 2), (12, 1), (N, 3), (N, N - 1)])
def test_without_a_proxy_a_small_budget_holds_and_some_unit_always_stays(n_units, k, budget):
    scorer = TableScorer(n_units, sources(1))
    problem, method = jopa.Problem(scorer), ProxySearch(budget=budget)
    found = method.run(problem, k)
    assert len(set(found.removed)) == k
    assert problem.ffe <= method.most_ffe(n_units, k)
    assert all(len(units) < n_units for units in scorer.asked)  # a prompt without a template has nothing else


class Repeating(TableScorer):
    """An answer that repeats words of the prompt: units 7 and 9 hold one each, unit 9 the one it says twice."""

    def repeated_tokens(self):
        return [RepeatedToken(frozenset({7}), (0,)), RepeatedToken(frozenset({9}), (2, 3))]


@pytest.mark.parametrize(("budget", "n_sets"), [(1, 1), (2, 1), (3, 2)])
def test_without_a_proxy_a_tiny_budget_tries_repeated_words_first_and_says_so(budget, n_sets):
    scorer = Repeating(N, lambda removed: -1.0 - 2.0 * (9 in removed))
    found = ProxySearch(budget=budget).run(jopa.Problem(scorer), 2)
    assert found.removed == (7, 9)
    assert scorer.asked == [frozenset(), *[frozenset({9, 7}), frozenset({0, 1})][:n_sets]]
    assert "too little to compare units without a proxy" in found.stop
    assert found.stop.count("words that the answer repeats first") == 1


def test_without_a_proxy_and_words_a_tiny_budget_keeps_the_better_of_two_sets():
    scorer = TableScorer(N, sources(3))
    found = ProxySearch(budget=3).run(jopa.Problem(scorer), 2)
    assert found.removed == (2, 3)
    assert "2 sets scored, the prompt's beginning first" in found.stop


def test_a_gradient_guides_the_sweep_where_there_are_more_units_than_masks():
    def gradient(factors):
        return torch.tensor([5.0 * (unit == 19) for unit in range(N)])

    found, scorer = run(sources(19), k=1, budget=1, gradient=gradient)
    assert found.removed == (19,)
    assert scorer.proxy.gradients >= 1


def test_a_removal_that_makes_the_answer_likelier_is_said():
    found, _ = run(lambda removed: -3.0 + 0.1 * len(removed), k=2)
    assert "no removal tried makes the output less likely" in found.stop


def test_it_is_as_good_as_looking_at_every_pair_of_a_random_table():
    generator = torch.Generator().manual_seed(3)
    alone = torch.rand(N, generator=generator)
    together = torch.rand(N, N, generator=generator)

    def exact(removed):
        units = sorted(removed)
        return -float(sum(alone[i] for i in units) + sum(0.3 * together[i, j] for i, j in combinations(units, 2)))

    def proxy(removed):
        return 0.8 * exact(removed)

    found, _ = run(exact, k=2, budget=30, proxy=proxy)
    best = best_sets(TableScorer(N, exact), 2)
    assert exact(frozenset(found.removed)) <= 0.95 * exact(next(iter(best)))


def test_the_same_call_gives_the_same_set_whatever_the_seed():
    one, _ = run(sources(5, 17), k=2)
    scorer = Scorer(N, sources(5, 17))
    other = ProxySearch(budget=8).run(jopa.Problem(scorer), 2, seed=9)
    assert one.removed == other.removed


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_below_one_is_refused(budget):
    with pytest.raises(jopa.SettingError, match="at least 1"):
        ProxySearch(budget=budget)
    assert ProxySearch().with_budget(3) == ProxySearch(budget=3)


def test_a_model_s_own_proxy_is_used_and_what_is_found_can_be_redone():
    model = tiny_models.language_model("llama")
    text = "write a story about the doctor and his patient in rain please tell me what you think of green birds"
    found = jopa.explain(text, k=2, model=model, unit="word", output="once upon time there was a doctor",
                         method=ProxySearch(budget=6))  # fmt: skip
    prompt = jopa.build_prompt(model.tokenizer, text, unit="word")
    output = jopa.Output(found.output_ids, found.output, found.target)
    problem = jopa.Problem(jopa.ModelScorer(model, prompt, output, removal=found.removal))
    assert found.log_prob_removed == pytest.approx(problem.log_prob(found.removed), abs=1e-4)
    assert found.details is not None
    assert math.isfinite(found.details["proxy_ffe"]) and found.details["proxy_masks"] > 0
    assert found.ffe <= 6 + 3
