"""Search for long inputs: a cheap proxy proposes sets of k units, exact removal decides.

The proxy hides units only from what follows the context (`jopa.scoring.context_forward`): a few hundredths of a
forward a set, but the context's own tokens still know what was hidden.

    sweeps     k times (less often where k is large): which unit lowers the proxy most once the chosen ones are hidden?
               First the gradient by the attention paid to each unit or, where there is none, groups of neighbours
               (group testing); then the most promising units one by one
    sets       the proxy of all sets of k of the strongest units, or of those that a swap leads to
    finalists  exact scores, one at a time: the set with the largest expected improvement under a Gaussian process over
               what the proxy gets wrong, exact(S) = proxy(S) + error(S) (Kennedy & O'Hagan 2000,
               https://doi.org/10.1093/biomet/87.1.1)

A second copy of a source shows only after the first is hidden; so the sweeps are conditional. Sees units and scores,
never a tokenizer or a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

from jopa.choices import whole_number
from jopa.errors import SettingError
from jopa.method import Method, Selection, TraceStep
from jopa.methods.acquisition import ATTENTION_INSIDE, ATTENTION_OUTSIDE, NEGLIGIBLE_SHARE, expected_improvement
from jopa.ordering import NAT, LowestSet, is_lower, ranked
from jopa.problem import Problem

if TYPE_CHECKING:
    from jopa.scoring.protocols import Approximation

Units = frozenset[int]

_PROXY_SHARE = 0.4
"""The most of the budget that the proxy's masks take."""
_GRADIENT_MASKS = 3
"""What a gradient costs, in masks of the proxy."""
_EXPANDED_GROUPS = 4
"""Groups whose units are looked at one by one, about; it sets the size of a group."""
_MIN_SWEEP = 12
"""Masks of a sweep at least; where the budget allows fewer, a sweep chooses several units."""
_MIN_EXACT = 3
"""Exact masks that a sweep without a proxy takes at least: two halves of the units, and a set."""
_FINALISTS = 96
"""Sets that exact scores are considered for: those with the lowest proxy."""
_ERROR_SHARE, _MIN_ERROR = 0.1, 0.2
"""Standard deviation of the proxy's error, as a share of the largest change that it predicts; at least this
many nats."""


@dataclass(frozen=True)
class ProxySearch(Method):
    """For long inputs: the best set of k units that a small budget finds with the help of a cheap proxy.

    If the budget affords all C(T, k) sets, they are all scored. Without a proxy (a black box, or a model whose cache
    cannot be cut) exact scores take its place and the search says so (`details`); where the budget affords fewer than
    three of them, sets are taken as `stop` says: words that the answer repeats first. What is reported is always exact.
    `details` has the proxy's masks and its share of the FFE. Nothing is random: the seed does not matter.

    Attributes:
        budget: model work, in full-forward equivalents, the proxy's included.
    """

    budget: int = 8

    name: ClassVar[str] = "proxy-search"
    summary: ClassVar[str] = "for long inputs: a cheap proxy proposes sets, exact removal decides"
    cost: ClassVar[str] = "budget at most"

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", whole_number("budget", self.budget))
        if self.budget < 1:
            raise SettingError(f"budget must be at least 1, got {self.budget}")

    def with_budget(self, budget: int) -> ProxySearch:
        """The same search with `budget` full-forward equivalents."""
        return replace(self, budget=budget)

    def with_share_of_rest(self, spent: float, n_runs: int) -> ProxySearch:
        """The same search with an equal part of what is left of its budget, at least 1."""
        return replace(self, budget=max(1, math.ceil((self.budget - spent) / n_runs)))

    def most_ffe(self, n_units: int, k: int) -> float:
        """The budget, and the whole prompt."""
        return float(self.budget + 1)

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose k units; see `Method.run`."""
        self.validate(problem.shape, k)
        search = _Search(problem, k, self.budget)
        if math.comb(problem.n_units, k) <= search.affordable():
            sets = [frozenset(units) for units in combinations(range(problem.n_units), k)]
            search.score(sets)
            return search.selection(f"all {len(sets):,} sets of {k} scored")
        if search.compares_nothing:
            return search.selection(search.repeated_words_first())
        search.sweeps()
        search.sets_of_the_strongest()
        return search.selection(search.finalists())


class _Search:
    """One run: what the proxy and the model said so far."""

    def __init__(self, problem: Problem, k: int, budget: int) -> None:
        self._problem, self._k, self._budget = problem, k, budget
        self._whole = problem.log_prob()
        self._ffe_before = problem.ffe - 1
        self._mask_ffe = 1.0
        self._proxy = _Proxy(problem, self._whole)
        self._effects: dict[int, float] = {}
        """The largest effect that the proxy saw of each unit, whatever was hidden with it."""
        self._exact: dict[Units, float] = {}
        self._best = LowestSet()
        self._trace: list[TraceStep] = []
        self._chosen: Units = frozenset()

    def affordable(self) -> int:
        """Exact masks that the budget still allows, each at what those of the last call cost."""
        return max(0, math.floor((self._budget - (self._problem.ffe - self._ffe_before)) / self._mask_ffe + 1e-9))

    def score(self, sets: Sequence[Units]) -> None:
        """Score sets exactly."""
        problem, before = self._problem, self._problem.ffe
        for units, log_prob in zip(sets, problem.log_probs(sets), strict=True):
            self._exact[units] = log_prob - self._whole
            self._best.add(units, log_prob)
        self._mask_ffe = max(0.01, (problem.ffe - before) / len(sets))
        self._trace.append(TraceStep(len(self._trace), self._best.log_prob, problem.evaluations, problem.ffe))
        problem.progress(round(problem.ffe - self._ffe_before), self._budget)

    @property
    def compares_nothing(self) -> bool:
        """Whether there is no proxy, and too few exact masks for a sweep in its place."""
        return self._proxy.exact and self.affordable() < _MIN_EXACT

    def repeated_words_first(self) -> str:
        """Score as many sets as the budget affords, one at least, no unit in two of them; why that is all.

        Nothing tells units apart but the words that the answer repeats, which cost nothing: the units that hold the
        most of them come first, the others in the prompt's order. A gradient would cost more than these sets.
        """
        n_units, k = self._problem.n_units, self._k
        words = [0.0] * n_units
        for token in self._problem.repeated_tokens():
            for unit in token.units:
                words[unit] += len(token.targets) / len(token.units)
        order = ranked(words)
        n_sets = max(1, min(self.affordable(), n_units // k))
        self.score([frozenset(order[i * k : (i + 1) * k]) for i in range(n_sets)])
        first = "words that the answer repeats" if any(words) else "the prompt's beginning"
        return (
            f"budget of {self._budget} full-forward equivalents spent, too little to compare units without a proxy: "
            f"{n_sets} set{'s' * (n_sets > 1)} scored, {first} first"
        )

    def sweeps(self) -> None:
        """Choose k units by the proxy, those of a sweep given all before."""
        n_masks = self._proxy_masks()
        least = self._problem.n_units if self._proxy.exact else _MIN_SWEEP
        n_sweeps = max(1, min(self._k, n_masks // least - (not self._proxy.exact)))
        per_sweep = max(1, n_masks // (n_sweeps + (not self._proxy.exact)))
        for number in range(n_sweeps):
            wanted = math.ceil((self._k - len(self._chosen)) / (n_sweeps - number))
            self._sweep(per_sweep, wanted)

    def _proxy_masks(self) -> int:
        """Masks that the proxy may take in all; without one, most of what the budget affords."""
        if self._proxy.exact:
            return max(2, self.affordable() - 1)
        return max(2, math.floor(_PROXY_SHARE * self._budget / self._proxy.ffe))

    def _sweep(self, n_masks: int, wanted: int) -> None:
        """Add the units that lower the proxy most, given those chosen before."""
        others = [unit for unit in range(self._problem.n_units) if unit not in self._chosen]
        candidates = others
        if len(others) > n_masks:
            candidates = self._guided_by_gradient(others, n_masks) or self._guided_by_groups(others, n_masks)
        base = self._proxy.change(self._chosen)
        changes = self._proxy.changes([self._chosen | {unit} for unit in candidates])
        effects = [base - change for change in changes]
        for unit, effect in zip(candidates, effects, strict=True):
            self._effects[unit] = max(effect, self._effects.get(unit, -math.inf))
        strongest = [candidates[i] for i in ranked(effects, wanted, least_scale=NAT)]
        missing = [unit for unit in others if unit not in candidates][: wanted - len(strongest)]
        self._chosen |= {*strongest, *missing}

    def _guided_by_gradient(self, others: Sequence[int], n_masks: int) -> list[int]:
        """The units with the largest gradient by attention; none where the scorer gives none."""
        gradient = self._proxy.gradient(self._chosen, self._problem.n_units)
        if gradient is None:
            return []
        order = ranked([gradient[unit] for unit in others])
        return sorted(others[i] for i in order[: max(1, n_masks - _GRADIENT_MASKS)])

    def _guided_by_groups(self, others: Sequence[int], n_masks: int) -> list[int]:
        """The units of the groups of neighbours that lower the proxy most when they are hidden together."""
        size = max(2, round(math.sqrt(len(others) / _EXPANDED_GROUPS)), math.ceil(2 * len(others) / n_masks))
        size = min(size, math.ceil(len(others) / 2))  # without all units nothing may be left to predict from
        groups = [others[start : start + size] for start in range(0, len(others), size)]
        changes = self._proxy.changes([self._chosen.union(group) for group in groups])
        left = max(1, n_masks - len(groups))
        candidates: list[int] = []
        for i in ranked([-change for change in changes], least_scale=NAT):
            candidates += groups[i][: left - len(candidates)]
        return sorted(candidates)

    def sets_of_the_strongest(self) -> None:
        """The proxy of sets of k units that the sweeps found strong."""
        n_masks = self._proxy_masks()
        n_masks = max(1, n_masks - self._proxy.masks) if not self._proxy.exact else 0
        units = list(self._effects)
        strongest = [units[i] for i in ranked([self._effects[unit] for unit in units], least_scale=NAT)]
        n_units = self._k
        while n_units < len(strongest) and math.comb(n_units + 1, self._k) <= n_masks:
            n_units += 1
        sets = [frozenset(chosen) for chosen in combinations(sorted(strongest[:n_units]), self._k)]
        if n_units < self._k + 2:  # too many to look at all: those that one swap leads to
            swaps = [self._chosen - {out} | {into} for into in strongest for out in sorted(self._chosen)]
            sets += [swap for swap in swaps if len(swap) == self._k]
        self._proxy.changes([self._chosen, *list(dict.fromkeys(sets))[:n_masks]])

    def finalists(self) -> str:
        """Score sets exactly, the one with the largest expected improvement first; why that ended."""
        sets = sorted((units for units in self._proxy.known if len(units) == self._k), key=sorted)
        order = ranked([-self._proxy.known[units] for units in sets], _FINALISTS, least_scale=NAT)
        sets = [sets[i] for i in sorted(order)]
        proxy = [self._proxy.known[units] for units in sets]
        if self._proxy.exact:
            self.score(sets)
            return f"budget of {self._budget} full-forward equivalents spent on exact scores"
        scale = max(_MIN_ERROR, _ERROR_SHARE * -min(proxy))
        while self.affordable() or not self._exact:
            gains = _expected_improvements(sets, proxy, self._exact, scale)
            best = max(gains)
            lowest = min(self._exact.values(), default=0.0)
            if self._exact and best <= NEGLIGIBLE_SHARE * abs(lowest):
                return "little improvement is expected of the other sets that the proxy proposes"
            self.score([sets[ranked(gains, 1, least_scale=NAT)[0]]])
        return f"budget of {self._budget} full-forward equivalents spent"

    def selection(self, stop: str) -> Selection:
        """The best set that was scored exactly."""
        assert self._best.units is not None
        if not is_lower(self._best.log_prob, self._whole):
            stop += "; no removal tried makes the output less likely"
        details: dict[str, Any] = {"finalists": len(self._exact)}
        if self._proxy.exact:
            details["without_proxy"] = "the scorer has no cheap approximation: exact scores took its place"
        else:
            details |= {"proxy_masks": self._proxy.masks, "proxy_ffe": self._proxy.masks * self._proxy.ffe}
        return Selection(tuple(sorted(self._best.units)), stop, tuple(self._trace), details=details)


class _Proxy:
    """The approximation, or exact scores where there is none; remembers every set."""

    def __init__(self, problem: Problem, whole: float) -> None:
        self._problem, self._whole = problem, whole
        self._approximation: Approximation | None = problem.approximation()
        self.known: dict[Units, float] = {frozenset(): 0.0}
        """The predicted change of log p(y) of each set, in nats."""
        self.masks = 0
        """Masks so far; a gradient counts as three."""

    @property
    def exact(self) -> bool:
        """Whether exact scores take the proxy's place."""
        return self._approximation is None

    @property
    def ffe(self) -> float:
        """What a mask costs, in full-forward equivalents."""
        return 1.0 if self._approximation is None else self._approximation.ffe

    def change(self, units: Units) -> float:
        """The predicted change of log p(y) of one set, in nats."""
        return self.changes([units])[0]

    def changes(self, sets: Iterable[Units]) -> list[float]:
        """The predicted change of log p(y) of each set, in nats."""
        import torch

        sets = list(sets)
        new = [units for units in dict.fromkeys(sets) if units not in self.known]
        if new and self._approximation is None:
            self.known |= dict(zip(new, (v - self._whole for v in self._problem.log_probs(new)), strict=True))
        elif new and self._approximation is not None:
            keep = torch.stack([self._problem.keep_mask(units) for units in new])
            values = self._approximation.log_probs(keep).double().sum(dim=1).tolist()
            self.known |= {units: value - self._whole for units, value in zip(new, values, strict=True)}
        self.masks += len(new)
        return [self.known[units] for units in sets]

    def gradient(self, inside: Units, n_units: int) -> list[float] | None:
        """How much each unit lowers log p(y) to first order, given a set that is almost hidden; None if unknown."""
        import torch

        if self._approximation is None:
            return None
        factors = torch.full((n_units,), ATTENTION_OUTSIDE, dtype=torch.float32)
        factors[list(inside)] = ATTENTION_INSIDE
        gradient = self._approximation.gradient(factors)
        if gradient is None:
            return None
        self.masks += _GRADIENT_MASKS
        return gradient.tolist()


def _expected_improvements(
    sets: Sequence[Units], proxy: Sequence[float], exact: Mapping[Units, float], scale: float
) -> list[float]:
    """What scoring each set is expected to lower the lowest exact change by, in nats; 0 for sets that were scored.

    The proxy's errors have mean 0 and cov(error(A), error(B)) = scale² (1 + |A ∩ B| / k) / 2: a part that all sets
    share, and one that each unit brings along.
    """
    import torch

    known = [i for i, units in enumerate(sets) if units in exact]
    rows = torch.zeros(len(sets), 1 + max(max(units) for units in sets), dtype=torch.double)
    for row, units in zip(rows, sets, strict=True):
        row[list(units)] = 1.0
    prior = scale**2 * (1 + rows @ rows.T / rows[0].sum()) / 2
    mean, variance = torch.tensor(proxy, dtype=torch.double), prior.diagonal().clone()
    lowest = float(mean.max())
    if known:
        error = torch.tensor([exact[sets[i]] - proxy[i] for i in known], dtype=torch.double)
        gram = prior[known][:, known] + 1e-6 * scale**2 * torch.eye(len(known), dtype=torch.double)
        cross = torch.linalg.solve(gram, prior[known])
        mean, variance = mean + cross.T @ error, variance - (prior[known] * cross).sum(dim=0)
        lowest = min(exact[sets[i]] for i in known)
    gains = expected_improvement(mean, variance.clamp(min=1e-12).sqrt(), lowest)
    gains[known] = 0.0
    return gains.tolist()
