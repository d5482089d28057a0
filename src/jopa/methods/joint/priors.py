"""How much each unit may matter: what can be guessed before sets of them are scored.

Sees units and scores, never a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jopa.ordering import NAT, ranked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from jopa.problem import Problem

_FLOOR = 0.05
"""Weight, relative to the strongest unit's, of a unit of no strength."""


def repeated_words(problem: Problem) -> dict[frozenset[int], float]:
    """The words that the answer repeats, by the units that hold them, and the nats that it loses of each without the
    prompt; the most first.

    Scores the prompt without all of its units but the last, because something must be left to predict from.
    """
    words: dict[frozenset[int], float] = {}
    repeated_tokens = problem.repeated_tokens()
    if not repeated_tokens:
        return words
    whole, without = problem.token_log_probs([(), range(problem.n_units - 1)])
    lost = (whole - without).clamp(min=0).double()
    for echo in repeated_tokens:
        words[echo.units] = words.get(echo.units, 0.0) + float(lost[list(echo.targets)].sum())
    found = list(words.items())
    return dict(found[i] for i in ranked(list(words.values()), least_scale=NAT))


def stretch_strengths(effects: Mapping[frozenset[int], float], n_units: int) -> Float[Tensor, "units"]:
    """How far removing its stretch of the prompt lowers log p(y), for each unit of it, in nats; 0 where it does not."""
    import torch

    strength = torch.zeros(n_units, dtype=torch.double)
    for stretch, change in effects.items():
        strength[list(stretch)] = max(0.0, -change) / len(stretch)
    return strength


def unit_weights(strength: Float[Tensor, "units"], words: Mapping[frozenset[int], float]) -> Float[Tensor, "units"]:
    """Weights in (0, 1]: each strength times (1 + the nats of the answer that the unit's words can claim).

    Mentions of a word share its nats evenly. The strongest unit weighs 1.

    Args:
        strength: not negative; if all are 0, all weights are 1.
        words: units that hold a word, and the nats that they share.
    """
    import torch

    claims = torch.ones_like(strength)
    for units, nats in words.items():
        claims[list(units)] += nats / len(units)
    strength = strength * claims
    if strength.max() > 0:
        return (strength / strength.max() + _FLOOR) / (1 + _FLOOR)
    return torch.ones_like(strength)
