"""What gradients at the best sets predict about sets that have one unit more or less.

At a set, the attention paid to its units is multiplied by a small factor and that paid to other units by a larger one;
the derivative of log p(y) by the logs of these factors then predicts f of the neighbouring sets. The predictions become
pseudo-observations of the surrogate.

Every gradient costs model work. A scorer that cannot give one is searched as a black box from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jopa.errors import ScoringError
from jopa.methods.joint.configuration import STANDARD, SearchConfiguration
from jopa.methods.joint.cost_meter import CostMeter
from jopa.methods.joint.gaussian_process import PseudoObservations
from jopa.methods.joint.neighbours import to_masks
from jopa.methods.joint.state import SearchState, Units
from jopa.ordering import ranked
from jopa.problem import Problem
from jopa.scoring.protocols import WhiteBoxScorer

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class GradientObserver:
    """Takes a gradient every few rounds, as far as the budget allows.

    Args:
        problem: what gives gradients, if its scorer does.
        meter: what the run may still spend.
        ks: the sizes that are searched for; gradients are taken at their best sets in turn.
        config: how often, how many and how far.

    Attributes:
        has_gradients: whether the scorer gives gradients, as far as is known.
        details: why not, if it should have given one and could not.
    """

    def __init__(
        self, problem: Problem, meter: CostMeter, ks: list[int], config: SearchConfiguration = STANDARD
    ) -> None:
        self._problem, self._meter, self._config = problem, meter, config
        self.has_gradients = isinstance(problem.scorer, WhiteBoxScorer)
        self.details: dict[str, str] = {}
        self._rounds = config.rounds_between_gradients
        """Rounds since the last gradient."""
        self._taken_at: dict[int, list[Units]] = {k: [] for k in ks}
        self._predicted: list[tuple[Units, Units, float]] = []
        """A set, the scored set that it was predicted from, and its predicted f."""

    def gradient_norms(self) -> Float[Tensor, "units"] | None:
        """‖∂ log p(y) / ∂ embedding‖₂ of each unit; None where the scorer or the budget does not allow it."""
        if not self._affords_gradient():
            return None
        try:
            return self._problem.gradient_norms().double()
        except ScoringError as error:
            self._record_missing_gradients(error)
            return None

    def count_round(self) -> None:
        """Note that the search proposed sets of one size."""
        self._rounds += 1

    def observe(self, state: SearchState) -> None:
        """If it is time, take the gradient at the best set of an open size, and keep what it predicts."""
        if self._rounds < self._config.rounds_between_gradients or not self._affords_gradient():
            return
        best_sets = {k: state.best(k) for k in state.open if k > 1}
        new = {k: best for k, best in best_sets.items() if best is not None and best not in self._taken_at[k]}
        if not new:
            return
        k = min(new, key=lambda k: len(self._taken_at[k]))
        try:
            gradient = self._attention_gradient(new[k])
        except ScoringError as error:
            self._record_missing_gradients(error)
            return
        self._rounds = 0
        self._taken_at[k].append(new[k])
        self._add_gradient_observations(new[k], state.changes[new[k]], gradient)

    def pseudo_observations(self) -> PseudoObservations | None:
        """The latest predictions; None as long as there are none."""
        import torch

        known = self._predicted[-self._config.pseudo_observations :]
        if not known:
            return None
        sets, scored, changes = zip(*known, strict=True)
        units = range(self._problem.n_units)
        return PseudoObservations(
            to_masks(sets, units), torch.tensor(changes, dtype=torch.double), to_masks(scored, units)
        )

    def _attention_gradient(self, units: Units) -> Float[Tensor, "units"]:
        """The derivative of log p(y) by the log of each unit's attention factor, at a set, in nats."""
        import torch

        factors = torch.full((self._problem.n_units,), self._config.attention_outside, dtype=torch.float32)
        factors[list(units)] = self._config.attention_inside
        return self._problem.attention_gradient(factors).double()

    def _add_gradient_observations(self, units: Units, change: float, gradient: Float[Tensor, "units"]) -> None:
        """Predict f of the set's neighbours with one unit more, for the largest derivatives, and with one unit less."""
        config = self._config
        strongest = ranked(gradient.abs().tolist())
        outside = [unit for unit in strongest if unit not in units][: config.sets_per_gradient]
        self._predicted += [
            (units | {unit}, units, change - config.removal_step * float(gradient[unit])) for unit in outside
        ]
        inside = [
            (unit, config.return_step * float(gradient[unit]) / config.attention_inside) for unit in sorted(units)
        ]
        self._predicted += [(units - {unit}, units, change + step) for unit, step in inside]

    def _affords_gradient(self) -> bool:
        affordable_ffe = self._meter.affordable() * self._meter.max_mask_cost
        return self.has_gradients and affordable_ffe > 2 * self._config.gradient_ffe

    def _record_missing_gradients(self, error: ScoringError) -> None:
        self.has_gradients = False
        self.details = {"without_gradients": str(error)}
