"""Random removals and their scores, which surrogates are fitted to; how well a fit explains them.

Sees units and scores, never a tokenizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jopa.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

MIN_ABLATIONS = 8
"""Fewer masks say nothing of a prompt."""
FOLDS = 5
"""Of a cross-validation; as many as there are masks, if that is less."""
_CHUNK = 128
"""Masks scored in one call: enough to fill any batch of the scorer, few enough to report progress often."""
_ROUNDS = 20
"""How often masks are drawn again to replace those that cannot be used."""


def random_removals(
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


def token_log_probs(problem: Problem, removed: Bool[ndarray, "masks units"]) -> Float[ndarray, "masks out"]:
    """Log-probability of each target token under each removal, in nats."""
    import numpy as np

    chunks = []
    for start in range(0, len(removed), _CHUNK):
        rows = removed[start : start + _CHUNK]
        chunks.append(problem.token_log_probs([units_of(row) for row in rows]).double().numpy())
        problem.progress(start + len(rows), len(removed))
    return np.concatenate(chunks)


def units_of(removed: Bool[ndarray, "units"]) -> tuple[int, ...]:
    """The units that a mask removes."""
    return tuple(removed.nonzero()[0].tolist())


def explained(values: Float[ndarray, "masks"], predicted: Float[ndarray, "masks"]) -> float:
    """R²: the share of the values' variance that the predictions explain; 1 if the values do not vary."""
    variance = values.var()
    return float(1 - ((values - predicted) ** 2).mean() / variance) if variance > 0 else 1.0
