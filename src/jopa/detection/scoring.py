"""The score of a prompt, and what it was tuned for."""

from __future__ import annotations

import math
from collections.abc import Mapping

BIAS = -6.950
WEIGHTS = {
    **{"surprisal": 0.022, "window": 0.671, "span_surprisal": -0.213, "spread": 0.188},
    **{"confidence": -2.996, "flip": 3.054},
}
"""Of the score, for the bundled model; analysis/detection.py fitted it on the development half."""
FITTED_ON = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model whose reactions the weights were fitted on."""
TUNED_FOR = "optimised suffixes and jailbreak templates; it was not shown to find attacks in fluent language"
"""What the score finds, and what it was not shown to find."""


def is_calibrated(model_id: str | None) -> bool:
    """Whether the weights were fitted on this model."""
    return model_id == FITTED_ON


def score(numbers: Mapping[str, float]) -> float:
    """The logistic function of a weighted sum, between 0 and 1."""
    total = BIAS + math.fsum(weight * numbers[name] for name, weight in WEIGHTS.items())
    return 1 / (1 + math.exp(-total)) if total >= 0 else math.exp(total) / (1 + math.exp(total))
