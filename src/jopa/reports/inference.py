"""What paired comparisons of methods can show: corrected p-values, the smallest visible difference, reliability.

    sign-flip test     under the null hypothesis the sign of each prompt's difference is as likely + as −; two-sided p
                       of the mean, all patterns of signs up to `EXACT` prompts, else `FLIPS` seeded ones
                       (Phipson & Smyth 2010)
    Holm               step-down correction of the p-values of one family (Holm 1979)
    visible            the mean difference that a two-sided paired t-test at 5 % finds with 80 % power, from the
                       standard deviation of the differences (noncentral t)
    reliability        methods × prompts without replication: 1 − MS(residual) / MS(methods) of the methods' means, and
                       the intraclass correlation of a single prompt (McGraw & Wong 1996, ICC(C,k) and ICC(C,1))

Sees arrays of numbers; knows neither records nor tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy
    from jaxtyping import Float

EXACT = 14
"""Up to this many prompts every pattern of signs is tried."""
FLIPS = 20_000
LEVEL = 0.05
POWER = 0.8
MIN_PROMPTS = 6
"""Fewer prompts cannot show a difference at 5 %: n of one sign have p = 2/2^n, and a percentile interval, which lies
between the least and the largest difference, holds a symmetric distribution's mean at most 1 − 2/2^n of the time."""
SEPARATES = 0.7
"""From this reliability of the means on, a metric is said to separate the methods."""
_AT_ONCE = 4_000_000  # entries of sign patterns in memory together
_ROUNDING = 1e-9


class Reliability(NamedTuple):
    """How reliably a metric puts methods in an order.

    Attributes:
        of_means: of the methods' means over the prompts, at most 1; below 0 counts as 0.
        of_one: of a single prompt.
        n: prompts.
    """

    of_means: float
    of_one: float
    n: int

    @property
    def prompts_needed(self) -> float:
        """Prompts, at least one, whose means would be reliable to 0.8, by the Spearman–Brown formula; infinite where no
        number would do."""
        return math.inf if self.of_one <= 0 else max(1.0, 4 * (1 - self.of_one) / self.of_one)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the mean of paired differences; sign patterns that are drawn come from seed 0."""
    import numpy as np

    values = np.asarray(differences, dtype=float)
    n, observed = len(values), abs(values.sum()) * (1 - 1e-9) - 1e-12  # a pattern that differs by rounding counts
    if n <= EXACT:
        patterns = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(patterns @ values) >= observed))
    drawn, as_large, piece = np.random.default_rng(0), 0, max(1, _AT_ONCE // n)
    for start in range(0, FLIPS, piece):
        signs = drawn.integers(0, 2, size=(min(piece, FLIPS - start), n)) * 2 - 1
        as_large += int((np.abs(signs @ values) >= observed).sum())
    return (as_large + 1) / (FLIPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family, corrected, in their order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = largest
    return corrected


def visible_difference(differences: Sequence[float]) -> float | None:
    """The smallest mean difference that these prompts could have shown; None for fewer than three prompts."""
    import numpy as np

    n = len(differences)
    if n < 3:
        return None
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    return error * _detectable(n) if error else 0.0


@cache
def _detectable(n: int) -> float:
    """The mean of n differences, in standard errors, that the test finds with 80 % power."""
    from scipy import stats

    critical = float(stats.t.ppf(1 - LEVEL / 2, n - 1))
    low, high = 1.0, 2 * critical + 2
    for _ in range(60):
        shift = (low + high) / 2
        found = float(stats.nct.sf(critical, n - 1, shift))  # the other tail holds less than 1e-4 here
        low, high = (shift, high) if found < POWER else (low, shift)
    return (low + high) / 2


def reliability(values: Float[numpy.ndarray, "methods prompts"]) -> Reliability | None:
    """How reliably the values put the methods in an order; None for fewer than two methods or prompts."""
    import numpy as np

    n_methods, n = values.shape
    if n_methods < 2 or n < 2:
        return None
    grand, methods, prompts = values.mean(), values.mean(axis=1), values.mean(axis=0)
    between = n * float(((methods - grand) ** 2).sum()) / (n_methods - 1)
    left = values - methods[:, None] - prompts[None] + grand
    residual = float((left**2).sum()) / ((n_methods - 1) * (n - 1))
    if np.ptp(methods) <= _ROUNDING * np.abs(values).max():  # equal means: their rounding is no order
        return Reliability(0.0, 0.0, n)
    of_one = (between - residual) / (between + (n - 1) * residual)
    return Reliability(max(0.0, 1 - residual / between), max(0.0, of_one), n)
