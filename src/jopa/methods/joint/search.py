"""The default search: a surrogate model proposes sets of k units, and the model scores them.

    weights   how much each unit may matter: the norm of the gradient by its embeddings, ‖∂ log p(y) / ∂ e_i‖₂, where
              the scorer gives gradients; else the effect of its segment of the prompt. The weight is larger where the
              answer repeats the unit's words and would lose them without the prompt (`priors`)
    start     every unit is removed once: alone, or in a long prompt together with its segment; and each word that the
              answer repeats is removed wherever it stands (`initial_sets`)
    rounds    a Gaussian process is fitted to everything known (`gaussian_process`), and the sets with the largest
              expected improvement are scored (`proposer`). Every few rounds, where the scorer gives gradients, a
              gradient at a new best set adds predictions about its neighbours (`gradient_observations`). Towards the
              end, half of every round goes to sets that replace a unit of the best set by the one beside it
    proof     when little improvement is expected, the rest of the best set's one-swap neighbourhood is scored
              (`certificate`)

The Gaussian process expects units without an effect of their own to have one together with others; see
`jopa.methods.joint.gaussian_process`.

Sees units and scores, never a tokenizer. It claims no more about its result than the certificate says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar

from jopa.choices import real_number, whole_number
from jopa.errors import SettingError
from jopa.method import NestedMethod, Selection
from jopa.methods.joint.certificate import certificate_candidates, closing_reason
from jopa.methods.joint.configuration import STANDARD, SearchConfiguration
from jopa.methods.joint.cost_meter import CostMeter
from jopa.methods.joint.gaussian_process import SubsetGP, fit
from jopa.methods.joint.gradient_observations import GradientObserver
from jopa.methods.joint.initial_sets import repeated_sets, segments
from jopa.methods.joint.priors import repeated_words, segment_strengths, unit_weights
from jopa.methods.joint.proposer import Proposer, lowest_units
from jopa.methods.joint.state import SearchState, Units
from jopa.ordering import is_lower, ranked
from jopa.problem import Problem


@dataclass(frozen=True)
class JointSearch(NestedMethod):
    """The best set of k units that a budget of model work finds; a surrogate over everything scored leads the search.

    If the budget affords all C(T, k) sets, they are all scored and the result is certified "optimal". Otherwise the
    search stops at the end of its budget, or earlier when little improvement is expected and no single swap of the
    best set is better; the result is then certified "one-swap-optimal". The score of the whole prompt and the gradients
    count towards the budget, which is exceeded by a batch at the most. Nothing is random: the seed does not matter.
    With `seconds`, the speed of the machine decides how much is tried. Padding and cached beginnings count as they are,
    so how many masks a budget affords depends on the batch size, and thereby on the device.

    Scores are enough. With gradients the search needs fewer removals at its start on long prompts.

    Attributes:
        budget: model work, in full-forward equivalents.
        seconds: wall-clock time after which no new batch is begun; None for no limit.
        batch: sets proposed at a time. Fewer sets are chosen with more knowledge, more sets use a large machine better.
    """

    budget: int = 50
    seconds: float | None = None
    batch: int = 4

    name: ClassVar[str] = "joint"
    summary: ClassVar[str] = "the best joint set within a budget, by expected improvement; says what it proved"
    cost: ClassVar[str] = "budget at most"

    def __post_init__(self) -> None:
        for name in ("budget", "batch"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.seconds is not None:
            object.__setattr__(self, "seconds", real_number("seconds", self.seconds))
        if self.budget < 1:
            raise SettingError(f"budget must be at least 1, got {self.budget}")
        if self.seconds is not None and not self.seconds > 0:
            raise SettingError(f"seconds must be more than 0, got {self.seconds}")
        if self.batch < 1:
            raise SettingError(f"batch must be at least 1, got {self.batch}")

    def with_budget(self, budget: int) -> JointSearch:
        """The same search with `budget` full-forward equivalents."""
        return replace(self, budget=budget)

    def with_share_of_rest(self, spent: float, n_runs: int) -> JointSearch:
        """The same search with an equal part of what is left of its budget, at least 1."""
        return replace(self, budget=max(1, math.ceil((self.budget - spent) / n_runs)))

    def most_ffe(self, n_units: int, k: int) -> float:
        """The budget, and what may pass it."""
        return float(self.budget + max(STANDARD.chunk_sets, self.batch))

    def run_nested(self, problem: Problem, ks: Sequence[int], *, seed: int = 0) -> list[Selection]:
        """The best set of each size in `ks` from one budget: every score is used for all sizes."""
        for k in ks:
            self.validate(problem.shape, k)
        return _Run(self, problem, list(dict.fromkeys(ks))).selections(ks)


class _Run:
    """One run: joins the parts of the search."""

    def __init__(
        self, method: JointSearch, problem: Problem, ks: list[int], config: SearchConfiguration = STANDARD
    ) -> None:
        import torch

        self._method, self._problem, self._config = method, problem, config
        self._meter = CostMeter(problem, method.budget, method.seconds, config)
        self._state = SearchState(problem.n_units, ks, self._meter.whole)
        self._gradients = GradientObserver(problem, self._meter, ks, config)
        self._weights = torch.ones(problem.n_units, dtype=torch.double)
        self._stops: dict[int, str] = {}

    def selections(self, ks: Sequence[int]) -> list[Selection]:
        """Search, and give the best set of each size."""
        state = self._state
        self._enumerate_small()
        segmented, repeated = self._start() if state.open and self._meter.affordable() else ([], [])
        initial, proposer = {*segmented, *repeated}, Proposer(state, repeated, self._config)
        while state.open and self._meter.affordable():
            self._gradients.observe(state)
            observations = state.observations(initial, self._config.evidence_sets)
            surrogate = fit(*observations, self._weights, self._gradients.pseudo_observations(), self._config)
            for k in list(state.open):
                self._round(k, surrogate, proposer)
        return [self._selection(k) for k in ks]

    def _score(self, sets: Iterable[Units]) -> None:
        """Score sets, in chunks, as far as the budget allows."""
        problem, new = self._problem, self._state.unknown(sets)
        while new and (n := min(len(new), self._meter.affordable(), max(self._config.chunk_sets, self._method.batch))):
            chunk, new = new[:n], new[n:]
            log_probs = self._meter.log_probs(chunk)
            self._state.add(chunk, log_probs, evaluations=problem.evaluations, ffe=problem.ffe)
            problem.progress(round(self._meter.spent), self._method.budget)

    def _enumerate_small(self) -> None:
        """Score all sets of the sizes whose share of the budget allows it."""
        n_units, state = self._problem.n_units, self._state
        for k in sorted(state.open, key=lambda k: math.comb(n_units, k)):
            if math.comb(n_units, k) <= self._meter.affordable() / len(state.open):
                self._score(frozenset(units) for units in combinations(range(n_units), k))
                self._close(k)

    def _start(self) -> tuple[list[Units], list[Units]]:
        """Weigh the units and score the initial sets: segments of the prompt, and words that the answer repeats."""
        state, n_units, config = self._state, self._problem.n_units, self._config
        words = repeated_words(self._problem)
        norms = self._gradients.gradient_norms()
        if norms is not None:
            self._weights = unit_weights(norms, words, config)
        affordable = self._meter.affordable()
        if not affordable:
            return [], []
        segmented = segments(n_units, affordable, state.open, self._gradients.has_gradients, config)
        repeated = repeated_sets(words, affordable, state.largest_k, config)
        self._score(segmented + repeated)
        if self._weights.min() == 1:  # no gradient said anything
            effects = {units: state.changes.get(units, 0.0) for units in segmented}
            self._weights = unit_weights(segment_strengths(effects, n_units), words, config)
        return segmented, repeated

    def _round(self, k: int, surrogate: SubsetGP, proposer: Proposer) -> None:
        """Score the sets of k units that are proposed; if there are none, what the proof needs; else close the size."""
        n_sets = min(self._method.batch, self._meter.affordable())
        if not n_sets:
            return
        self._gradients.count_round()
        proposed = proposer.propose(k, surrogate, n_sets, self._meter.share_spent())
        if not proposed:
            candidates = certificate_candidates(self._state, k, lowest_units(surrogate), self._config)
            proposed = candidates[: 2 * self._method.batch]
        n_known = len(self._state.changes)
        self._score(proposed)
        if len(self._state.changes) == n_known:
            self._close(k)

    def _close(self, k: int) -> None:
        self._stops[k] = closing_reason(self._state, k)
        self._state.open.remove(k)

    def _selection(self, k: int) -> Selection:
        """The best set of k units; if none was scored, the units with the largest weights."""
        state, details = self._state, dict(self._gradients.details)
        stop = self._stops.get(k) or self._meter.ended_by()
        best = state.best(k)
        if best is None:
            return Selection(tuple(sorted(ranked(self._weights.tolist(), k))), stop, details=details)
        if not is_lower(state.best_log_prob(k), state.whole):
            tried = "" if state.all_scored(k) else "tried "
            stop += f"; no removal {tried}makes the output less likely"
        return Selection(tuple(sorted(best)), stop, tuple(state.traces[k]), details=details)
