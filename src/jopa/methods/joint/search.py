"""The default search: a surrogate proposes sets of k units, the model disposes.

    guide     how much each unit may matter: the norm of the gradient by its embeddings, ‖∂ log p(y) / ∂ e_i‖₂, where
              the scorer looks inside; else the effect of the stretch of the prompt that it lies in. More where the
              answer repeats the unit's words and would lose them without the prompt
    start     every unit removed once: alone, or in a long prompt with its neighbours, a stretch at a time; and each
              word that the answer repeats, wherever it stands
    rounds    fit a Gaussian process to everything known; score the sets with the largest expected improvement. Every
              few rounds begin, where the scorer looks inside, with a gradient by the attention paid to each unit, at a
              new best set: it foretells what removing one unit more would do, or leaving one in
    shifts    towards the end, half of every round: the best set, one of its units replaced by a neighbour in the prompt
    proof     when little improvement is expected, score what is left of the best set's one-swap neighbourhood

The Gaussian process gives units that do nothing alone a chance in company: see `jopa.methods.joint.gaussian_process`.

Sees units and scores, never a tokenizer. What it knows of its result is in the certificate, no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, ClassVar

from jopa.errors import ScoringError, SettingError
from jopa.method import NestedMethod, Selection, TraceStep
from jopa.methods.joint.budget import Budget
from jopa.methods.joint.gaussian_process import Foretold, SetProcess, fit
from jopa.methods.joint.neighbours import distinct, replacements, set_rows, sets_of, shifts, swapped
from jopa.methods.joint.priors import repeated_words, stretch_strengths, unit_weights
from jopa.ordering import NAT, LowestSet, falls, ranked, tolerance
from jopa.problem import Problem
from jopa.scoring.protocols import WhiteBoxScorer

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# Settings of the sweep in benchmarks/NOTES.md.
_START_SHARE = 0.4
"""The most of the masks that the budget affords which go into the start; 1/k of them if that is less, because a set of
k units says something of each; and half of that on a long prompt where gradients will say more."""
_NEGLIGIBLE = 1e-3
"""Expected improvement that is not worth a mask, as a share of the best set's effect."""
_SHORTLIST = 48
"""Units that sets are made of; the least, for large k more. As many again may belong to repeated words."""
_POOL = 6000
"""The most sets that are all looked at."""
_BEAM = 12
"""Sets whose one-swap neighbours are looked at where not all sets can be. Sets further from what was scored promise
much, by their uncertainty, and keep little of it."""
_STRONG_OTHERS = 6
"""Units that are tried in pairs, whatever is expected, before a size is closed."""
_LAST_SHARE = 0.4
"""The last of the budget, half of which goes into shifts. Units side by side often do the same work, and of that the
surrogate knows nothing. Told of it from the beginning, it spends too much on neighbours of what it will give up."""
_MOST_EVIDENCE = 300
"""Units alone and stretches, and as many sets, that the surrogate learns from."""
_LOUD = 0.5
"""Nats that the answer must lose of a word without the prompt, for the word to be removed by itself at the start."""
_REPEATED_SHARE = 0.2
"""The most of the masks that the budget affords which go into such words."""
_CONTENDERS = 128
"""Sets from which a batch is chosen."""
_CHUNK = 16
"""Sets scored in one call before any score is known, and singles: what a mask costs is learnt early."""
_GRADIENT_COST = 3.0
"""FFE of a forward and a backward."""
_FORETELL_EVERY = 4
"""Rounds from one gradient at the best set to the next."""
_OUTSIDE, _INSIDE = 0.5, math.exp(-5)
"""The attention paid to units outside and inside of a set, where the gradient is taken."""
_STEP_OUT, _STEP_IN = 3.0, 0.35
"""Foretold change of log p(y): of removing a unit, in derivatives by log a; of leaving one in, in derivatives by a."""
_MOST_FORETOLD = 1000, 150
"""Foretold sets that the surrogate learns from, the latest; and those that one gradient foretells."""

Units = frozenset[int]


@dataclass(frozen=True)
class JointSearch(NestedMethod):
    """The best set of k units that a budget of model work finds; a surrogate over everything scored leads the search.

    If the budget affords all C(T, k) sets, they are all scored and the result is certified "optimal". Otherwise the
    search stops at the end of its budget, or earlier when little improvement is expected and no single swap of the
    best set is better; the result is then certified "one-swap-optimal". The score of the whole prompt and the guide
    count towards the budget, which is passed by no more than a batch. Nothing is random: the seed does not matter.
    With `seconds` the machine's speed decides how much is tried.

    A black box is enough. A scorer that looks inside spares the search its first, blind removals on long prompts.

    Attributes:
        budget: model work, in full-forward equivalents.
        seconds: wall-clock time after which no new batch is begun; None for no limit.
        batch: sets proposed at a time; fewer are wiser, more make better use of a large machine.
    """

    budget: int = 50
    seconds: float | None = None
    batch: int = 4

    name: ClassVar[str] = "joint"
    summary: ClassVar[str] = "the best joint set within a budget, by expected improvement; says what it proved"
    cost: ClassVar[str] = "budget at most"

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise SettingError(f"budget must be at least 1, got {self.budget}")
        if self.seconds is not None and not self.seconds > 0:
            raise SettingError(f"seconds must be more than 0, got {self.seconds}")
        if self.batch < 1:
            raise SettingError(f"batch must be at least 1, got {self.batch}")

    def with_budget(self, budget: int) -> JointSearch:
        """The same search with `budget` full-forward equivalents."""
        return replace(self, budget=budget)

    def run_nested(self, problem: Problem, ks: Sequence[int], *, seed: int = 0) -> list[Selection]:
        """The best set of each size in `ks` from one budget: what is scored for one size teaches all."""
        for k in ks:
            self.validate(problem.shape, k)
        search = _Search(self, problem, dict.fromkeys(ks))
        search.solve_small()
        search.guide()
        search.start()
        while search.open and search.affordable():
            search.foretell()
            surrogate = fit(*search.evidence(), search.weights, search.foretold())
            for k in list(search.open):
                search.round(k, surrogate)
        return [search.selection(k) for k in ks]


class _Search:
    """One run: what was scored, what a mask costs, and which sizes are still open."""

    def __init__(self, method: JointSearch, problem: Problem, ks: Iterable[int]) -> None:
        import torch

        self._method, self._problem = method, problem
        self._budget = Budget(problem, method.budget, method.seconds)
        self._whole = self._budget.whole
        self.affordable = self._budget.affordable
        self._changes: dict[Units, float] = {}
        self._traces: dict[int, list[TraceStep]] = {k: [] for k in ks}
        self._best: dict[int, LowestSet] = {k: LowestSet() for k in self._traces}
        self._stops: dict[int, str] = {}
        self._stretches: list[Units] = []
        self._repeated: list[Units] = []
        self._words: dict[Units, float] = {}
        """Words that the answer repeats, by the units that hold them, and the nats that it would lose of each."""
        self._looks_inside = isinstance(problem.scorer, WhiteBoxScorer)
        self._details: dict[str, str] = {}
        self._looked_at: dict[int, list[Units]] = {k: [] for k in ks}
        self._rounds_since_look = _FORETELL_EVERY
        self._foretold: list[tuple[Units, Units, float]] = []
        """A set, the scored set that is a unit smaller or larger, and what f of the first should be."""
        self.open = list(self._traces)
        self.weights = torch.ones(problem.n_units, dtype=torch.double)

    def score(self, sets: Iterable[Units]) -> None:
        """Score sets, in chunks, as far as the budget goes."""
        problem = self._problem
        new = [units for units in dict.fromkeys(sets) if units not in self._changes]
        while new and (n := min(len(new), self.affordable(), max(_CHUNK, self._method.batch))):
            chunk, new = new[:n], new[n:]
            for units, log_prob in zip(chunk, self._budget.log_probs(chunk), strict=True):
                self._changes[units] = log_prob - self._whole
                if len(units) in self._best:
                    self._best[len(units)].add(units, log_prob)
            for k, trace in self._traces.items():
                if self._best[k].units is not None:
                    log_prob = self._best[k].log_prob
                    trace.append(TraceStep(len(trace), log_prob, problem.evaluations, problem.ffe))
            problem.progress(round(self._budget.spent), self._method.budget)

    def solve_small(self) -> None:
        """Score all sets of the sizes whose share of the budget allows it."""
        n_units = self._problem.n_units
        for k in sorted(self.open, key=lambda k: math.comb(n_units, k)):
            n_sets = math.comb(n_units, k)
            if n_sets <= self.affordable() / len(self.open):
                self.score(frozenset(units) for units in combinations(range(n_units), k))
                self._close(k)

    def guide(self) -> None:
        """Weigh the units by what the answer repeats of them, and by the gradient."""
        if self.open and self.affordable():
            self._words = repeated_words(self._problem)
            if self._affords_gradient():
                try:
                    self.weights = unit_weights(self._problem.gradient_norms().double(), self._words)
                except ScoringError as error:
                    self._go_on_without_gradients(error)

    def start(self) -> None:
        """Remove each unit once, alone or, where that is too much, with its neighbours; and each word that the answer
        repeats, wherever it stands."""
        if not self.open or not self.affordable():
            return
        n_units = self._problem.n_units
        share = min(_START_SHARE, len(self.open) / sum(self.open))
        n_stretches = min(n_units, math.ceil(share * self.affordable()))
        if self._looks_inside and n_stretches < n_units:
            n_stretches = math.ceil(n_stretches / 2)
        n_stretches = max(2, n_stretches)  # a single one would be the whole prompt
        ends = [round(i * n_units / n_stretches) for i in range(n_stretches + 1)]
        self._stretches = [frozenset(range(start, end)) for start, end in pairwise(ends)]
        most, room = math.ceil(_REPEATED_SHARE * self.affordable()), _SHORTLIST
        for units, nats in self._words.items():
            if nats > _LOUD and len(units) <= min(room, max(self._traces)) and len(self._repeated) < most:
                self._repeated.append(units)
                room -= len(units)
        self.score(self._stretches + self._repeated)
        if self.weights.min() == 1:
            effects = {stretch: self._changes.get(stretch, 0.0) for stretch in self._stretches}
            self.weights = unit_weights(stretch_strengths(effects, n_units), self._words)

    def _go_on_without_gradients(self, error: ScoringError) -> None:
        """Scores can still be had: search as for a black box, and say so."""
        self._looks_inside = False
        self._details = {"without_gradients": str(error)}

    def _affords_gradient(self) -> bool:
        return self._looks_inside and self.affordable() * self._budget.mask_ffe > 2 * _GRADIENT_COST

    def evidence(self) -> tuple[Float[Tensor, "sets units"], Float[Tensor, "sets"]]:
        """What the surrogate learns from, and its f(S): units alone, stretches, sets no larger than those asked for.

        The weaker sets of a long search are left out, because the surrogate's time grows with the cube of their number.
        """
        import torch

        strongest = _lowest_first(self._changes)
        start = {*self._stretches, *self._repeated}
        few = [units for units in strongest if len(units) == 1 or units in start]
        many = [units for units in strongest if 1 < len(units) <= max(self._traces) and units not in start]
        known = few[:_MOST_EVIDENCE] + many[:_MOST_EVIDENCE]
        changes = torch.tensor([self._changes[units] for units in known], dtype=torch.double)
        return set_rows(known, range(self._problem.n_units)), changes

    def foretell(self) -> None:
        """Now and then: what the gradient at the best set of some size says of sets with a unit more or less."""
        import torch

        if self._rounds_since_look < _FORETELL_EVERY or not self._affords_gradient():
            return
        best_sets = {k: self._best[k].units for k in self.open if k > 1}
        new = {k: best for k, best in best_sets.items() if best is not None and best not in self._looked_at[k]}
        if not new:
            return
        k = min(new, key=lambda k: len(self._looked_at[k]))
        best, change = new[k], self._changes[new[k]]
        factors = torch.full((self._problem.n_units,), _OUTSIDE)
        factors[list(best)] = _INSIDE
        try:
            gradient = self._problem.attention_gradient(factors).double()
        except ScoringError as error:
            self._go_on_without_gradients(error)
            return
        self._rounds_since_look = 0
        self._looked_at[k].append(best)
        strongest = ranked(gradient.abs().tolist())
        outside = [unit for unit in strongest if unit not in best][: _MOST_FORETOLD[1]]
        self._foretold += [(best | {unit}, best, change - _STEP_OUT * float(gradient[unit])) for unit in outside]
        inside = [(unit, _STEP_IN * float(gradient[unit]) / _INSIDE) for unit in sorted(best)]
        self._foretold += [(best - {unit}, best, change + step) for unit, step in inside]

    def foretold(self) -> Foretold | None:
        """What the surrogate learns from gradients."""
        import torch

        known = self._foretold[-_MOST_FORETOLD[0] :]
        if not known:
            return None
        sets, scored, changes = zip(*known, strict=True)
        units = range(self._problem.n_units)
        return Foretold(set_rows(sets, units), torch.tensor(changes, dtype=torch.double), set_rows(scored, units))

    def round(self, k: int, surrogate: SetProcess) -> None:
        """Score the most promising sets of k units, and shifts; if there is none, what the proof needs; else close the
        size."""
        n_sets = min(self._method.batch, self.affordable())
        if not n_sets:
            return
        self._rounds_since_look += 1
        shifted = self._shifts(k, surrogate, math.ceil(n_sets / 2))
        others = [units for units in self._promising(k, surrogate, n_sets) if units not in shifted]
        proposed = [*shifted, *others][:n_sets] or self._doubts(k, surrogate)[: 2 * self._method.batch]
        n_known = len(self._changes)
        self.score(proposed)
        if len(self._changes) == n_known:
            self._close(k)

    def selection(self, k: int) -> Selection:
        """The best set of k units; if none was scored, the one that the guide puts first."""
        best, details = self._best[k], dict(self._details)
        stop = self._stops.get(k) or self._budget.ended_by()
        if best.units is None:
            return Selection(tuple(sorted(ranked(self.weights.tolist(), k))), stop, details=details)
        if not falls(best.log_prob, self._whole):
            tried = "" if self._all_scored(k) else "tried "
            stop += f"; no removal {tried}makes the output less likely"
        return Selection(tuple(sorted(best.units)), stop, tuple(self._traces[k]), details=details)

    def _best_change(self, k: int) -> float:
        """f of the best set of k units so far; 0, removing nothing, as long as there is none."""
        best = self._best[k].units
        return 0.0 if best is None else self._changes[best]

    def _all_scored(self, k: int) -> bool:
        return sum(len(units) == k for units in self._changes) == math.comb(self._problem.n_units, k)

    def _close(self, k: int) -> None:
        n_sets = math.comb(self._problem.n_units, k)
        if n_sets == 1:
            self._stops[k] = "no other set to score"
        elif self._all_scored(k):
            self._stops[k] = f"all {n_sets:,} sets of {k} scored"
        else:
            self._stops[k] = "no single swap is better, and little improvement is expected of sets like the best"
        self.open.remove(k)

    def _shifts(self, k: int, surrogate: SetProcess, n_sets: int) -> list[Units]:
        """Towards the end: at most so many sets that are not scored and that a shift of one unit makes of the best set,
        the most promising."""
        best = self._best[k].units
        if best is None or self._budget.share_spent() < 1 - _LAST_SHARE:
            return []
        shifted = [units for units in shifts(best, self._problem.n_units) if units not in self._changes]
        if not shifted:
            return []
        columns = sorted(frozenset().union(*shifted))
        chosen = surrogate.batch(set_rows(shifted, columns), columns, self._best_change(k), n_sets)
        return [shifted[i] for i in chosen]

    def _promising(self, k: int, surrogate: SetProcess, n_sets: int) -> list[Units]:
        """At most so many sets of k units, each expected to improve on the best one noticeably."""
        columns = self._shortlist(k, surrogate)
        best = self._best_change(k)
        pool = self._pool(k, surrogate, columns)
        gain = surrogate.expected_improvement(pool, columns, best)
        order = ranked(gain.tolist(), _CONTENDERS + len(self._changes), least_scale=NAT)
        sets = dict(zip(order, sets_of(pool[order], columns), strict=True))
        least = max(_NEGLIGIBLE * abs(best), tolerance(self._whole))
        contenders = [i for i, units in sets.items() if units not in self._changes and gain[i] > least][:_CONTENDERS]
        contenders.sort()  # of sets that tie, the lexicographically first
        if not contenders:
            return []
        chosen = surrogate.batch(pool[contenders], columns, best, n_sets)
        return [sets[contenders[i]] for i in chosen]

    def _shortlist(self, k: int, surrogate: SetProcess) -> list[int]:
        """The units that sets are made of: those that may have the lowest f alone, the best set's, repeated words'."""
        optimistic = _lowest_units(surrogate)
        always = (self._best[k].units or frozenset()).union(*self._repeated)
        return sorted({*optimistic[: max(_SHORTLIST, 2 * k)], *always})

    def _pool(self, k: int, surrogate: SetProcess, columns: list[int]) -> Float[Tensor, "sets columns"]:
        """All sets of k of these units if they are few, else those that one swap from the best ones leads to."""
        import torch

        if math.comb(len(columns), k) <= _POOL:
            return set_rows(combinations(range(len(columns)), k), range(len(columns)))
        scored = _lowest_first({units: change for units, change in self._changes.items() if len(units) == k})
        within = [units for units in scored if units <= set(columns)][: _BEAM - 1]
        strongest = [unit for unit in _lowest_units(surrogate) if unit in columns][:k]
        beam = set_rows([*within, strongest], columns)
        return distinct(torch.cat([beam, swapped(beam)])).flip(0)  # in lexicographic order of the units

    def _doubts(self, k: int, surrogate: SetProcess) -> list[Units]:
        """What is left to score of the best set's one-swap neighbourhood, and of its two weakest units replaced by a
        pair of strong others; those with strong newcomers and weak leavers first.

        Effects have heavier tails than a Gaussian process: it would not try units that stand in for each other.
        """
        order, best = _lowest_units(surrogate), self._best[k].units
        sets = [frozenset(order[:k])] if best is None else replacements(best, order, _STRONG_OTHERS)
        return [units for units in sets if units not in self._changes]


def _lowest_first(changes: Mapping[Units, float]) -> list[Units]:
    """These sets, the lowest change first; of sets that tie, the one that was scored first."""
    sets = list(changes)
    return [sets[i] for i in ranked([-change for change in changes.values()], least_scale=NAT)]


def _lowest_units(surrogate: SetProcess) -> list[int]:
    """All units, those that may have the lowest f alone first."""
    return ranked((-surrogate.lowest_alone()).tolist(), least_scale=NAT)
