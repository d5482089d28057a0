"""Searches for the k units whose joint removal lowers log p(y) most.

`PaperSearch` is Algorithm 1 of JoPA (arXiv 2405.20404), verbatim where the paper is explicit:

    g = |∇_m log p(y | m ⊙ x)| at m = 1;  start from the k units with the largest g
    N times: draw l from the kept and v from the removed units, each by softmax(g); swap them;
             keep the swap if log p(y) falls

Read literally, softmax(m ⊙ g) over all T entries would give weight e⁰ to units of the other kind; like the text of
section 4, the drawing here is restricted to the kept (or removed) units.

Sees units and scores, never a tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from jopa.attribution import Method, Needs, Problem, Selection, TraceStep
from jopa.errors import SettingError

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

INITIAL = ("abs", "signed-low", "signed-high", "random")
SAMPLING = ("gradient", "uniform")


@dataclass(frozen=True)
class PaperSearch(Method):
    """Algorithm 1 of the paper: gradient-guided probabilistic swaps.

    Attributes:
        steps: N, the number of swap proposals. The paper does not give it; its authors' code takes 200.
        initial: the first set: the k units with the largest |∂ log p/∂m| ("abs", the paper), the lowest signed
            derivative ("signed-low", the authors' code), the highest ("signed-high", the units whose removal should
            hurt most to first order), or k units at random ("random", "w/o Initialization" in Table 5).
        sampling: draw swaps by softmax of |g| ("gradient") or evenly ("uniform", "w/o Probability" in Table 5).
    """

    steps: int = 200
    initial: str = "abs"
    sampling: str = "gradient"

    name: ClassVar[str] = "jopa-paper"
    summary: ClassVar[str] = "Algorithm 1 of the paper: gradient-guided probabilistic swaps"
    cost: ClassVar[str] = "3 + N at most"
    requires: ClassVar[Needs] = "gradient"
    preset_removal: ClassVar[str] = "zero"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SettingError(f"steps must be at least 0, got {self.steps}")
        if self.initial not in INITIAL:
            raise SettingError(f"initial must be one of {', '.join(INITIAL)}, got '{self.initial}'")
        if self.sampling not in SAMPLING:
            raise SettingError(f"sampling must be one of {', '.join(SAMPLING)}, got '{self.sampling}'")

    def with_budget(self, budget: int) -> PaperSearch:
        """The same search with `budget` proposals."""
        return replace(self, steps=budget)

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose k units by Algorithm 1; see `Method.run`."""
        import torch

        problem.require(k, self)
        random = torch.Generator().manual_seed(seed)
        gradient = problem.mask_gradient()
        removed = _first_set(gradient, k, self.initial, random)
        kept = [i for i in range(problem.n_units) if i not in removed]
        strength = gradient.abs().double() if self.sampling == "gradient" else torch.zeros(problem.n_units)
        current = problem.log_prob(removed)
        trace = [TraceStep(0, current, problem.evaluations, problem.ffe)]
        if not kept:
            return Selection(tuple(removed), "every unit is removed", tuple(trace))
        for step in range(1, self.steps + 1):
            into = _draw(strength[kept], random)
            out = _draw(strength[removed], random)
            proposal = [*removed[:out], kept[into], *removed[out + 1 :]]
            log_prob = problem.log_prob(proposal)
            if log_prob < current:
                kept[into], removed, current = removed[out], proposal, log_prob
            trace.append(TraceStep(step, current, problem.evaluations, problem.ffe))
            problem.progress(step, self.steps)
        return Selection(tuple(removed), f"all {self.steps} proposals made", tuple(trace))


def _first_set(gradient: Float[Tensor, "units"], k: int, initial: str, random: torch.Generator) -> list[int]:
    """The k units that the search starts from."""
    import torch

    if initial == "random":
        return torch.randperm(len(gradient), generator=random)[:k].tolist()
    strength = {"abs": gradient.abs(), "signed-low": -gradient, "signed-high": gradient}[initial]
    return strength.argsort(descending=True, stable=True)[:k].tolist()


def _draw(strength: Float[Tensor, "choices"], random: torch.Generator) -> int:
    """An index drawn by softmax(strength)."""
    return int(strength.softmax(dim=0).multinomial(1, generator=random))
