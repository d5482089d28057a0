"""Methods that use the gradient of log p(y): by the units' input embeddings, or by the attention paid to them.

F(m) = log p(y | m ⊙ x), in nats, summed over the target, where m scales the units' input embeddings: m = 1 is the
whole prompt, m_i = 0 removes unit i as removal "zero" does. A unit of several tokens has one m_i; the template
keeps its embeddings.

    gradient × input         ∂F/∂m_i at m = 1 = Σ_d e_id · ∂ log p/∂e_id, summed over the unit's tokens (d: hidden size)
    integrated gradients     ∫₀¹ ∂F/∂m_i (α·1) dα: the same, averaged over the straight path from zero embeddings
    continuous mask          the m in [0, 1]^T that makes F small while T − k units stay (paper, Appendix A.10)
    attention gradient       ∂ log p/∂ log a_i, where a_i multiplies the attention paid to unit i: a_i = 0 hides it

Sees units and gradients, never a tokenizer. Whatever the removal, gradients are those of m ⊙ x or of a. They contain
nothing of what happens when tokens are cut out and later ones move up ("delete").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from jopa.errors import SettingError
from jopa.method import Method, Ranking, RankingMethod, Selection, TraceStep
from jopa.ordering import ranked
from jopa.problem import Problem
from jopa.scoring.protocols import Capability

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# Points of the path in one call: enough to fill a batch, few enough to report progress often.
_POINTS = 20
# The nodes are eigenvalues of a steps × steps matrix, which takes about a second for a thousand.
_MAX_STEPS = 1000


@dataclass(frozen=True)
class GradientTimesInput(RankingMethod):
    """Gradient × input: ∂ log p(y | m ⊙ x)/∂m_i at m = 1, signed.

    By the chain rule that is Σ_d e_id · ∂ log p/∂e_id summed over the unit's tokens, the "gradient × input" of
    Shrikumar et al. (https://arxiv.org/abs/1605.01713) on input embeddings; its absolute value guides the paper's
    Algorithm 1. To first order it is how much log p(y) falls when the unit's embeddings are zeroed.

    It does not measure the curvature of log p(y) between m = 1 and m = 0, nor what units do together.
    """

    name: ClassVar[str] = "grad-x-input"
    summary: ClassVar[str] = "gradient times input embedding, one backward"
    cost: ClassVar[str] = "3"
    requires: ClassVar[Capability] = "gradient"
    preset_removal: ClassVar[str] = "zero"

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Score every unit by its derivative; the seed changes nothing."""
        return Ranking(tuple(problem.mask_gradient().tolist()), "one gradient")


@dataclass(frozen=True)
class AttentionGradient(RankingMethod):
    """∂ log p(y) / ∂ log a_i at a = `factor` for every unit, signed.

    a_i multiplies the attention that all later tokens pay to unit i, in every layer and head, before it is normalised:
    1 is the whole prompt, 0 hides the unit (removal "hide"). So this is the slope of that removal between its two ends.
    At 1 attention is often saturated, and redundant units hide each other's slope; half of the attention to all units
    at once shows more of both. It costs as much as gradient × input.

    It measures one unit at a time while the others are half hidden; not what units do together.

    Attributes:
        factor: a, the same for all units; more than 0, at most 1.
    """

    factor: float = 0.5

    name: ClassVar[str] = "attention-gradient"
    summary: ClassVar[str] = "gradient by the attention paid to each unit, one backward"
    cost: ClassVar[str] = "3"
    requires: ClassVar[Capability] = "gradient"

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise SettingError(f"factor must be more than 0 and at most 1, got {self.factor}")

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Score every unit by its derivative; the seed changes nothing."""
        import torch

        gradient = problem.attention_gradient(torch.full((problem.n_units,), float(self.factor), dtype=torch.float32))
        return Ranking(tuple(gradient.tolist()), "one gradient")


@dataclass(frozen=True)
class IntegratedGradients(RankingMethod):
    """Integrated gradients from zero embeddings: φ_i = ∫₀¹ ∂F/∂m_i (α·1) dα.

    Sundararajan et al., https://arxiv.org/abs/1703.01365, equation 1, with the units' zeroed embeddings as baseline;
    times input, summed over the hidden size and the unit's tokens. The integral is a Gauss-Legendre sum, exact where
    F is a polynomial in α of degree up to twice the steps.

    The integrals add up to F(1) − F(0). How far the sum misses that is `completeness_gap` = Σφ − (F(1) − F(0)), in
    nats, among the details. Check it: where RMSNorm follows the embeddings, F changes suddenly near α = 0, because
    scaling an embedding changes little until it is about as small as the norm's √ε, and many steps may not be enough.
    The scores divide what all units do together along one path; they do not say what any k units do together.

    Attributes:
        steps: points on the path; the authors of the JoPA paper take 100.
    """

    steps: int = 100

    name: ClassVar[str] = "integrated-gradients"
    summary: ClassVar[str] = "gradients averaged over the path from zero embeddings"
    cost: ClassVar[str] = "3 × steps + 2"
    requires: ClassVar[Capability] = "gradient"
    preset_removal: ClassVar[str] = "zero"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= _MAX_STEPS:
            raise SettingError(f"steps must be between 1 and {_MAX_STEPS}, got {self.steps}")

    def with_budget(self, budget: int) -> IntegratedGradients:
        """The same method with `budget` points on the path."""
        return replace(self, steps=budget)

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """Score every unit by its integrated gradient; the seed changes nothing."""
        import torch

        alphas, weights = _gauss_legendre(self.steps)
        scores = torch.zeros(problem.n_units, dtype=torch.double)
        for done in range(0, self.steps, _POINTS):
            points = slice(done, done + _POINTS)
            _, gradients = problem.relaxed_gradients(alphas[points, None].expand(-1, problem.n_units))
            scores += weights[points] @ gradients.double()
            problem.progress(min(done + _POINTS, self.steps), self.steps)
        details = {"completeness_gap": _completeness(problem, scores.sum().item())}
        return Ranking(tuple(scores.tolist()), f"all {self.steps} steps made", details)


@dataclass(frozen=True)
class ContinuousMask(Method):
    """A mask in [0, 1]^T found by gradient descent, then rounded to its k smallest entries (paper, Appendix A.10).

    Minimises log p(y | m ⊙ x) + penalty · (Σ(1 − m_i) − k)² with m = sigmoid(θ), which keeps m within [0, 1], by Adam
    on θ. The paper names the relaxation, the penalty and the rounding, but neither optimiser nor settings; these are
    ours. At the start, every m_i is 1 − k/(T + 1).

    The descent takes no account of the rounding: units end up half removed, and log p(y) after rounding can be far from
    its value before. Details: `relaxed_log_prob` at the last m, `projected_log_prob` with the k units removed and
    `rounding_gap` = projected − relaxed, in nats, and `mask`, the last m. The projected one is measured with the
    problem's removal; where that is not "zero", the gap also holds the difference between the two kinds of removal.

    Attributes:
        steps: gradient steps.
        learning_rate: Adam's, on θ.
        penalty: nats for each squared unit removed too many or too few. With a small penalty, more than k units are
            partly removed; with a large one, every m_i stays near its start.
    """

    steps: int = 50
    learning_rate: float = 0.3
    penalty: float = 3.0

    name: ClassVar[str] = "continuous-mask"
    summary: ClassVar[str] = "gradient descent on a mask between 0 and 1, then rounded"
    cost: ClassVar[str] = "3 × (steps + 1) + 1"
    requires: ClassVar[Capability] = "gradient"
    preset_removal: ClassVar[str] = "zero"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingError(f"steps must be at least 1, got {self.steps}")
        if not 0 < self.learning_rate < math.inf:
            raise SettingError(f"learning_rate must be finite and above 0, got {self.learning_rate}")
        if not 0 <= self.penalty < math.inf:
            raise SettingError(f"penalty must be finite and at least 0, got {self.penalty}")

    def with_budget(self, budget: int) -> ContinuousMask:
        """The same method with `budget` gradient steps."""
        return replace(self, steps=budget)

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Choose k units by gradient descent on the mask; the seed changes nothing. See `Method.run`."""
        self.validate(problem.shape, k)
        mask, trace = self._descend(problem, k)
        removed = ranked((-mask).tolist(), k)
        relaxed, projected = trace[-1].log_prob, problem.log_prob(removed)
        details = {
            "relaxed_log_prob": relaxed,
            "projected_log_prob": projected,
            "rounding_gap": projected - relaxed,
            "mask": mask.tolist(),
        }
        return Selection(tuple(removed), f"all {self.steps} steps made", trace, details=details)

    def _descend(self, problem: Problem, k: int) -> tuple[Float[Tensor, "units"], tuple[TraceStep, ...]]:
        """The last mask, and log p(y) under the mask before the first and after every step."""
        import torch

        logits = (
            torch.full((problem.n_units,), 1 - k / (problem.n_units + 1), dtype=torch.float32).logit().requires_grad_()
        )
        adam = torch.optim.Adam([logits], lr=self.learning_rate)
        trace: list[TraceStep] = []
        for step in range(self.steps + 1):
            mask = logits.sigmoid()
            log_probs, gradients = problem.relaxed_gradients(mask.detach()[None])
            trace.append(TraceStep(step, log_probs.item(), problem.evaluations, problem.ffe))
            problem.progress(step, self.steps)
            if step < self.steps:
                excess = (1 - mask.detach()).sum() - k
                adam.zero_grad()
                mask.backward(gradients[0] - 2 * self.penalty * excess)
                adam.step()
        return logits.detach().sigmoid(), tuple(trace)


def _completeness(problem: Problem, total: float) -> float:
    """How far the sum of all scores is from F(1) − F(0), in nats."""
    import torch

    full, empty = problem.relaxed_log_probs(
        torch.tensor([[1.0], [0.0]], dtype=torch.float32).expand(-1, problem.n_units)
    ).tolist()
    return total - (full - empty)


def _gauss_legendre(steps: int) -> tuple[Float[Tensor, "steps"], Float[Tensor, "steps"]]:
    """Points and weights of the Gauss-Legendre rule on [0, 1]; points in float32, weights in float64."""
    import numpy as np
    import torch

    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return torch.tensor((nodes + 1) / 2, dtype=torch.float), torch.tensor(weights / 2)
