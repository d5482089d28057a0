"""What a method gives is checked before anything is made of it, whoever wrote the method."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import jopa
from faulty_selections import FAULTS, RANKING_FAULTS, Giving, Scoring, giving, made
from jopa.explanation.searching import SearchOptions
from jopa.method import Method, NestedMethod, Ranking, Selection, TraceStep, checked_selection, checked_selections
from jopa.testing import TableScorer, check_method, redundant_pair


def methods():
    for name, (gives, words) in FAULTS.items():
        yield pytest.param(giving(Giving, gives), words, id=name)
    for name, (gives, words) in RANKING_FAULTS.items():
        yield pytest.param(giving(Scoring, gives), words, id=f"ranking: {name}")


def explained(method: Method, llama, **more):
    answer = jopa.Generation(4)
    return jopa.explain(
        "write a story about the doctor", model=llama, k=2, method=method, unit="word", output=answer, **more
    )


@pytest.mark.parametrize(("method", "words"), list(methods()))
def test_a_selection_that_breaks_a_promise_is_an_error_that_names_the_method(method, words, llama):
    with pytest.raises(jopa.ScoringError, match=f"method '{method.name}' gave ") as raised:
        explained(method, llama)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("method", "words"), list(methods()))
def test_the_check_for_authors_finds_it_too(method, words):
    with pytest.raises(AssertionError, match=rf"^{method.name} on 'pair', k = \d: method '{method.name}' gave "):
        check_method(method, problems=["pair"], finds_dominant=False)


def test_the_search_for_a_sufficient_set_checks_each_size(llama):
    method = giving(Giving, lambda k, n: Selection(tuple(range(k)) if k < 3 else (0, 0, 1), "s"))
    with pytest.raises(jopa.ScoringError, match="must be 3 different units"):
        explained(method, llama, search=SearchOptions(until_pr=1e-30, max_k=4))


@dataclass(frozen=True)
class Nested(NestedMethod):
    """Answers another number of k than it was asked for."""

    name: ClassVar[str] = "nested"
    summary: ClassVar[str] = "answers too many k or too few"
    cost: ClassVar[str] = "0"
    more: int = 0

    def run_nested(self, problem, ks, *, seed=0):
        found = [Selection(tuple(range(k)), "s") for k in ks]
        return found[: self.more] if self.more < 0 else [*found, *found[: self.more]]


@pytest.mark.parametrize(("more", "words"), [(-1, "gave 1 selections for 2 k"), (1, "gave more than 2 selections")])
def test_there_is_one_selection_for_each_k(more, words):
    problem = jopa.Problem(TableScorer(6, redundant_pair))
    with pytest.raises(jopa.ScoringError, match=words):
        list(checked_selections(Nested(more), problem, [1, 2]))
    assert [found.removed for found in checked_selections(Nested(), problem, [1, 2])] == [(0,), (0, 1)]


ALIKE = {
    "a tuple of NumPy's": lambda k, n: made(Selection, tuple(np.arange(k)), "s"),
    "an array": lambda k, n: made(Selection, np.arange(k), np.str_("s")),
    "float32 scores": lambda k, n: made(Selection, (0, 1), "s", scores=tuple(np.float32(i) for i in range(n))),
    "an array of scores": lambda k, n: made(Selection, (0, 1), "s", scores=np.arange(n, dtype=np.float32)),
    "steps": lambda k, n: made(Selection, (0, 1), "s", trace=[made(TraceStep, *np.array([1, 2, 3, 4]))]),
    "details": lambda k, n: made(Selection, (0, 1), "s", details={
        "error": np.float32(0.5), "counts": np.arange(2), "each": {"a": np.array([[1.0], [2.0]])},
        "sure": np.bool_(True), "long": np.longdouble(1), "kinds": {2}, np.int64(7): None,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_numbers_of_numpy_are_taken_as_python_s_own(name, llama):
    found = explained(giving(Giving, ALIKE[name]), llama)
    assert set(found.removed) == {0, 1}
    assert all(type(unit) is int for unit in found.removed)
    assert jopa.Attribution.from_json(found.to_json()).removed == found.removed
    if name == "details":
        assert found.details is not None
        ours = {"error": 0.5, "counts": [0, 1], "each": {"a": [[1.0], [2.0]]}, "sure": True, "long": 1.0, "kinds": [2]}
        assert {key: found.details[key] for key in ours} == ours


def test_an_array_of_scores_ranks():
    method = giving(Scoring, lambda n: made(Ranking, np.arange(n, dtype=np.float32), "s"))
    problem = jopa.Problem(TableScorer(6, redundant_pair))
    assert method.run(problem, 2).removed == (5, 4)
    assert checked_selection(method, method.run(problem, 2), 2, 6).scores == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    check_method(method, problems=["pair"], finds_dominant=False)
