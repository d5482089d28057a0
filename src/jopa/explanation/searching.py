"""What a search looks for, and one search: a method on a prompt and output that are ready, and what it found.

selection (of k units, or the smallest that brings PR below a value) → joint and individual effects, certificate
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from jopa.choices import Certificate, Removal, real_number, whole_number
from jopa.errors import LimitError, SettingError
from jopa.evaluation.metrics import probability_ratio
from jopa.explanation.level import require_finer
from jopa.method import Method, Selection, checked_selection, checked_selections
from jopa.model.generation import Generation
from jopa.ordering import NAT, first_lowest, ranked
from jopa.preparation import Callbacks, Preparation
from jopa.problem import SENDING_LIMIT, Problem, SharedScores, joint_effects
from jopa.scoring.protocols import LimitedScorer, PromptScorer

MAX_K = 10
"""The most units that a search for the smallest sufficient set removes, unless told otherwise."""
SEED_LIMIT = 2**32
"""Seeds are below this: the largest range that torch, numpy and scikit-learn share."""


@dataclass(frozen=True)
class SearchOptions:
    """What a search looks for, and what is measured of the set that it finds.

    Attributes:
        until_pr: find the smallest k, from 1 to `max_k`, whose joint removal brings PR below this value. Where none
            does, the set with the lowest PR is given and `stop` says so; `details["until_pr"]` tells every k that was
            tried, its PR and certificate, and whether the value was reached.
        max_k: the most units to remove for `until_pr`; 10 or all units of the prompt, if they are fewer.
        all_effects: also score every unit removed alone.
        counterfactual: how the answer without the chosen units is generated; by default in the same way as the output.
        seed: of the search's random choices, from 0.
        refine: finer kinds of units, such as `("sentence",)`: what is asked for as `unit` is searched first, then the
            finer units inside the chosen ones and a few runners-up; see `jopa.explanation.refining`. By default so for
            inputs of more than 5,000 tokens whose unit is not named (`jopa.explanation.planning`); `()` never.
        budget: how much the search may spend on all levels, in the method's own unit; by default as the method says.
    """

    until_pr: float | None = None
    max_k: int | None = None
    all_effects: bool = False
    counterfactual: Generation | None = None
    seed: int = 0
    refine: Sequence[str] | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_k", "seed", "budget"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(name, value))
        if self.until_pr is not None:
            object.__setattr__(self, "until_pr", real_number("until_pr", self.until_pr))
        if self.max_k is not None and self.until_pr is None:
            raise SettingError("max_k limits the search for until_pr; give until_pr, too, or k instead")
        if self.until_pr is not None and not 0 < self.until_pr <= 1:
            raise SettingError(f"until_pr must be above 0 and at most 1, got {self.until_pr:g}")
        if self.max_k is not None and self.max_k < 1:
            raise SettingError(f"max_k must be at least 1, got {self.max_k}")
        if not 0 <= self.seed < SEED_LIMIT:
            raise SettingError(f"seed must be from 0 to {SEED_LIMIT - 1}, got {self.seed}")
        require_finer(() if self.refine is None else self.refine)
        if not isinstance(self.counterfactual, Generation | None):
            raise SettingError(f"counterfactual must be Generation(…), got {self.counterfactual!r:.60}")
        if self.refine and self.all_effects:
            raise SettingError("refine leaves units out that all_effects would score; leave out one of them")

    def largest_k(self, k: int, n_units: int) -> int:
        """The most units that a search for k, or for `until_pr` in its place, removes from a prompt."""
        return k if self.until_pr is None else min(self.max_k or MAX_K, n_units)


@dataclass(frozen=True)
class SearchOutcome:
    """What a method chose, and what was measured of it; scores are log-probabilities in nats or similarities.

    Attributes:
        removed: the chosen units, the one with the largest individual effect first.
        joint, individual: by how much the score falls without them, and without each of them alone.
        effects: the latter of every unit of the prompt; None unless asked for.
        evaluations, ffe, repeats, seconds: what the search alone spent; repeats are masks that it asked for again.
    """

    problem: Problem
    selection: Selection
    removed: tuple[int, ...]
    score: float
    joint: float
    individual: tuple[float, ...]
    effects: tuple[float, ...] | None
    certificate: Certificate
    evaluations: int
    ffe: float
    repeats: int
    seconds: float


def search_units(
    preparation: Preparation,
    k: int,
    method: Method,
    removal: Removal,
    search: SearchOptions,
    callbacks: Callbacks,
    shared: SharedScores | None = None,
    stage: str = "searching",
) -> SearchOutcome:
    """Search, then measure what was found; `stage` is the name that the callback for progress gets."""
    k = search.largest_k(k, len(preparation.prompt.units))

    def report_search(done: int, total: int | None) -> None:
        if callbacks.progress:
            callbacks.progress(stage, done, total)

    started = time.perf_counter()
    scorer = preparation.scorer(removal)
    problem = Problem(scorer, report_search, shared)
    score = problem.log_prob()
    if callbacks.on_best:
        problem.watch(k, callbacks.on_best)
    with _room_for_evidence(scorer, 1 + (problem.n_units if search.all_effects else k)):
        if search.until_pr is None:
            selection = select_within_limit(problem, method, k, seed=search.seed)
        else:
            selection = smallest_sufficient(problem, method, search.until_pr, k, seed=search.seed)
    seconds = time.perf_counter() - started
    evaluations, ffe, repeats = problem.evaluations, problem.ffe, problem.repeats

    certificate = problem.certificate(selection.removed)
    alone = range(problem.n_units) if search.all_effects else selection.removed
    joint, *effects = joint_effects(problem, [selection.removed, *([i] for i in alone)])
    effect_of = dict(zip(alone, effects, strict=True))
    chosen = sorted(selection.removed)
    removed = tuple(chosen[i] for i in ranked([effect_of[i] for i in chosen], least_scale=NAT))
    return SearchOutcome(
        problem=problem,
        selection=selection,
        removed=removed,
        score=score,
        joint=joint,
        individual=tuple(effect_of[i] for i in removed),
        effects=tuple(effects) if search.all_effects else None,
        certificate=certificate,
        evaluations=evaluations,
        ffe=ffe,
        repeats=repeats,
        seconds=seconds,
    )


@contextmanager
def _room_for_evidence(scorer: PromptScorer, masks: int) -> Iterator[None]:
    """During a search, reserve enough of the token limit for `masks` masks and one answer."""
    if not isinstance(scorer, LimitedScorer):
        yield
        return
    scorer.reserve(masks)
    try:
        yield
    finally:
        scorer.reserve(0)


def select_within_limit(problem: Problem, method: Method, k: int, *, seed: int = 0) -> Selection:
    """What a method chooses; where the limit of tokens ends it, the best set of the scores so far.

    Raises:
        LimitError: the limit ended it before there was any set.
    """
    try:
        return checked_selection(method, method.run(problem, k, seed=seed), k, problem.n_units)
    except LimitError:
        best = problem.best_known(k)
        if best is None:
            raise
        return Selection(best, f"{SENDING_LIMIT}; the best set by the {problem.evaluations:,} masks scored")


def smallest_sufficient(problem: Problem, method: Method, until_pr: float, max_k: int, *, seed: int = 0) -> Selection:
    """The smallest set whose removal brings PR below `until_pr`, of those that a method finds for k = 1 to `max_k`.

    A method that answers several k with the work of one run does so; any other method runs k by k until a set is
    sufficient. Where the limit of tokens ends it, the best set that was scored stands for each k that it did not
    answer; a k of which none was scored is left out. That no smaller set is sufficient is proved where `certificate`
    says "optimal" for every smaller k; otherwise the method found none.

    Raises:
        LimitError: the limit ended it before any set of up to `max_k` units was scored.

    Returns:
        The selection, or where none is sufficient, that with the lowest PR, the smaller one of equals; its `stop` says
        which it is. `details["until_pr"]` holds the value (`pr`), whether it was reached (`reached`) and, for every k
        tried (`tried`), its `k`, `pr` and `certificate`.
    """
    n_tokens = problem.token_log_probs([()]).shape[1]
    tried: list[tuple[float, Selection]] = []
    ended = ""

    def sufficient(selections: Iterator[Selection]) -> bool:
        """Add selections to those tried, until one is sufficient; whether one is."""
        for selection in selections:
            ratio = probability_ratio(problem.log_prob(), problem.log_prob(selection.removed), n_tokens)
            tried.append((ratio, selection))
            if ratio < until_pr:
                return True
        return False

    try:
        sufficient(checked_selections(method, problem, range(1, max_k + 1), seed=seed))
    except LimitError:  # what was scored before stands
        sufficient(_best_scored(problem, range(len(tried) + 1, max_k + 1)))
        if not tried:
            raise
        ended = f"; {SENDING_LIMIT}"
    reached = tried[-1][0] < until_pr
    chosen = tried[-1 if reached else first_lowest([problem.log_prob(s.removed) for _, s in tried])][1]
    most = f"{max_k} unit{'' if max_k == 1 else 's'}"
    found = f"PR falls below {until_pr:g} with {len(chosen.removed)} of at most {most}"
    if not reached:
        found = f"no set of up to {most} was found that brings PR below {until_pr:g}; this one brings it lowest"
    record = {
        "pr": until_pr,
        "reached": reached,
        "tried": [
            {"k": len(s.removed), "pr": ratio, "certificate": problem.certificate(s.removed)} for ratio, s in tried
        ],
    }
    return replace(chosen, stop=f"{found}; {chosen.stop}{ended}", details={**chosen.details, "until_pr": record})


def _best_scored(problem: Problem, ks: Iterable[int]) -> Iterator[Selection]:
    """The best set of each size that was scored; nothing of a size of which none was."""
    for k in ks:
        best = problem.best_known(k)
        if best is not None and frozenset(best) in problem.scored:
            yield Selection(best, f"the best set of {k} by the {problem.evaluations:,} masks scored")
