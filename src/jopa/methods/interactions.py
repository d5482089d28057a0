"""Interactions: a sparse surrogate with pairs of units is fitted to random removals, and proposes sets to score.

    log p(y | x without S) ≈ b + Σ_{t ⊆ S, |t| ≤ order} c_t      the S of k units that minimises it

From ProxySPEX (arXiv 2505.17495) it takes that interactions of prompts are few and hierarchical: it looks for them
among the units that have strong main effects, and fits again those it finds. ProxySPEX itself (`proxy_spex.py`) needs
twelve packages, removes half of the prompt where a removal of k units is of interest, and gives interaction indices
rather than a best set. The same idea is a screening, a Lasso and a ridge regression in scikit-learn.

A surrogate only predicts the score of a set that was not scored, so the model scores the sets with the best
predictions. Sees units and scores, never a tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any, ClassVar

from jopa.errors import SettingError, require_package
from jopa.method import Method, Selection
from jopa.methods.random_removals import FOLDS, MIN_ABLATIONS, explained, random_removals, token_log_probs, units_of
from jopa.ordering import NAT, first_lowest, ranked
from jopa.problem import Problem, ProblemShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray

_TERMS_PER_MASK = 2
"""Pairs, and as many triples, that the fit may choose from, for each mask."""
_MAX_TERMS = 512
"""The most pairs, and as many triples, whatever the number of masks: the fit then takes about a second."""
_ENUMERABLE = 200_000
"""Up to this many sets, the surrogate predicts all of them to find the best."""
_PREDICTED_AT_ONCE = 20_000
"""Sets that the surrogate predicts at once, so that memory stays small."""

Term = tuple[int, ...]
"""Units whose removal together has a coefficient."""


@dataclass(frozen=True)
class Interactions(Method):
    """A sparse surrogate with pairs of units, minimised over all sets of k units; the best predictions are scored.

    1. Score random removals. Each unit is removed with probability 1/4, or k/T if that is more, up to 1/2: enough units
       at a time to measure pairs, few enough to be near the removals of k units. No set is drawn twice; if there are
       no more than `ablations`, all are taken.
    2. Fit c_t: a ridge regression on main effects ranks the units; a Lasso on all main effects and on the pairs
       (triples) of the strongest units, of each size up to two for each mask and 512 in all, selects terms; a ridge
       regression fits their coefficients again. All choose their penalty by cross-validation.
    3. Minimise Σ_{t ⊆ S} c_t over |S| = k: over all sets if they are few, else by swaps from the strongest units and
       from each of the strongest terms. Units without a term have equal predictions, so only k of them are considered.
    4. Score the best `candidates` sets, for the fit may be wrong; return the best of k units that were scored.

    `details` has the number of terms that are not zero, R² on the masks of the fit, and what the surrogate predicted
    for the chosen set, in nats.

    It finds interactions of up to `order` units that each have a main effect with a quarter of the prompt removed.
    After ProxySPEX (arXiv 2505.17495), with a Lasso in place of its boosted trees; it does not guarantee an optimum.

    Attributes:
        ablations: random removals scored.
        order: the most units in a term: 1 (main effects only), 2 (pairs) or 3 (triples).
        candidates: how many sets of k units, those with the best predictions, the model scores.
    """

    ablations: int = 128
    order: int = 2
    candidates: int = 16

    name: ClassVar[str] = "interactions"
    summary: ClassVar[str] = "the best set of a sparse surrogate with pairs of units, after ProxySPEX"
    cost: ClassVar[str] = "3/4 × ablations + candidates"

    def __post_init__(self) -> None:
        if self.ablations < MIN_ABLATIONS:
            raise SettingError(f"ablations must be at least {MIN_ABLATIONS}, got {self.ablations}")
        if not 1 <= self.order <= 3:
            raise SettingError(f"order must be between 1 and 3, got {self.order}")
        if self.candidates < 1:
            raise SettingError(f"candidates must be at least 1, got {self.candidates}")

    def with_budget(self, budget: int) -> Interactions:
        """The same fit with `budget` masks in all; the number of candidates does not change."""
        least = MIN_ABLATIONS + self.candidates
        if budget < least:
            said = f"{MIN_ABLATIONS} ablations and {self.candidates} candidates"
            raise SettingError(f"budget must be at least {least} ({said}), got {budget}")
        return replace(self, ablations=budget - self.candidates)

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 1 + self.ablations + self.candidates

    def validate(self, shape: ProblemShape, k: int) -> None:
        """Refuse to work without scikit-learn, too; see `Method.validate`."""
        super().validate(shape, k)
        require_package(f"method '{self.name}'", "scikit-learn", "baselines", module="sklearn")

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose the best of the sets that the surrogate proposes; see `Method.run`."""
        self.validate(problem.shape, k)
        if k == problem.n_units:
            return Selection(tuple(range(k)), "every unit is removed")
        rate = max(0.25, min(0.5, k / problem.n_units))
        removed = random_removals(problem.n_units, self.ablations, rate, seed, distinct=True)
        values = token_log_probs(problem, removed).sum(axis=1)
        surrogate = _fit_interactions(removed, values, self.order)
        proposed = _best_sets(surrogate, problem.n_units, k, self.candidates)
        scored = [units_of(row) for row in removed if row.sum() == k]
        sets = list(dict.fromkeys([*proposed, *scored]))
        best = sets[first_lowest(problem.log_probs(sets))]
        details = {
            "terms": len(surrogate.terms),
            "r2": explained(values, surrogate.predict(removed)),
            "predicted_log_prob": float(surrogate.predict(_as_masks([best], problem.n_units))[0]),
        }
        return Selection(best, f"{len(sets)} sets of {k} units scored", details=details)


@dataclass(frozen=True)
class _Surrogate:
    """b + Σ_{t ⊆ S} c_t, with the terms whose c_t is not zero."""

    intercept: float
    terms: tuple[Term, ...]
    coefficients: tuple[float, ...]

    def predict(self, removed: Bool[ndarray, "sets units"]) -> Float[ndarray, "sets"]:
        """log p(y) without each set, in nats."""
        import numpy as np

        total = np.full(len(removed), self.intercept)
        columns = np.ascontiguousarray(removed.T)
        for term, coefficient in zip(self.terms, self.coefficients, strict=True):
            total += coefficient * np.logical_and.reduce(columns[list(term)])
        return total


def _as_masks(sets: Sequence[Term] | Int[ndarray, "sets k"], n_units: int) -> Bool[ndarray, "sets units"]:
    """One row a set, True at its units; all sets have the same size."""
    import numpy as np

    masks = np.zeros((len(sets), n_units), dtype=bool)
    np.put_along_axis(masks, np.asarray(sets), True, axis=1)
    return masks


def _fit_interactions(removed: Bool[ndarray, "masks units"], values: Float[ndarray, "masks"], order: int) -> _Surrogate:
    """Rank units by main effects, select terms by a Lasso, and fit them again by a ridge regression."""
    import numpy as np

    _, main_effects = _ridge(removed, values)
    strongest = ranked(np.abs(main_effects).tolist())
    terms: list[Term] = [(unit,) for unit in range(removed.shape[1])]
    for size in range(2, order + 1):
        among = sorted(strongest[: _units_for(size, min(_TERMS_PER_MASK * len(values), _MAX_TERMS))])
        terms += combinations(among, size)
    chosen = np.flatnonzero(_lasso(_products(removed, terms), values)).tolist()
    if not chosen:
        return _Surrogate(float(values.mean()), (), ())
    terms = [terms[i] for i in chosen]
    intercept, coefficients = _ridge(_products(removed, terms), values)
    return _Surrogate(intercept, tuple(terms), tuple(coefficients.tolist()))


def _units_for(size: int, limit: int) -> int:
    """How many units have at most `limit` subsets of `size` units."""
    n_units = size
    while math.comb(n_units + 1, size) <= limit:
        n_units += 1
    return n_units


def _lasso(features: Bool[ndarray, "masks features"], values: Float[ndarray, "masks"]) -> Float[ndarray, "features"]:
    """Coefficients of a cross-validated Lasso on standardised features, for the standardised features."""
    from sklearn.linear_model import LassoCV
    from sklearn.preprocessing import StandardScaler

    lasso = LassoCV(alphas=30, cv=min(FOLDS, len(values)), tol=1e-3, max_iter=2000)
    return lasso.fit(StandardScaler().fit_transform(features), values).coef_


def _ridge(
    features: Bool[ndarray, "masks features"], values: Float[ndarray, "masks"]
) -> tuple[float, Float[ndarray, "features"]]:
    """Intercept and coefficients of a ridge regression whose penalty generalised cross-validation chooses."""
    import numpy as np
    from sklearn.linear_model import RidgeCV

    ridge: Any = RidgeCV(alphas=np.logspace(-4, 3, 15)).fit(features, values)
    return float(ridge.intercept_), ridge.coef_


def _products(removed: Bool[ndarray, "masks units"], terms: Sequence[Term]) -> Bool[ndarray, "masks terms"]:
    """For each mask and term, whether all units of the term are removed."""
    import numpy as np

    return np.stack([removed[:, list(term)].all(axis=1) for term in terms], axis=1)


def _best_sets(surrogate: _Surrogate, n_units: int, k: int, n: int) -> list[Term]:
    """The n sets of k units whose removal leaves the surrogate's log p(y) lowest, the lowest first."""
    used = {unit for term in surrogate.terms for unit in term}
    alike = islice((unit for unit in range(n_units) if unit not in used), k)
    units = sorted([*used, *alike])
    if math.comb(len(units), k) <= _ENUMERABLE:
        return _lowest(surrogate, list(combinations(units, k)), n_units, n)
    return _lowest_by_swaps(surrogate, units, n_units, k, n)


def _lowest(surrogate: _Surrogate, sets: Sequence[Term], n_units: int, n: int) -> list[Term]:
    """The n of these sets with the lowest prediction, the lowest first; the first of those that tie."""
    chunks = (sets[start : start + _PREDICTED_AT_ONCE] for start in range(0, len(sets), _PREDICTED_AT_ONCE))
    values = [value for chunk in chunks for value in surrogate.predict(_as_masks(chunk, n_units)).tolist()]
    return [sets[i] for i in ranked([-value for value in values], n, least_scale=NAT)]


def _lowest_by_swaps(surrogate: _Surrogate, units: Sequence[int], n_units: int, k: int, n: int) -> list[Term]:
    """The n lowest sets that a beam search by one-swap neighbours finds; it ends when no neighbour enters the beam.

    It starts from the k strongest units, and from each of the n strongest terms filled up with them, because no single
    swap leads to a pair whose units have no effect alone.
    """
    effect = dict(zip(surrogate.terms, surrogate.coefficients, strict=True))
    alone = [-effect.get((unit,), 0.0) for unit in units]
    strongest = [units[i] for i in ranked(alone, least_scale=NAT)]
    joint = [term for term in effect if 1 < len(term) <= k]
    joint = [joint[i] for i in ranked([-effect[term] for term in joint], n, least_scale=NAT)]
    pool = [tuple(sorted(list(dict.fromkeys([*term, *strongest]))[:k])) for term in [(), *joint]]
    seen: set[Term] = set()
    while new := [chosen for chosen in dict.fromkeys(pool) if chosen not in seen]:
        seen.update(new)
        neighbours = {
            tuple(sorted({*chosen, into} - {out}))
            for chosen in new
            for out in chosen
            for into in units
            if into not in chosen
        }
        pool = _lowest(surrogate, sorted({*pool, *neighbours}), n_units, n)
    return pool
