"""ProxySPEX: boosted trees are fitted to random removals, and the k units are read from their interactions.

    v(S) ≈ Σ_{t ⊆ S, |t| ≤ order} c_t,        S the units that are kept; v(S) = log p(y | x with only the units of S)

Butler et al. 2025, "ProxySPEX: Inference-Efficient Interpretability via Sparse Feature Interactions in LLMs" (arXiv
2505.17495), run as it is in the package `shapiq` (https://github.com/mmschlk/shapiq), which needs LightGBM.

Sees units and scores, never a tokenizer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

from jopa.errors import SettingError, require_package
from jopa.method import Method, Selection
from jopa.ordering import NAT, ranked
from jopa.problem import Problem, ProblemShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

Terms = Mapping[tuple[int, ...], float]
"""c_t of each set t of units, in nats."""

_MIN_ABLATIONS = 40
"""LightGBM splits no group of fewer than twenty masks."""
_ENUMERABLE = 200_000
"""Up to this many sets, all are compared."""


@dataclass(frozen=True)
class ProxySPEX(Method):
    """ProxySPEX through `shapiq`: the set of k units whose removal the fitted interactions say costs most.

    `shapiq` draws masks that keep each unit with probability 1/2, each with its complement, chooses gradient-boosted
    trees by cross-validation, takes the largest terms of their Fourier transform, fits these again, and gives faithful
    Banzhaf interactions c_t. The removal of S is predicted to lower v by Σ c_t over all t that S meets; the S of k
    units with the largest sum is chosen, among all sets of the units in any term if they are few, else by adding units
    one by one and then swapping them. Nothing is scored beyond the masks of the fit.

    Unlike `interactions`, which is modelled after it, it measures with half of the prompt removed instead of a quarter,
    finds terms by trees instead of a Lasso, and does not score the sets that it proposes. Where the trees find nothing
    (too few masks, or scores that are all alike), the best of the sets of k units among the masks is chosen, or else
    the first k units, and `stop` says so.

    `details` has the number of terms and the predicted joint effect in nats.

    Attributes:
        ablations: masks scored.
        order: the most units in a term.
    """

    ablations: int = 128
    order: int = 3

    name: ClassVar[str] = "proxyspex"
    summary: ClassVar[str] = "ProxySPEX through shapiq: the best set of the interactions of boosted trees"
    cost: ClassVar[str] = "ablations / 2"

    def __post_init__(self) -> None:
        if self.ablations < _MIN_ABLATIONS:
            raise SettingError(f"ablations must be at least {_MIN_ABLATIONS}, got {self.ablations}")
        if not 1 <= self.order <= 5:
            raise SettingError(f"order must be between 1 and 5, got {self.order}")

    def with_budget(self, budget: int) -> ProxySPEX:
        """The same fit to `budget` masks."""
        return replace(self, ablations=budget)

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 1 + self.ablations

    def validate(self, shape: ProblemShape, k: int) -> None:
        """Refuse to work without the packages, too; see `Method.validate`."""
        super().validate(shape, k)
        for package in ("shapiq", "lightgbm"):
            require_package(f"method '{self.name}'", package, "proxyspex")

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose the set of k units whose removal is predicted to cost most; see `Method.run`.

        Raises:
            SettingError: see `Method.run`.
            PromptError: a mask without any unit leaves nothing to predict from (a prompt without a template).
        """
        self.validate(problem.shape, k)
        masks, order = min(self.ablations, 2**problem.n_units), min(self.order, problem.n_units)
        terms, fault = _fitted_terms(problem, masks, order, seed)
        if not terms:
            chosen = problem.best_known(k) or tuple(range(k))
            return Selection(chosen, f"the trees found no effect in {masks} masks{fault}", details={"terms": 0})
        chosen = best_set(terms, problem.n_units, k)
        details = {"terms": len(terms), "predicted_effect": _effect(terms, chosen)}
        return Selection(chosen, f"interactions fitted to {self.ablations} masks", details=details)


def _fitted_terms(problem: Problem, masks: int, order: int, seed: int) -> tuple[Terms, str]:
    """The faithful Banzhaf interactions that are not zero, none where the trees found nothing; and what failed then."""
    import numpy as np

    n_scored = 0

    def value(keep: Bool[ndarray, "masks units"]) -> Float[ndarray, "masks"]:
        removed = [tuple(np.flatnonzero(~row).tolist()) for row in np.asarray(keep, dtype=bool)]
        nonlocal n_scored
        n_scored += len(removed)
        return np.array(problem.log_probs(removed))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of LightGBM and scikit-learn, about columns' names and folds
        # By its name: the package is optional, and type checkers may not find it.
        approximator: Any = import_module("shapiq.approximator.sparse").ProxySPEX
        fit = approximator(n=problem.n_units, index="FBII", max_order=order, random_state=seed)
        try:
            found = fit.approximate(masks, value)
        except IndexError as error:
            if not n_scored:
                raise
            # Trees without a split have no Fourier term, which the package does not expect.
            return {}, f" (shapiq: {error})"
    terms = {tuple(int(i) for i in term): float(found.values[at]) for term, at in found.interaction_lookup.items()}
    return {term: value for term, value in terms.items() if term and value != 0}, ""


def _effect(terms: Terms, removed: Iterable[int]) -> float:
    """By how much the removal of these units is predicted to lower v, in nats."""
    gone = set(removed)
    return float(sum(value for term, value in terms.items() if gone.intersection(term)))


def best_set(terms: Terms, n_units: int, k: int) -> tuple[int, ...]:
    """The k units with the largest predicted effect; of units in no term the first ones."""
    used = sorted({unit for term in terms for unit in term})
    units = sorted([*used, *[unit for unit in range(n_units) if unit not in used][:k]])
    if math.comb(len(units), k) <= _ENUMERABLE:
        return _best(terms, list(combinations(units, k)))
    chosen: tuple[int, ...] = ()
    while len(chosen) < k:
        chosen = _best(terms, [(*chosen, unit) for unit in units if unit not in chosen])
    seen: set[tuple[int, ...]] = set()
    while chosen not in seen:
        seen.add(chosen)
        swaps = [tuple(sorted({*chosen, into} - {out})) for out in chosen for into in units if into not in chosen]
        chosen = _best(terms, [tuple(sorted(chosen)), *swaps])
    return chosen


def _best(terms: Terms, sets: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return sets[ranked([_effect(terms, units) for units in sets], 1, least_scale=NAT)[0]]
