"""ContextCite: a sparse linear model is fitted to the scores of random removals, and the k units are read from it.

    logit p(y | x ⊙ m) ≈ b + Σ_i w_i m_i                         the k largest w_i

Cohen-Wang et al. 2024 (arXiv 2409.00729), as the package `context-cite` has it. Sees units and scores, never a
tokenizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from jopa.errors import SettingError, require_package
from jopa.method import Ranking, RankingMethod
from jopa.methods.random_removals import FOLDS, MIN_ABLATIONS, explained, random_removals, token_log_probs
from jopa.problem import Problem, ProblemShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

_NEAREST_TO_CERTAIN = 2.0**-24
"""−log p is at least this: float32 has no probability between this one and 1."""


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
        if self.ablations < MIN_ABLATIONS:
            raise SettingError(f"ablations must be at least {MIN_ABLATIONS}, got {self.ablations}")
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
        removed = random_removals(problem.n_units, self.ablations, 0.5, seed)
        log_probs = token_log_probs(problem, removed)
        values = _logit(log_probs.sum(axis=1)) / log_probs.shape[1]
        scores, quality = _sparse_linear_fit(~removed, values, self.alpha)
        details = {"nonzero": int((scores != 0).sum()), **quality}
        return Ranking(
            tuple((scores * log_probs.shape[1]).tolist()), f"linear surrogate fitted to {len(removed)} masks", details
        )


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
        "r2": explained(values, pipeline.predict(keep)),
        "held_out_correlation": _held_out_correlation(pipeline, keep, values),
    }
    return lasso.coef_ / scaler.scale_, quality


def _held_out_correlation(pipeline: Any, keep: Bool[ndarray, "masks units"], values: Float[ndarray, "masks"]) -> float:
    """Spearman correlation of values and their cross-validated predictions; 0 where either is constant."""
    import numpy as np
    from scipy.stats import spearmanr
    from sklearn.model_selection import cross_val_predict

    if len(values) < 2:
        return 0.0
    predicted: Any = cross_val_predict(pipeline, keep, values, cv=min(FOLDS, len(values)))
    if np.ptp(values) == 0 or np.ptp(predicted) == 0:
        return 0.0
    correlation: Any = spearmanr(values, predicted)
    return float(correlation.statistic)
