"""The checks that every method must pass, on planted problems; no model is needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from jopa.errors import ScoringError, SettingError
from jopa.method import Method, Selection, checked_selection
from jopa.methods import checked_method
from jopa.problem import Problem
from jopa.testing.planted import PLANTED, PlantedProblem
from jopa.testing.table_scorers import TableScorer, TableWhiteBoxScorer


def check_method(method: Method, *, problems: Iterable[str] = tuple(PLANTED), finds_dominant: bool = True) -> None:
    """Hold a method to what every method of jopa keeps; its author's test calls this.

    Checked, on each planted problem and for every k: the class is well formed; k distinct units are chosen; the same
    seed gives the same selection; every score is counted once; k out of range, and a scorer that lacks what the method
    needs, are refused before any work.

    Args:
        method: the method with its settings; make it cheap.
        problems: names of `PLANTED`.
        finds_dominant: the method promises to find a unit that alone nearly decides the output. False for a method that
            does not look at scores.

    Raises:
        AssertionError: the method breaks a promise; the message says which, on which problem.
        SettingError: its class is not well formed, or it needs the model itself, which no planted problem has.
    """
    checked_method(method.name, type(method))
    if method.requires == "model":
        raise SettingError(f"method '{method.name}' needs the model itself: try it on a tiny model")
    assert hash(method) == hash(method), f"{method.name}: cannot be hashed; all fields must be immutable"
    for item in fields(method):
        assert item.name in (type(method).__doc__ or ""), f"{method.name}: its docstring must explain '{item.name}'"
    for name in problems:
        planted = PLANTED[name]
        for k in range(1, planted.n_units + 1):
            _check_selection(method, planted, k, f"{method.name} on '{name}', k = {k}")
        for k in (0, planted.n_units + 1):
            _check_refusal(method, TableWhiteBoxScorer(planted.n_units, planted.log_prob), k)
    if method.requires != "scores":
        _check_refusal(method, TableScorer(PLANTED["pair"].n_units, PLANTED["pair"].log_prob), 1)
    if finds_dominant:
        removed = _selection(method, _problem(PLANTED["dominant"]), 1).removed
        assert removed == (3,), f"{method.name}: must find unit 3, which dominates, found {removed}"


def _problem(planted: PlantedProblem) -> Problem:
    return Problem(TableWhiteBoxScorer(planted.n_units, planted.log_prob))


def _check_selection(method: Method, planted: PlantedProblem, k: int, where: str) -> None:
    """One selection, chosen twice."""
    problem, again = _problem(planted), _problem(planted)
    try:
        selection, repeated = (_selection(method, on, k) for on in (problem, again))
    except ScoringError as error:
        raise AssertionError(f"{where}: {error}") from error
    assert selection.stop, f"{where}: must say why it ended (`stop`)"
    assert repeated == selection, f"{where}: the same seed gave another selection"
    scorer = problem.scorer
    assert isinstance(scorer, TableScorer)
    assert problem.evaluations == len(scorer.asked) == len(set(scorer.asked)), f"{where}: asked for scores by itself"


def _selection(method: Method, problem: Problem, k: int) -> Selection:
    return checked_selection(method, method.run(problem, k, seed=4), k, problem.n_units)


def _check_refusal(method: Method, scorer: TableScorer, k: int) -> None:
    """What cannot be done is refused, with the error of a wrong setting, before anything is scored."""
    what = f"{method.name}: k = {k} of {scorer.n_units} units with a {type(scorer).__name__}"
    try:
        method.run(Problem(scorer), k)
    except SettingError:
        assert not scorer.asked, f"{what} must be refused before any work; call `self.validate(problem.shape, k)` first"
        return
    raise AssertionError(f"{what} must be refused; call `self.validate(problem.shape, k)` first")
