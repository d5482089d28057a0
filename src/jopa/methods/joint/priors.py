"""How much each unit may matter: a guess before sets of them are scored.

Sees units and scores, never a tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from jopa.methods.joint.configuration import STANDARD, SearchConfiguration
from jopa.ordering import NAT, ranked

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from jopa.problem import Problem


def repeated_words(problem: Problem) -> dict[frozenset[int], float]:
    """The units of each word that the answer repeats, and the nats that the answer loses of it without the prompt.

    The word of which most is lost comes first.

    Scores the prompt without all of its units but the last, because something must be left to predict from.
    """
    words: dict[frozenset[int], float] = {}
    repeated_tokens = problem.repeated_tokens()
    if not repeated_tokens:
        return words
    whole, without = problem.token_log_probs([(), range(problem.n_units - 1)])
    lost = (whole - without).clamp(min=0).double()
    for token in repeated_tokens:
        words[token.units] = words.get(token.units, 0.0) + float(lost[list(token.targets)].sum())
    found = list(words.items())
    return dict(found[i] for i in ranked(list(words.values()), least_scale=NAT))


def segment_strengths(effects: Mapping[frozenset[int], float], n_units: int) -> Float[Tensor, "units"]:
    """For each unit, how far removing its segment of the prompt lowers log p(y), per unit of the segment, in nats.

    0 where the removal does not lower it.
    """
    import torch

    strength = torch.zeros(n_units, dtype=torch.double)
    for segment, change in effects.items():
        strength[list(segment)] = max(0.0, -change) / len(segment)
    return strength


def unit_weights(
    strength: Float[Tensor, "units"], words: Mapping[frozenset[int], float], config: SearchConfiguration = STANDARD
) -> Float[Tensor, "units"]:
    """Weights in (0, 1]: each strength times (1 + the nats of the answer that the unit's words can claim).

    Mentions of a word share its nats evenly. The strongest unit weighs 1.

    Args:
        strength: not negative; if all are 0, all weights are 1.
        words: units that hold a word, and the nats that they share.
        config: the least weight.
    """
    import torch

    claims = torch.ones_like(strength)
    for units, nats in words.items():
        claims[list(units)] += nats / len(units)
    strength = strength * claims
    if strength.max() > 0:
        return (strength / strength.max() + config.weight_floor) / (1 + config.weight_floor)
    return torch.ones_like(strength)
