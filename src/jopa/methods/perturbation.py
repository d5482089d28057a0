"""Methods that need scores of removals alone: baselines, Shapley values, and the enumerated optimum.

With v(S) = log p(y | x with only the units of S) and U all T units, in nats:

    Ablation     L({i}) = v(U) − v(U ∖ {i})                                  (equation 2 of the paper, in logarithms)
    Shapley      φ_i = mean over orders of U of v(those up to i) − v(those before i)
    Greedy       k times: add the unit that lowers log p(y) most, given those already removed
    Exhaustive   argmin over all |S| = k of v(U ∖ S)

Any scorer is enough. Sees units and scores, never a tokenizer or a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING, ClassVar

from jopa.errors import PromptError, SettingError
from jopa.method import Method, Ranking, RankingMethod, Selection, TraceStep
from jopa.ordering import first_lowest
from jopa.problem import Problem, ProblemShape

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_CHUNK = 128
"""Sets scored in one call: enough to fill any batch of the scorer, few enough to report progress often."""


@dataclass(frozen=True)
class Random(Method):
    """k units drawn uniformly: the baseline for every other method (the paper's "Random" row)."""

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "k units at random: the baseline for every other method"
    cost: ClassVar[str] = "0"

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 1

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Draw k distinct units; see `Method.run`."""
        import torch

        self.validate(problem.shape, k)
        order = torch.randperm(problem.n_units, generator=torch.Generator().manual_seed(seed))
        return Selection(tuple(order[:k].tolist()), "drawn at random")


@dataclass(frozen=True)
class Ablation(RankingMethod):
    """Leave-one-out: the k units with the largest effect alone (equation 2 of the paper).

    L({i}) = log p(y|x) − log p(y|x without i), in nats: what Captum's `LLMAttribution(FeatureAblation(model))` gives
    with its default target, log-probabilities (https://captum.ai/api/llm_attr.html), here in a few batched passes.

    It does not find units that matter only together: a redundant pair, of which either unit is enough, has no effect
    here.
    """

    name: ClassVar[str] = "ablation"
    summary: ClassVar[str] = "leave-one-out: the k units with the largest effect alone (equation 2)"
    cost: ClassVar[str] = "1 + T"

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 1 + n_units

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """L({i}) of every unit, in nats."""
        sets = [[], *([unit] for unit in range(problem.n_units))]
        whole, *alone = (log_prob for _, log_prob in _scored(problem, sets, len(sets)))
        return Ranking(tuple(whole - log_prob for log_prob in alone), "every unit removed alone")


@dataclass(frozen=True)
class Shapley(RankingMethod):
    """Shapley values by sampling orders of the units, each together with its reverse.

    Units enter an empty prompt in some order; a unit's contribution is how much its entering raises log p(y), and its
    value φ_i is the mean over orders (Castro, Gómez & Tejada 2009, https://doi.org/10.1016/j.cor.2008.04.004). An
    order and its reverse make one independent sample: a unit that enters early in one enters late in the other, which
    reduces the noise (Mitchell et al. 2022, https://jmlr.org/papers/v23/21-0439.html). Σ φ_i = log p(y|x) −
    log p(y|no unit) holds exactly. `details["standard_errors"]` has the standard error of each φ_i, in nats, over
    the pairs.

    It measures the mean effect of a unit over contexts of all sizes, so it finds redundant units, but not which of them
    belong together; most of its contexts are prompts without far more than k units.

    Attributes:
        permutations: orders sampled, reverses included; an even number of at least 4, which a standard error needs.
    """

    permutations: int = 20

    name: ClassVar[str] = "shapley"
    summary: ClassVar[str] = "Shapley values of log p(y), sampled, with standard errors"
    cost: ClassVar[str] = "permutations × T / 2"

    def __post_init__(self) -> None:
        if self.permutations < 4 or self.permutations % 2:
            raise SettingError(f"permutations must be an even number of at least 4, got {self.permutations}")

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 2 + self.permutations * (n_units - 1)

    def rank(self, problem: Problem, *, seed: int = 0) -> Ranking:
        """φ_i of every unit, in nats.

        Raises:
            PromptError: without any unit nothing is left to predict from (a prompt without a template).
        """
        import torch

        n_units = problem.n_units
        _require_empty_prompt(problem)
        random = torch.Generator().manual_seed(seed)
        forward = [torch.randperm(n_units, generator=random).tolist() for _ in range(self.permutations // 2)]
        orders = [order for first in forward for order in (first, first[::-1])]
        absent = (order[entered:] for order in orders for entered in range(n_units + 1))
        values = [log_prob for _, log_prob in _scored(problem, absent, len(orders) * (n_units + 1))]
        gains = torch.tensor(values, dtype=torch.double).view(len(orders), n_units + 1).diff(dim=1)
        contributions = torch.empty_like(gains).scatter_(1, torch.tensor(orders), gains)
        pairs = contributions.view(-1, 2, n_units).mean(dim=1)
        return Ranking(
            tuple(pairs.mean(dim=0).tolist()),
            f"{self.permutations} orders of the units sampled",
            {"standard_errors": _standard_errors(pairs).tolist()},
        )


def _standard_errors(samples: Float[Tensor, "samples units"]) -> Float[Tensor, "units"]:
    """Standard error of each column's mean."""
    return samples.std(dim=0) / math.sqrt(len(samples))


def _require_empty_prompt(problem: Problem) -> None:
    """Score the prompt without any unit before the long work, so that the prompt is refused early if this fails."""
    try:
        problem.log_prob(range(problem.n_units))
    except PromptError as error:
        raise PromptError(
            "Shapley values need the score of the prompt without any unit, and this one has no template that would be "
            "left to predict the output from; use removal 'zero', or put a fixed prefix before the prompt"
        ) from error


@dataclass(frozen=True)
class Greedy(Method):
    """Forward selection: k rounds, each adding the unit whose removal lowers log p(y) most.

    S ← S ∪ {argmin_i log p(y|x without S ∪ {i})}, the first of equals; all remaining units of a round are scored in
    one batch. This is the plain greedy rule for set functions (Nemhauser, Wolsey & Fisher 1978,
    https://doi.org/10.1007/BF01588971), whose guarantee does not hold here: L is not submodular.

    It finds what adds most to the units it has, and never puts one back: it finds a redundant pair only if one of the
    two enters first by chance.
    """

    name: ClassVar[str] = "greedy"
    summary: ClassVar[str] = "forward selection: k times the unit that lowers log p(y) most"
    cost: ClassVar[str] = "1 + k·T − k(k − 1)/2"

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 1 + k * n_units - k * (k - 1) // 2

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Add k units one by one; see `Method.run`."""
        self.validate(problem.shape, k)
        removed: list[int] = []
        trace = [TraceStep(0, problem.log_prob(), problem.evaluations, problem.ffe)]
        for step in range(1, k + 1):
            others = [unit for unit in range(problem.n_units) if unit not in removed]
            log_probs = problem.log_probs([*removed, unit] for unit in others)
            best = first_lowest(log_probs)
            removed.append(others[best])
            trace.append(TraceStep(step, log_probs[best], problem.evaluations, problem.ffe))
            problem.progress(step, k)
        return Selection(tuple(removed), f"{k} units added one by one", tuple(trace))


@dataclass(frozen=True)
class Exhaustive(Method):
    """All C(T, k) sets of k units: the optimum, with which searches are compared.

    The result's certificate is "optimal". Of equally good sets it takes the first in lexicographic order.

    Attributes:
        limit: the most sets it agrees to score.
    """

    limit: int = 20_000

    name: ClassVar[str] = "exhaustive"
    summary: ClassVar[str] = "all sets of k units: the optimum, for short prompts"
    cost: ClassVar[str] = "C(T, k)"

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise SettingError(f"limit must be at least 1, got {self.limit}")

    def validate(self, shape: ProblemShape, k: int) -> None:
        """Refuse more sets than the limit, too; see `Method.validate`."""
        super().validate(shape, k)
        n_sets = math.comb(shape.n_units, k)
        if n_sets > self.limit:
            raise SettingError(
                f"C({shape.n_units}, {k}) = {n_sets:,} sets are more than the limit of {self.limit:,}: lower k, take "
                "larger units (words, sentences), raise the limit, or choose a search"
            )

    def most_masks(self, n_units: int, k: int) -> int:
        """See `Method.most_masks`."""
        return 1 + math.comb(n_units, k)

    def run(self, problem: Problem, k: int, *, seed: int = 0) -> Selection:
        """Score every set of k units; see `Method.run`."""
        self.validate(problem.shape, k)
        n_sets = math.comb(problem.n_units, k)
        sets, log_probs = zip(*_scored(problem, combinations(range(problem.n_units), k), n_sets), strict=True)
        return Selection(tuple(sets[first_lowest(log_probs)]), f"all {n_sets:,} sets scored")


def _scored(problem: Problem, sets: Iterable[Iterable[int]], total: int) -> Iterator[tuple[Iterable[int], float]]:
    """Each set with log p(y | x without it), in nats; scored in chunks, so that memory stays small."""
    remaining, done = iter(sets), 0
    while chunk := list(islice(remaining, _CHUNK)):
        yield from zip(chunk, problem.log_probs(chunk), strict=True)
        done += len(chunk)
        problem.progress(done, total)
