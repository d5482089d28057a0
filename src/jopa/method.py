"""What a method is: a way to choose k units, as an immutable value, and what it returns.

A method asks a `Problem` for scores and returns a `Selection`; the Problem, not the method, scores the selection.

Knows problems, never a tokenizer or a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from jopa.choices import LOG_PROBABILITY
from jopa.errors import SettingError
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
        """Choose for each k the units with the highest scores, the first of equals, from one ranking."""
        for k in ks:
            self.validate(problem.shape, k)
        ranking = self.rank(problem, seed=seed)
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
