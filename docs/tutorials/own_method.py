# %% [markdown]
# # Write your own method in 30 lines
#
# *About fifteen minutes.* A method chooses k units of a *problem*. It asks the problem for log-probabilities with sets of units
# removed; whether a local model, a server or a table answers, it does not know.
#
# Ours ranks words by how much the answer misses them *when half of the other words are gone, too*.

# %%
from dataclasses import dataclass
from typing import ClassVar

import jopa
from jopa.method import Ranking, RankingMethod


@jopa.METHODS.register
@dataclass(frozen=True)
class HalfGone(RankingMethod):
    """Ranks units by their mean effect while a random half of the others is removed.

    Attributes:
        rounds: random halves for each unit.
    """

    rounds: int = 4
    name: ClassVar[str] = "half-gone"
    summary: ClassVar[str] = "effect of each unit while half of the others is gone"
    cost: ClassVar[str] = "rounds × 2 T"

    def __post_init__(self):
        if self.rounds < 1:
            raise jopa.SettingError(f"rounds must be at least 1, got {self.rounds}")

    def rank(self, problem, *, seed=0):
        import random

        draw, scores = random.Random(seed), []
        for unit in range(problem.n_units):
            others = [other for other in range(problem.n_units) if other != unit]
            halves = [draw.sample(others, len(others) // 2) for _ in range(self.rounds)]
            with_unit = problem.log_probs(halves)
            without = problem.log_probs([*half, unit] for half in halves)
            scores.append(sum(a - b for a, b in zip(with_unit, without, strict=True)) / self.rounds)
        return Ranking(tuple(scores), f"{self.rounds} random halves for each unit")


# %% [markdown]
# ## Test it without a model
#
# `check_method` holds it to what every method keeps, on planted problems. The doctor and his patient are one of them: units 2 and 5
# each say it all, so leave-one-out sees neither.

# %%
from jopa.testing import PLANTED, TableScorer, check_method

check_method(jopa.make_method("half-gone"))
pair = PLANTED["pair"]
for name in ("ablation", "half-gone", "joint"):
    problem = jopa.Problem(TableScorer(pair.n_units, pair.log_prob))
    print(
        f"{name:10} chose {sorted(jopa.make_method(name).run(problem, 2).removed)}, {problem.evaluations} evaluations"
    )

# %% [markdown]
# ## Use it

# %%
a = jopa.explain(
    "Write a story about the doctor and his patient.",
    k=2,
    method="half-gone",
    unit="word",
    output=jopa.Generation(max_new_tokens=16),
)
print([unit.text for unit in a.chosen], round(a.joint, 2), "nats,", a.evaluations, "evaluations")

# %% [markdown]
# In a package of your own, one entry point makes it appear in `jopa methods`, in experiments and in reports:
# [Add methods, metrics, data sets](../extending.md).
