"""What to score next: what the searches `joint` and `proxy-search` share.

Expected improvement is the criterion of Jones, Schonlau & Welch 1998 (https://doi.org/10.1023/A:1008306431147). Knows
numbers alone: no scorer, no search.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

NEGLIGIBLE_SHARE = 1e-3
"""An expected improvement below this share of the best set's effect is not worth a mask."""
ATTENTION_OUTSIDE = 0.5
"""The factor on the attention paid to units outside the best set, where a gradient is taken."""
ATTENTION_INSIDE = math.exp(-5)
"""The same inside the set: almost hidden, and the logarithm of the factor still has a derivative."""


def expected_improvement(
    mean: Float[Tensor, "pool"], deviation: Float[Tensor, "pool"], lowest: float
) -> Float[Tensor, "pool"]:
    """E[max(0, lowest − f)] of each normally distributed f, in the unit of `lowest`.

    Args:
        mean: of each f.
        deviation: standard deviation of each f; positive.
        lowest: what is to be improved on.
    """
    import torch

    z = (lowest - mean) / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return deviation * (z * torch.special.ndtr(z) + density)
