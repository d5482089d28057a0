"""Recorded runs of the default search: what it scores, in which order, and what it finds stay the same.

`python tests/methods/joint/test_recorded_searches.py` records them again, for a change that is meant to change them.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import jopa
from jopa.methods.joint.search import JointSearch
from jopa.prompt.repeated_tokens import RepeatedToken
from table_scorer import TableScorer, redundant_pair

RECORD = Path(__file__).with_name("recorded_searches.json")


def pairwise_table(n_units, seed):
    """Single effects and interactions of two units, at random."""
    weights = torch.randn(n_units, n_units, generator=torch.Generator().manual_seed(seed)).tolist()

    def log_prob(removed):
        chosen = sorted(removed)
        return -9.0 + sum(weights[i][j] for i in chosen for j in chosen if i <= j)

    return log_prob


class Words(TableScorer):
    """Three mentions of one word, which the answer repeats, do everything together."""

    mentions = frozenset({17, 58, 104})

    def log_probs(self, keep):
        scores = super().log_probs(keep)
        gone = [float(self.mentions <= frozenset((~mask).nonzero()[:, 0].tolist())) for mask in keep]
        return torch.cat([scores, -6.0 * torch.tensor(gone)[:, None]], dim=1)

    def repeated_tokens(self):
        return [RepeatedToken(self.mentions, (1,))]


class Gradients(TableScorer):
    """A smooth function of fractional masks, with its exact gradients: three units matter most by threes."""

    def __init__(self, n_units, fails=False):
        super().__init__(n_units, self.of_set)
        self.fails, self.gradients = fails, 0
        self.own = torch.rand(n_units, generator=torch.Generator().manual_seed(n_units), dtype=torch.double)

    def of_set(self, removed):
        factors = torch.ones(self.n_units, dtype=torch.double)
        factors[list(removed)] = 0
        return float(self.at(factors))

    def at(self, factors):
        gone = 1 - factors
        a, b, c = gone[3], gone[self.n_units // 2], gone[self.n_units - 5]
        return -5.0 - (a * b + a * c + b * c) - 7.0 * a * b * c - 0.3 * (self.own * gone).sum()

    @property
    def ffe(self):
        return len(self.asked) + 3.0 * self.gradients

    def gradient_norms(self):
        self.gradients += 1
        return self.own.float()

    def attention_gradient(self, factors):
        if self.fails:
            raise jopa.ScoringError("cannot be made weaker")
        self.gradients += 1
        factors = factors.double().requires_grad_()
        (gradient,) = torch.autograd.grad(self.at(factors), factors)
        return (factors * gradient).detach().float()

    def mask_gradient(self, keep):
        raise AssertionError

    relaxed_log_probs = relaxed_gradients = attention = mask_gradient


CASES = {
    "all sets fit": (lambda: TableScorer(8, redundant_pair), (1, 2), 60, 4),
    "a pair": (lambda: TableScorer(30, redundant_pair), (2,), 45, 4),
    "random, k 1 to 5": (lambda: TableScorer(24, pairwise_table(24, 1)), (1, 2, 3, 4, 5), 120, 4),
    "random, k 3": (lambda: TableScorer(60, pairwise_table(60, 2)), (3,), 50, 4),
    "random, k 5, batch 2": (lambda: TableScorer(90, pairwise_table(90, 3)), (5,), 150, 2),
    "random, k 4, little": (lambda: TableScorer(200, pairwise_table(200, 4)), (4,), 20, 4),
    "effects that add up": (lambda: TableScorer(30, lambda removed: -1.0 - sum(removed) / 10), (3,), 300, 4),
    "nothing matters": (lambda: TableScorer(40, lambda removed: -1.0), (3,), 60, 4),
    "a repeated word": (lambda: Words(120, lambda removed: -1.0 - 0.01 * len(removed)), (4,), 40, 4),
    "gradients": (lambda: Gradients(60), (2, 3), 90, 4),
    "gradients fail": (lambda: Gradients(50, fails=True), (3,), 60, 4),
}


def record(name):
    make, ks, budget, batch = CASES[name]
    scorer = make()
    found = JointSearch(budget=budget, batch=batch).run_nested(jopa.Problem(scorer), ks)
    return {
        "order": hashlib.sha256(repr([sorted(units) for units in scorer.asked]).encode()).hexdigest(),
        "evaluations": len(scorer.asked),
        "selections": [
            {
                "removed": list(selection.removed),
                "stop": selection.stop,
                "details": selection.details,
                "trace": [[step.step, step.log_prob, step.evaluations, step.ffe] for step in selection.trace],
            }
            for selection in found
        ],
    }


@pytest.mark.parametrize("name", CASES)
def test_a_search_is_the_recorded_one(name):
    recorded, now = json.loads(RECORD.read_text())[name], record(name)
    for before, after in zip(recorded["selections"], now["selections"], strict=True):
        assert after["trace"] == [pytest.approx(step, abs=1e-5) for step in before["trace"]]
        assert {**after, "trace": None} == {**before, "trace": None}
    assert {**now, "selections": None} == {**recorded, "selections": None}


if __name__ == "__main__":
    RECORD.write_text(json.dumps({name: record(name) for name in CASES}, separators=(",", ":")) + "\n")
