"""Every method ends on every problem, and what it says of its result is true.

Tables of all kinds: no removal helps, all sets are alike, values are huge or hardly differ, masks cost next to nothing.
The limit is on the number of masks asked for, never on time.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jopa
from jopa.methods.joint.search import JointSearch
from jopa.ordering import is_lower
from table_scorer import TableScorer, TableWhiteBoxScorer

HARMLESS = "makes the output less likely"
FAST = {
    "jopa-paper": {"steps": 10},
    "integrated-gradients": {"steps": 4},
    "continuous-mask": {"steps": 5},
    "shapley": {"permutations": 4},
    "context-cite": {"ablations": 16},
    "interactions": {"ablations": 24, "candidates": 4},
    "proxyspex": {"ablations": 40},
    "camab": {"queries": 8},
    "trac-llm": {"permutations": 2},
    "attn-trace": {"subsamples": 4},
}
SCORES = sorted(name for name, method in jopa.METHODS.items() if method.requires == "scores")
ON_TABLES = sorted(name for name, method in jopa.METHODS.items() if method.requires != "model")


class EndlessError(Exception):
    """More was asked than any search needs."""


@cache
def drawn(n_units, seed):
    """What each unit does alone, and each pair together."""
    random = torch.Generator().manual_seed(seed)
    return torch.rand(n_units, generator=random).tolist(), torch.randn(n_units, n_units, generator=random).tolist()


@dataclass(frozen=True)
class Table:
    """A function of the removed units."""

    kind: str
    n_units: int
    seed: int

    def __call__(self, removed: frozenset[int]) -> float:
        alone, together = drawn(self.n_units, self.seed)
        size, effect = len(removed), sum(alone[unit] for unit in sorted(removed))
        pairs = sum(together[i][j] for i in sorted(removed) for j in sorted(removed))
        return {
            "constant": -5.0,
            "rising": -50.0 + effect,
            "rising by size": -50.0 + size,
            "falling": -5.0 - effect,
            "falling by size": -5.0 - size,
            "any": -5.0 + pairs,
            "huge": -1e30 - 1e30 * effect,
            "huge any": 1e12 * (pairs - 1),
            "tiny": -5.0 + 1e-6 * pairs,
            "tiny scale": -1e-9 * (1 + effect),
            "parity": -5.0 - size % 2,
            "parity of some": -5.0 + sum(unit % 3 == 0 for unit in removed) % 2,
            "whole prompt certain": -1.0 * (size > 0),
        }[self.kind]


def limited(kind, most_asked, ffe_of_a_mask, *table):
    """A scorer that raises when too many masks are asked for, or how much that cost too often: a search that goes on
    with what it knows asks for no masks."""

    class Limited(kind):
        looks = 0

        @property
        def ffe(self):
            self.looks += 1
            if self.looks > 300 + 10 * most_asked:
                raise EndlessError("the search goes on with what it knows")
            return ffe_of_a_mask * len(self.asked)

        def log_probs(self, keep):
            if len(self.asked) + len(keep) > most_asked:
                raise EndlessError(f"more than {most_asked} masks asked for")
            return super().log_probs(keep)

    return Limited(*table)


def check(problem, selection, k):
    """Distinct units, a reason, the best that was scored, and a true certificate."""
    assert len(selection.removed) == len(set(selection.removed)) == k
    assert all(type(unit) is int and 0 <= unit < problem.n_units for unit in selection.removed)
    assert selection.stop
    value = problem.log_prob(selection.removed)
    scored = {units: problem.log_prob(units) for units in set(problem.scorer.asked) if len(units) == k}
    certificate = problem.certificate(selection.removed)
    better = [units for units, other in scored.items() if is_lower(other, value)]
    if certificate == "optimal":
        assert len(scored) == math.comb(problem.n_units, k)
        assert not better
    if certificate == "one-swap-optimal":
        assert not [units for units in better if len(units & set(selection.removed)) == k - 1]
    return better


def check_search(problem, selection, k):
    """The same of the default search, which keeps the best that it scored."""
    assert not check(problem, selection, k)
    if not selection.trace:
        return
    assert selection.trace[-1].log_prob == pytest.approx(problem.log_prob(selection.removed), rel=1e-6)
    assert not any(is_lower(earlier.log_prob, later.log_prob) for earlier, later in pairwise(selection.trace))
    helps = is_lower(problem.log_prob(selection.removed), problem.log_prob())
    assert helps == (HARMLESS not in selection.stop)


def test_nine_units_that_do_nothing_and_masks_that_cost_next_to_nothing():
    scorer = limited(TableScorer, 200, 0.05, 9, lambda removed: -5.0)
    problem = jopa.Problem(scorer)
    selection = JointSearch(budget=50).run(problem, 3)
    check_search(problem, selection, 3)
    assert selection.removed == (0, 1, 2)
    assert selection.stop.endswith("no removal tried makes the output less likely")
    assert problem.certificate(selection.removed) == "one-swap-optimal"


def test_all_sets_are_scored_and_none_helps():
    scorer = limited(TableScorer, 100, 1.0, 6, lambda removed: -9.0 + len(removed) - 0.5 * (4 in removed))
    problem = jopa.Problem(scorer)
    selection = JointSearch().run(problem, 2)
    assert selection.removed == (0, 4)
    assert selection.stop == "all 15 sets of 2 scored; no removal makes the output less likely"
    assert problem.certificate(selection.removed) == "optimal"
    assert len(selection.trace) == 1
    assert selection.trace[0].log_prob == -7.5


def test_a_budget_that_nothing_is_taken_from_still_ends():
    scorer = limited(TableScorer, 320, 0.0, 60, Table("any", 60, 0))
    problem = jopa.Problem(scorer)
    check_search(problem, JointSearch(budget=3).run(problem, 5), 5)


def test_a_clock_that_stands_still(monkeypatch):
    monkeypatch.setattr("jopa.methods.joint.cost_meter.time.perf_counter", lambda: 0.0)
    problem = jopa.Problem(limited(TableScorer, 60, 1.0, 30, Table("any", 30, 1)))
    check_search(problem, JointSearch(budget=50, seconds=1.0).run(problem, 3), 3)


tables = st.builds(
    Table,
    kind=st.sampled_from(
        "constant,rising,rising by size,falling,falling by size,any,huge,huge any,tiny,tiny scale,parity,"
        "parity of some,whole prompt certain".split(",")
    ),
    n_units=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
costs = st.sampled_from([0.0, 1e-6, 0.05, 0.3, 1.0, 2.5, 1000.0])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(table=tables, k=st.integers(1, 12), cost=costs, budget=st.integers(1, 80), batch=st.integers(1, 6))
def test_the_default_search_ends_on_every_black_box(table, k, cost, budget, batch):
    k = min(k, table.n_units)
    problem = jopa.Problem(limited(TableScorer, 2**table.n_units + 1, cost, table.n_units, table))
    check_search(problem, JointSearch(budget=budget, batch=batch).run(problem, k), k)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(table=tables, sizes=st.sets(st.integers(1, 12), min_size=1, max_size=4), cost=costs, budget=st.integers(1, 80))
def test_nested_sizes_end_as_well(table, sizes, cost, budget):
    ks = [k for k in sizes if k <= table.n_units] or [1]
    problem = jopa.Problem(limited(TableScorer, 2**table.n_units + 1, cost, table.n_units, table))
    for k, selection in zip(ks, JointSearch(budget=budget).run_nested(problem, ks), strict=True):
        check_search(problem, selection, k)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(table=tables, k=st.integers(1, 12), cost=costs, budget=st.integers(1, 80))
def test_the_default_search_ends_where_it_looks_inside(table, k, cost, budget):
    n_units = min(table.n_units, 6)
    table = Table(table.kind, n_units, table.seed)
    problem = jopa.Problem(limited(TableWhiteBoxScorer, 2**n_units + 1, cost, n_units, table))
    check_search(problem, JointSearch(budget=budget).run(problem, min(k, n_units)), min(k, n_units))


@pytest.mark.parametrize("name", ON_TABLES)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(table=tables, k=st.integers(1, 12), cost=costs, seed=st.integers(0, 3))
def test_every_method_ends(name, table, k, cost, seed):
    if name == "proxyspex":
        pytest.importorskip("shapiq")
    n_units = min(table.n_units, 5)
    k, table = min(k, n_units), Table(table.kind, n_units, table.seed)
    kind = TableScorer if name in SCORES else TableWhiteBoxScorer
    problem = jopa.Problem(limited(kind, 2**n_units + 1, cost, n_units, table))
    check(problem, jopa.make_method(name, **FAST.get(name, {})).run(problem, k, seed=seed), k)


@pytest.mark.parametrize("strange", [-math.inf, math.nan])
@pytest.mark.parametrize("name", ON_TABLES)
def test_a_score_that_is_no_number_ends_every_method(name, strange):
    """Of the whole prompt, of units alone, of pairs: one documented error, or a set that needed none of these."""
    if name == "proxyspex":
        pytest.importorskip("shapiq")
    kind = TableScorer if name in SCORES else TableWhiteBoxScorer
    for size in (0, 1, 2):
        scorer = limited(kind, 300, 1.0, 5, lambda removed, size=size: strange if len(removed) == size else -5.0)
        problem = jopa.Problem(scorer)
        try:
            selection = jopa.make_method(name, **FAST.get(name, {})).run(problem, 2)
        except jopa.ScoringError:
            continue
        assert len(set(selection.removed)) == 2
        assert size not in {len(units) for units in scorer.asked}
        if size == 2:
            with pytest.raises(jopa.ScoringError, match=r"as a log-probability with units \[\d, \d\] removed"):
                problem.log_prob(selection.removed)
