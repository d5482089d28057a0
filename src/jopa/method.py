"""What a method is: a way to choose k units, as an immutable value, and what it returns.

A method asks a `Problem` for scores and returns a `Selection`; the Problem, not the method, scores the selection.

Knows problems, never a tokenizer or a model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from jopa.choices import LOG_PROBABILITY, real_number, whole_number
from jopa.errors import ScoringError, SettingError
from jopa.json_values import json_value
from jopa.ordering import ranked
from jopa.problem import Problem, ProblemShape

if TYPE_CHECKING:
    from jopa.scoring.protocols import Capability

_CAPABILITY_NAMES = {
    "scores": "scores",
    "distribution": "output distributions",
    "gradient": "gradients",
    "attention": "attention weights",
    "token-attention": "attention weights of tokens",
    "model": "the model itself",
}


def require_k(k: int, n_units: int) -> None:
    """Refuse a number of units that the prompt does not have.

    Raises:
        SettingError: naming the legal range.
    """
    if not 1 <= k <= n_units:
        raise SettingError(f"k must be between 1 and the prompt's {n_units} units, got {k}")


@dataclass(frozen=True)
class TraceStep:
    """The state of a search after a step.

    Attributes:
        step: proposals made so far.
        log_prob: log p(y) with the current set removed (or, for a continuous mask, under the current mask), in nats.
        evaluations: masks scored so far.
        ffe: model work so far.
    """

    step: int
    log_prob: float
    evaluations: int
    ffe: float


@dataclass(frozen=True)
class Selection:
    """The k units a method chose.

    Attributes:
        removed: distinct unit indices.
        stop: why the method ended, in a few words.
        trace: the steps of a search; empty for methods that do not search.
        scores: one a unit, for methods that rank: the chosen units have the highest.
        details: further results of the method, such as standard errors; numbers, texts and lists of them.
    """

    removed: tuple[int, ...]
    stop: str
    trace: tuple[TraceStep, ...] = ()
    scores: tuple[float, ...] | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method(ABC):
    """A way to choose k units: an immutable value whose fields are its settings."""

    name: ClassVar[str]
    """As the command line calls it."""
    summary: ClassVar[str]
    """One line for people."""
    cost: ClassVar[str]
    """Its model work in full-forward equivalents, in a few words; T is the number of units."""
    requires: ClassVar[Capability] = "scores"
    """What it needs of a scorer: scores alone (a black box), output distributions, gradients, attention weights, or the
    model itself."""
    preset_removal: ClassVar[str] = "delete"
    """The removal it uses unless asked otherwise."""

    shares_work: ClassVar[bool] = False
    """Whether `select` answers several k with the work of one run."""
    needs_log_probs: ClassVar[bool] = False
    """Whether scores must be log-probabilities, and no other objective will do."""

    def validate(self, shape: ProblemShape, k: int) -> None:
        """Refuse, before an answer is generated or a mask scored, what the method cannot do.

        Args:
            shape: what is known of the problem.
            k: how many units are asked for.

        Raises:
            SettingError: k is out of range, or the scorer lacks what the method needs; the message names the value and
                the legal range, or the method and what is missing.
        """
        require_k(k, shape.n_units)
        self.require_capabilities(shape)

    def require_capabilities(self, shape: ProblemShape) -> None:
        """Refuse a model or scorer that lacks what the method needs, whatever the number of units.

        Raises:
            SettingError: naming the method and what is missing.
        """
        if self.requires not in shape.capabilities:
            raise SettingError(
                f"method '{self.name}' needs {_CAPABILITY_NAMES[self.requires]}, which this model or scorer does not "
                "give; choose a black-box method"
            )
        if self.needs_log_probs and shape.objective != LOG_PROBABILITY:
            raise SettingError(
                f"method '{self.name}' needs log-probabilities, and this model's scores are of objective "
                f"'{shape.objective}'; choose another, such as joint"
            )

    def most_masks(self, n_units: int, k: int) -> int | None:
        """How many masks one run scores at most; None where the method counts otherwise, or does not know before."""
        return None

    def most_ffe(self, n_units: int, k: int) -> float | None:
        """The model work of one run at most, in full-forward equivalents, of which a mask takes no more than one."""
        masks = self.most_masks(n_units, k)
        return None if masks is None else float(masks)

    def select(self, problem: Problem, ks: Sequence[int], *, seed: int = 0) -> Iterator[Selection]:
        """Choose k units for each k of `ks`, in their order, each when it is asked for.

        By default one run after another; a method whose runs can share work does so (`shares_work`).

        Raises:
            SettingError: as `run`.
        """
        return (self.run(problem, k, seed=seed) for k in ks)

    @abstractmethod
    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose k units.

        Args:
            problem: what to ask for scores.
            k: how many units, 1 ≤ k ≤ problem.n_units.
            seed: of everything random; the same seed gives the same selection.

        Raises:
            SettingError: k is out of range, or the scorer lacks what the method needs.
        """

    def with_budget(self, budget: int) -> Method:
        """The same method with a budget, in the method's own unit.

        Raises:
            SettingError: the method's cost is fixed.
        """
        raise SettingError(f"method '{self.name}' takes no budget: its cost is fixed by its settings")

    def with_share_of_rest(self, spent: float, n_runs: int) -> Method | None:
        """The same method for the next of `n_runs` runs that share what is left of its budget.

        Args:
            spent: model work of the runs before, in full-forward equivalents.
            n_runs: how many runs are left, this one included.

        Returns:
            The method; None where it has no budget in full-forward equivalents, so that nobody can say what is left.
        """
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """The method's name and the values of its fields."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        # A number of NumPy or torch as Python's own, which JSON can hold.
        own = {name: value.item() if hasattr(value, "item") else value for name, value in values}
        return {"name": self.name, **own}


@dataclass(frozen=True)
class Ranking:
    """A score for every unit, from which any k units can be chosen.

    Attributes:
        scores: one a unit; the higher, the more the unit matters.
        stop: why the method ended, in a few words.
        details: further results of the method.
    """

    scores: tuple[float, ...]
    stop: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RankingMethod(Method):
    """A method that scores units one by one; its k units are the k with the highest scores."""

    shares_work: ClassVar[bool] = True

    @abstractmethod
    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Score every unit."""

    def select(self, problem: Problem, ks: Sequence[int], *, seed: int = 0) -> Iterator[Selection]:
        """Choose for each k the units with the highest scores, the first of equals, from one ranking.

        Raises:
            ScoringError: `rank` gives no finite score for each unit.
        """
        for k in ks:
            self.validate(problem.shape, k)
        ranking = checked_ranking(self, self.rank(problem, seed=seed), problem.n_units)
        return (top_units(ranking, k) for k in ks)

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose the k units with the highest scores, the first of equals; see `Method.run`."""
        return next(self.select(problem, [k], seed=seed))


@dataclass(frozen=True)
class NestedMethod(Method):
    """A search that answers several k in one run; every evaluation is used for all of them."""

    shares_work: ClassVar[bool] = True

    @abstractmethod
    def run_nested(self, problem: Problem, ks: Sequence[int], *, seed: int = 0) -> list[Selection]:
        """Choose k units for each k of `ks`, in their order."""

    def select(self, problem: Problem, ks: Sequence[int], *, seed: int = 0) -> Iterator[Selection]:
        """Choose k units for each k of `ks` in one run."""
        return iter(self.run_nested(problem, ks, seed=seed))

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose k units; see `Method.run`."""
        return self.run_nested(problem, [k], seed=seed)[0]


def top_units(ranking: Ranking, k: int) -> Selection:
    """The selection of the k highest-ranked units: any k from one ranking."""
    return Selection(tuple(ranked(ranking.scores, k)), ranking.stop, scores=ranking.scores, details=ranking.details)


# What a method gave ---------------------------------------------------------------------------------------------------


def checked_selection(method: Method, selection: Any, k: int, n_units: int) -> Selection:
    """What a method gave for k, with Python's own numbers, if it keeps what `Selection` promises.

    A method may be anybody's, so whatever runs one goes on with what this returns.

    Raises:
        ScoringError: the selection breaks a promise; the message names the method and says what is wrong.
    """
    if not isinstance(selection, Selection):
        raise ScoringError(f"method '{method.name}' gave {type(selection).__name__}, no Selection")
    try:
        return replace(
            selection,
            removed=_own_units(selection.removed, k, n_units),
            stop=_own_text(selection.stop),
            trace=tuple(map(_own_step, selection.trace)),
            scores=None if selection.scores is None else _own_scores(selection.scores, n_units),
            details=_own_details(selection.details),
        )
    except _NO_SUCH_VALUE as error:
        raise ScoringError(f"method '{method.name}' gave a selection that cannot be used: {error}") from error


def checked_selections(method: Method, problem: Problem, ks: Sequence[int], *, seed: int = 0) -> Iterator[Selection]:
    """What a method selects for each k of `ks`, each when it is asked for, and each checked.

    Raises:
        ScoringError: as `checked_selection`; or there is not one selection for each k.
    """
    ks, given = tuple(ks), iter(method.select(problem, ks, seed=seed))
    for number, k in enumerate(ks):
        try:
            selection = next(given)
        except StopIteration:
            raise ScoringError(f"method '{method.name}' gave {number} selections for {len(ks)} k") from None
        yield checked_selection(method, selection, k, problem.n_units)
    if next(given, None) is not None:
        raise ScoringError(f"method '{method.name}' gave more than {len(ks)} selections for {len(ks)} k")


def checked_ranking(method: Method, ranking: Any, n_units: int) -> Ranking:
    """What a method ranked, with Python's own numbers, if there is a finite score for each unit.

    Raises:
        ScoringError: there is not; the message names the method and says what is wrong.
    """
    if not isinstance(ranking, Ranking):
        raise ScoringError(f"method '{method.name}' gave {type(ranking).__name__}, no Ranking")
    try:
        return replace(ranking, scores=_own_scores(ranking.scores, n_units))
    except _NO_SUCH_VALUE as error:
        raise ScoringError(f"method '{method.name}' gave a ranking that cannot be used: {error}") from error


_NO_SUCH_VALUE = (TypeError, ValueError, AttributeError, OverflowError, RecursionError)
"""What reading a value raises that is of another kind."""


def _own_units(units: Any, k: int, n_units: int) -> tuple[int, ...]:
    own = tuple(whole_number("each of 'removed'", unit) for unit in units)
    if len(own) != k or len(set(own)) < k or not all(0 <= unit < n_units for unit in own):
        raise ValueError(f"'removed' must be {k} different units from 0 to {n_units - 1}, got {list(own)!s:.60}")
    return own


def _own_text(stop: Any) -> str:
    if not isinstance(stop, str):
        raise TypeError(f"'stop' must be a text that says why it ended, got {stop!r:.60}")
    return str(stop)


def _own_step(step: Any) -> TraceStep:
    own = TraceStep(
        whole_number("'step' of the trace", step.step),
        real_number("'log_prob' of the trace", step.log_prob),
        whole_number("'evaluations' of the trace", step.evaluations),
        real_number("'ffe' of the trace", step.ffe),
    )
    if not math.isfinite(own.log_prob) or not math.isfinite(own.ffe) or min(own.step, own.evaluations, own.ffe) < 0:
        raise ValueError(f"a step of the trace is out of range: {own}")
    return own


def _own_scores(scores: Any, n_units: int) -> tuple[float, ...]:
    own = tuple(real_number("each of 'scores'", score) for score in scores)
    if len(own) != n_units:
        raise ValueError(f"'scores' must hold one number for each of the {n_units} units, got {len(own)}")
    for unit, score in enumerate(own):
        if not math.isfinite(score):
            raise ValueError(f"the score of unit {unit} is {score}; all must be finite (try dtype float32)")
    return own


def _own_details(details: Any) -> dict[str, Any]:
    if not isinstance(details, dict):
        raise TypeError(f"'details' must be a dict, got {details!r:.60}")
    try:
        return json_value(details)
    except _NO_SUCH_VALUE as error:
        raise ValueError(f"'details' must hold what JSON can hold: {error}") from error
