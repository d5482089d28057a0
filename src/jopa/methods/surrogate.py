"""Surrogates: a sparse model is fitted to the scores of random removals, and the k units are read from it.

    ContextCite    logit p(y | x ⊙ m) ≈ b + Σ_i w_i m_i                         the k largest w_i
    Interactions   log p(y | x without S) ≈ b + Σ_{t ⊆ S, |t| ≤ order} c_t      the S of k units that minimises it

`ContextCite` follows Cohen-Wang et al. 2024 (arXiv 2409.00729) and its package `context-cite`. `Interactions` takes
from ProxySPEX (arXiv 2505.17495) that interactions of prompts are few and hierarchical: it looks for them among the
units that have strong main effects, and fits again those it finds. ProxySPEX itself (`proxy_spex.py`) needs twelve
packages, removes half of the prompt where a removal of k units is of interest, and gives interaction indices rather
than a best set. The same idea is a screening, a Lasso and a ridge regression in scikit-learn.

A surrogate only predicts the score of a set that was not scored, so `Interactions` lets the model score the sets with
the best predictions. Sees units and scores, never a tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import TYPE_CHECKING, Any, ClassVar

from jopa.errors import SettingError, require_package
from jopa.method import Method, Ranking, RankingMethod, Selection
from jopa.ordering import NAT, first_lowest, ranked
from jopa.problem import Problem, ProblemShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray

_CHUNK = 128
"""Masks scored in one call: enough to fill any batch of the scorer, few enough to report progress often."""
_MIN_ABLATIONS = 8
_NEAREST_TO_CERTAIN = 2.0**-24
"""−log p is at least this: float32 has no probability between this one and 1."""
_FOLDS = 5
_TERMS_PER_MASK = 2
"""Pairs, and as many triples, that the fit may choose from, for each mask."""
_MAX_TERMS = 512
"""The most pairs, and as many triples, whatever the number of masks: the fit then takes about a second."""
_ENUMERABLE = 200_000
"""Up to this many sets, the surrogate predicts all of them to find the best."""
_PREDICTED_AT_ONCE = 20_000
"""Sets that the surrogate predicts at once, so that memory stays small."""
_ROUNDS = 20
"""How often masks are drawn again to replace those that cannot be used."""

Term = tuple[int, ...]
"""Units whose removal together has a coefficient."""


@dataclass(frozen=True)
class ContextCite(RankingMethod):
    """ContextCite: the k largest coefficients of a sparse linear surrogate (Cohen-Wang et al. 2024).

    Masks keep each unit with probability 1/2; the value of a mask is logit p = log p − log(1 − p), where p is the
    probability of the whole target. A Lasso on standardised masks fits logit p divided by the number of target tokens;
    its coefficients, scaled back, are the scores, in nats: how much keeping a unit raises logit p. So does the
    package `context-cite` 0.0.4 (https://github.com/MadryLab/context-cite), with two differences: a mask that removes
    every unit is drawn again, because nothing may be left of a prompt without a template; and if there are no more
    masks than `ablations`, each of them is taken once. A mask drawn twice counts twice in the fit and is scored once.

    `details` has the number of coefficients that are not zero, R² on the masks of the fit, and the Spearman
    correlation of values with predictions by a fit that left them out (0 where either is constant).

    It measures mean effects with half of the prompt removed. Of redundant units it finds that each matters, but not
    that they belong together, nor what the removal of only k units does.

    Attributes:
        ablations: masks drawn; the paper takes 32 to 256.
        alpha: weight of the Lasso's penalty; the larger it is, the fewer coefficients differ from 0.
    """

    ablations: int = 64
    alpha: float = 0.01

    name: ClassVar[str] = "context-cite"
    summary: ClassVar[str] = "ContextCite: the largest coefficients of a sparse linear surrogate"
    cost: ClassVar[str] = "ablations / 2"
    needs_log_probs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.ablations < _MIN_ABLATIONS:
            raise SettingError(f"ablations must be at least {_MIN_ABLATIONS}, got {self.ablations}")
        if not 0 < self.alpha < math.inf:
            raise SettingError(f"alpha must be a positive number, got {self.alpha}")

    def with_budget(self, budget: int) -> ContextCite:
        """The same fit to `budget` masks."""
        return replace(self, ablations=budget)

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 1 + self.ablations

    def validate(self, shape: ProblemShape, k: int) -> None:
        """Refuse to work without scikit-learn, too; see `Method.validate`."""
        super().validate(shape, k)
        require_package(f"method '{self.name}'", "scikit-learn", "baselines", module="sklearn")

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """The surrogate's coefficient of every unit, in nats."""
        removed = _random_removals(problem.n_units, self.ablations, 0.5, seed)
        log_probs = _token_log_probs(problem, removed)
        values = _logit(log_probs.sum(axis=1)) / log_probs.shape[1]
        scores, quality = _sparse_linear_fit(~removed, values, self.alpha)
        details = {"nonzero": int((scores != 0).sum()), **quality}
        return Ranking(
            tuple((scores * log_probs.shape[1]).tolist()), f"linear surrogate fitted to {len(removed)} masks", details
        )


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
        if self.ablations < _MIN_ABLATIONS:
            raise SettingError(f"ablations must be at least {_MIN_ABLATIONS}, got {self.ablations}")
        if not 1 <= self.order <= 3:
            raise SettingError(f"order must be between 1 and 3, got {self.order}")
        if self.candidates < 1:
            raise SettingError(f"candidates must be at least 1, got {self.candidates}")

    def with_budget(self, budget: int) -> Interactions:
        """The same fit with `budget` masks in all; the number of candidates does not change."""
        least = _MIN_ABLATIONS + self.candidates
        if budget < least:
            said = f"{_MIN_ABLATIONS} ablations and {self.candidates} candidates"
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
        removed = _random_removals(problem.n_units, self.ablations, rate, seed, distinct=True)
        values = _token_log_probs(problem, removed).sum(axis=1)
        surrogate = _fit_interactions(removed, values, self.order)
        proposed = _best_sets(surrogate, problem.n_units, k, self.candidates)
        scored = [_units(row) for row in removed if row.sum() == k]
        sets = list(dict.fromkeys([*proposed, *scored]))
        best = sets[first_lowest(problem.log_probs(sets))]
        details = {
            "terms": len(surrogate.terms),
            "r2": _explained(values, surrogate.predict(removed)),
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


def _random_removals(
    n_units: int, n_masks: int, rate: float, seed: int, *, distinct: bool = False
) -> Bool[ndarray, "masks units"]:
    """Random sets, each unit in them with probability `rate`, never all units; every possible set if they are few."""
    import numpy as np

    random = np.random.default_rng(seed)
    if 2**n_units - 1 <= n_masks:
        every = np.arange(2**n_units - 1)[:, None] >> np.arange(n_units) & 1
        return random.permutation(every.astype(bool))
    removed = np.empty((0, n_units), dtype=bool)
    for _ in range(_ROUNDS):
        drawn = random.random((n_masks, n_units)) < rate
        removed = np.concatenate([removed, drawn[~drawn.all(axis=1)]])
        if distinct:
            removed = removed[np.sort(np.unique(removed, axis=0, return_index=True)[1])]
        if len(removed) >= n_masks:
            break
    return removed[:n_masks]


def _token_log_probs(problem: Problem, removed: Bool[ndarray, "masks units"]) -> Float[ndarray, "masks out"]:
    """Log-probability of each target token under each removal, in nats."""
    import numpy as np

    chunks = []
    for start in range(0, len(removed), _CHUNK):
        rows = removed[start : start + _CHUNK]
        chunks.append(problem.token_log_probs([_units(row) for row in rows]).double().numpy())
        problem.progress(start + len(rows), len(removed))
    return np.concatenate(chunks)


def _units(removed: Bool[ndarray, "units"]) -> Term:
    return tuple(removed.nonzero()[0].tolist())


def _as_masks(sets: Sequence[Term] | Int[ndarray, "sets k"], n_units: int) -> Bool[ndarray, "sets units"]:
    """One row a set, True at its units; all sets have the same size."""
    import numpy as np

    masks = np.zeros((len(sets), n_units), dtype=bool)
    np.put_along_axis(masks, np.asarray(sets), True, axis=1)
    return masks


def _logit(log_prob: Float[ndarray, "masks"]) -> Float[ndarray, "masks"]:
    """log p − log(1 − p) from log p, exact for p near 0 and near 1."""
    import numpy as np

    log_prob = np.minimum(log_prob, -_NEAREST_TO_CERTAIN)
    return log_prob - np.log(-np.expm1(log_prob))


def _sparse_linear_fit(
    keep: Bool[ndarray, "masks units"], values: Float[ndarray, "masks"], alpha: float
) -> tuple[Float[ndarray, "units"], dict[str, float]]:
    """Coefficients of a Lasso on standardised masks, scaled back to masks of 0 and 1; and how well it fits."""
    from sklearn.linear_model import Lasso
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    lasso: Any = Lasso(alpha=alpha)
    scaler = StandardScaler()
    pipeline = make_pipeline(scaler, lasso).fit(keep, values)
    quality = {
        "r2": _explained(values, pipeline.predict(keep)),
        "held_out_correlation": _held_out_correlation(pipeline, keep, values),
    }
    return lasso.coef_ / scaler.scale_, quality


def _explained(values: Float[ndarray, "masks"], predicted: Float[ndarray, "masks"]) -> float:
    """R²: the share of the values' variance that the predictions explain; 1 if the values do not vary."""
    variance = values.var()
    return float(1 - ((values - predicted) ** 2).mean() / variance) if variance > 0 else 1.0


def _held_out_correlation(pipeline: Any, keep: Bool[ndarray, "masks units"], values: Float[ndarray, "masks"]) -> float:
    """Spearman correlation of values and their cross-validated predictions; 0 where either is constant."""
    import numpy as np
    from scipy.stats import spearmanr
    from sklearn.model_selection import cross_val_predict

    if len(values) < 2:
        return 0.0
    predicted: Any = cross_val_predict(pipeline, keep, values, cv=min(_FOLDS, len(values)))
    if np.ptp(values) == 0 or np.ptp(predicted) == 0:
        return 0.0
    correlation: Any = spearmanr(values, predicted)
    return float(correlation.statistic)


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

    lasso = LassoCV(alphas=30, cv=min(_FOLDS, len(values)), tol=1e-3, max_iter=2000)
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
