"""The order and the score of a prompt, and what they were tuned for."""

from __future__ import annotations

import hashlib
import json
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


def weights_digest() -> str:
    """A checksum of the weights: orders by different weights are not comparable."""
    return hashlib.sha256(json.dumps([BIAS, WEIGHTS], sort_keys=True).encode()).hexdigest()[:12]


def fitted_on(model_id: str | None) -> bool:
    """Whether the weights were fitted on this model."""
    return model_id == FITTED_ON


def order(numbers: Mapping[str, float]) -> float:
    """The weighted sum: any real number, larger for a reaction more like that to attacks."""
    return BIAS + math.fsum(weight * numbers[name] for name, weight in WEIGHTS.items())


def score(order: float) -> float:
    """The logistic function of an order, between 0 and 1; it means something only for the model `fitted_on`."""
    return 1 / (1 + math.exp(-order)) if order >= 0 else math.exp(order) / (1 + math.exp(order))
