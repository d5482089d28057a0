"""Searches for the k units whose joint removal lowers log p(y) most.

`PaperSearch` is Algorithm 1 of JoPA (arXiv 2405.20404), verbatim where the paper is explicit:

    g = |∇_m log p(y | m ⊙ x)| at m = 1;  start from the k units with the largest g
    N times: draw l from the kept and v from the removed units, each by softmax(g); swap them;
             keep the swap if log p(y) falls

Proposals are scored in batches, which does not change the chain. Most proposals are rejected, so the next ones are
drawn as if none of them will be accepted, and scored together. When one is accepted, those drawn after it are dropped,
the random state after its drawing is restored, and the next ones are drawn again.

The formula softmax(m ⊙ g) over all T entries would give the weight e⁰ to units of the other kind; as in the text of
section 4, the drawing here is restricted to the kept (or removed) units.

Sees units and scores, never a tokenizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from jopa.errors import SettingError
from jopa.method import Method, Selection, TraceStep
from jopa.ordering import is_lower, ranked
from jopa.problem import Problem
from jopa.scoring.protocols import Capability

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

INITIAL = ("abs", "signed-low", "signed-high", "random")
SAMPLING = ("gradient", "uniform")
GRADIENTS = ("once", "fresh")


@dataclass(frozen=True)
class PaperSearch(Method):
    """Algorithm 1 of the paper: gradient-guided probabilistic swaps.

    Attributes:
        steps: N, the number of swap proposals. The paper does not give it; its authors' code takes 200.
        initial: the first set: the k units with the largest |∂ log p/∂m| ("abs", the paper), the lowest signed
            derivative ("signed-low", the authors' code), the highest ("signed-high", the units whose removal should
            hurt most to first order), or k units at random ("random", "w/o Initialization" in Table 5).
        sampling: draw swaps by softmax of |g| ("gradient") or evenly ("uniform", "w/o Probability" in Table 5).
        gradients: take the gradient at m = 1 and keep it ("once", the paper), or anew at the current set after every
            accepted swap ("fresh").
        lookahead: the most proposals that are drawn and scored together, before the earlier ones are decided; how many
            depends on how long ago one was accepted. It changes the speed, never the result. With 1, no proposal is
            scored that is not used; masks that were scored and not used count as evaluations and work like all others.
    """

    steps: int = 200
    initial: str = "abs"
    sampling: str = "gradient"
    gradients: str = "once"
    lookahead: int = 32

    name: ClassVar[str] = "jopa"
    summary: ClassVar[str] = "Algorithm 1 of the paper: gradient-guided probabilistic swaps"
    cost: ClassVar[str] = "3 + N, and what lookahead scores unused"
    requires: ClassVar[Capability] = "gradient"
    preset_removal: ClassVar[str] = "zero"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SettingError(f"steps must be at least 0, got {self.steps}")
        if self.initial not in INITIAL:
            raise SettingError(f"initial must be one of {', '.join(INITIAL)}, got '{self.initial}'")
        if self.sampling not in SAMPLING:
            raise SettingError(f"sampling must be one of {', '.join(SAMPLING)}, got '{self.sampling}'")
        if self.gradients not in GRADIENTS:
            raise SettingError(f"gradients must be one of {', '.join(GRADIENTS)}, got '{self.gradients}'")
        if self.lookahead < 1:
            raise SettingError(f"lookahead must be at least 1, got {self.lookahead}")

    def with_budget(self, budget: int) -> PaperSearch:
        """The same search with `budget` proposals."""
        return replace(self, steps=budget)

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose k units by Algorithm 1; see `Method.run`.

        The trace has one step a proposal; its evaluations and work include proposals that were scored ahead by then.
        """
        import torch

        self.validate(problem.shape, k)
        random = torch.Generator().manual_seed(seed)
        gradient = problem.mask_gradient()
        removed = _first_set(gradient, k, self.initial, random)
        kept = [i for i in range(problem.n_units) if i not in removed]
        chain = _Chain(removed, kept, self._strength(gradient), random, {frozenset(removed): problem.log_prob(removed)})
        trace = [TraceStep(0, chain.log_prob, problem.evaluations, problem.ffe)]
        if not kept:
            return Selection(tuple(removed), "every unit is removed", tuple(trace))
        while len(trace) <= self.steps:
            swaps = chain.draw_ahead(self.steps + 1 - len(trace), self.lookahead)
            sets = [frozenset(swap.proposal) for swap in swaps]
            chain.scores.update(zip(sets, problem.log_probs(sets), strict=True))
            for swap in swaps:
                accepted = chain.decide(swap)
                trace.append(TraceStep(len(trace), chain.log_prob, problem.evaluations, problem.ffe))
                problem.progress(len(trace) - 1, self.steps)
                if accepted:
                    if self.gradients == "fresh":
                        chain.strength = self._strength(problem.mask_gradient(chain.removed))
                    break
        return Selection(tuple(chain.removed), f"all {self.steps} proposals made", tuple(trace))

    def _strength(self, gradient: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
        """The logits of the softmax that proposals are drawn from."""
        return gradient.abs().double() if self.sampling == "gradient" else gradient.double() * 0


@dataclass(frozen=True, eq=False)
class _Swap:
    """A proposal, and the random state after it was drawn.

    Attributes:
        into: index, among the kept units, of the one to remove.
        out: index, among the removed units, of the one to put back.
        proposal: the removed units if it is accepted.
        random_state: of the chain's generator.
    """

    into: int
    out: int
    proposal: list[int]
    random_state: Tensor


@dataclass
class _Chain:
    """The state of Algorithm 1, and every set that it has scored."""

    removed: list[int]
    kept: list[int]
    strength: Float[Tensor, "units"]
    random: torch.Generator
    scores: dict[frozenset[int], float]
    rejected: int = 0
    """Proposals since the last accepted one."""

    @property
    def log_prob(self) -> float:
        """log p(y) with the current set removed."""
        return self.scores[frozenset(self.removed)]

    def draw_ahead(self, steps: int, most_new: int) -> list[_Swap]:
        """The next proposals, at most `steps`, as if none were accepted; the last may be one known to be accepted.

        After r rejections a proposal is accepted with a probability of about 1 / (r + 2). If a forward costs about as
        much as one more row in it, a batch of about √(2 (r + 2)) new sets wastes least.
        """
        n_new = min(most_new, math.ceil(math.sqrt(2 * (self.rejected + 2))))
        swaps: list[_Swap] = []
        new: set[frozenset[int]] = set()
        while len(swaps) < steps and len(new) < n_new:
            into = _draw(self.strength[self.kept], self.random)
            out = _draw(self.strength[self.removed], self.random)
            proposal = [*self.removed[:out], self.kept[into], *self.removed[out + 1 :]]
            swaps.append(_Swap(into, out, proposal, self.random.get_state()))
            log_prob = self.scores.get(frozenset(proposal))
            if log_prob is None:
                new.add(frozenset(proposal))
            elif is_lower(log_prob, self.log_prob):
                break
        return swaps

    def decide(self, swap: _Swap) -> bool:
        """Accept a scored proposal if log p(y) falls by more than rounding, and restore its random state."""
        if not is_lower(self.scores[frozenset(swap.proposal)], self.log_prob):
            self.rejected += 1
            return False
        self.kept[swap.into], self.removed = self.removed[swap.out], swap.proposal
        self.random.set_state(swap.random_state)
        self.rejected = 0
        return True


def _first_set(gradient: Float[Tensor, "units"], k: int, initial: str, random: torch.Generator) -> list[int]:
    """The k units that the search starts from."""
    import torch

    if initial == "random":
        return torch.randperm(len(gradient), generator=random)[:k].tolist()
    strength = {"abs": gradient.abs(), "signed-low": -gradient, "signed-high": gradient}[initial]
    return ranked(strength.tolist(), k)


def _draw(strength: Float[Tensor, "choices"], random: torch.Generator) -> int:
    """An index drawn by softmax(strength)."""
    return int(strength.softmax(dim=0).multinomial(1, generator=random))
