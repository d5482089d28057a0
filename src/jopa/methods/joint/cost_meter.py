"""The cost of one run of a search: what it may spend, what it has spent, and how many more masks that allows.

Knows evaluations, full-forward equivalents and seconds; nothing of sets.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jopa.methods.joint.configuration import STANDARD, SearchConfiguration
from jopa.problem import SENDING_LIMIT

if TYPE_CHECKING:
    from jopa.problem import Problem


class CostMeter:
    """Counts the model work of one run of a search, and its time where that is limited.

    Scores the whole prompt, which counts as one full-forward equivalent, also if its score was known before.

    Args:
        problem: what is asked for scores.
        ffe: model work allowed, in full-forward equivalents.
        seconds: wall-clock time allowed; None for no limit.
        config: what a mask counts at least.
    """

    def __init__(
        self, problem: Problem, ffe: int, seconds: float | None, config: SearchConfiguration = STANDARD
    ) -> None:
        self._problem, self._ffe, self._seconds, self._config = problem, ffe, seconds, config
        self._began = time.perf_counter()
        self.whole = problem.log_prob()
        """log p(y) of the whole prompt, in nats."""
        self._mask_seconds = self._elapsed()
        self._ffe_before, self._evaluations_before = problem.ffe - 1, problem.evaluations
        self._max_mask_cost = 0.0
        """FFE of a mask in the call where masks cost most."""

    @property
    def spent(self) -> float:
        """Full-forward equivalents of this run."""
        least = self._config.min_mask_ffe * (self._problem.evaluations - self._evaluations_before)
        return max(self._problem.ffe - self._ffe_before, least)

    @property
    def max_mask_cost(self) -> float:
        """What a mask may cost, in full-forward equivalents; 1 as long as no mask cost anything."""
        return self._max_mask_cost or 1.0

    def affordable(self) -> int:
        """How many more masks the budget allows if they cost what the most expensive did."""
        masks = min(self._ffe - self.spent, self._problem.ffe_left) / self.max_mask_cost
        if self._seconds is not None:
            masks = min(
                masks, (self._seconds - self._elapsed()) / max(self._mask_seconds, self._config.min_mask_seconds)
            )
        return math.floor(max(0.0, masks))

    def share_spent(self) -> float:
        """The share of the work, or of the time if that is more, that is spent."""
        share = self.spent / self._ffe
        return share if self._seconds is None else max(share, self._elapsed() / self._seconds)

    def log_probs(self, sets: Sequence[frozenset[int]]) -> list[float]:
        """log p(y) without each of these sets, in nats; notes what a mask costs."""
        ffe, began = self._problem.ffe, time.perf_counter()
        log_probs = self._problem.log_probs(sets)
        self._max_mask_cost = max(self._max_mask_cost, (self._problem.ffe - ffe) / len(sets))
        self._mask_seconds = (time.perf_counter() - began) / len(sets)
        return log_probs

    def ended_by(self) -> str:
        """The limit that ended a search, in a few words."""
        if self._seconds is not None and self._elapsed() + self._mask_seconds > self._seconds:
            return f"{self._seconds:g} seconds spent"
        if self._problem.ffe_left < min(self.max_mask_cost, self._ffe - self.spent):
            return SENDING_LIMIT
        return f"budget of {self._ffe} full-forward equivalents spent"

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began
