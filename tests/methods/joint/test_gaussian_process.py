"""The surrogate: what it has seen, what it expects, and what it makes of pseudo-observations."""

from itertools import combinations

import torch

from jopa.methods.joint.gaussian_process import PseudoObservations, fit
from jopa.methods.joint.neighbours import to_masks

WEIGHTS = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).tolist()


def log_prob(units):
    """Single effects and interactions of two units, at random."""
    return -1.0 + sum(WEIGHTS[i][j] for i in units for j in units)


def test_the_surrogate_gives_back_what_it_was_told_and_is_sure_of_it():
    sets = [units for size in (1, 2) for units in combinations(range(6), size)]
    changes = 1.0 + torch.tensor([log_prob(units) for units in sets], dtype=torch.double)
    masks = to_masks(sets, range(6))
    surrogate = fit(masks, changes, torch.ones(6, dtype=torch.double))
    triples = list(combinations(range(6), 3))
    mean, _ = surrogate._condition(to_masks(triples, range(6)), range(6))
    truth = 1.0 + torch.tensor([log_prob(units) for units in triples], dtype=torch.double)
    assert torch.corrcoef(torch.stack([mean, truth]))[0, 1] > 0.95
    again, _ = surrogate._condition(masks, range(6))
    assert torch.allclose(again, changes, atol=0.01)
    assert (surrogate.expected_improvement(masks, range(6), float(changes.min())) < 0.01).all()


def test_the_surrogate_moves_towards_pseudo_observations():
    scored = [(i,) for i in range(6)] + [(0, 1, 2)]
    masks = to_masks(scored, range(6))
    changes = torch.tensor([-0.5, -0.4, -0.3, -0.2, -0.2, -0.1, -2.0], dtype=torch.double)
    weights = torch.ones(6, dtype=torch.double)
    larger, smaller = to_masks([(0, 1, 2, 5)], range(6)), to_masks([(0, 2)], range(6))
    before, _ = fit(masks, changes, weights)._condition(torch.cat([larger, smaller]), range(6))
    told = PseudoObservations(torch.cat([larger, smaller]), torch.tensor([-6.0, -0.9]).double(), masks[[6, 6]])
    surrogate = fit(masks, changes, weights, told)
    after, _ = surrogate._condition(torch.cat([larger, smaller]), range(6))
    assert -6.0 < after[0] < before[0] - 1
    assert abs(after[1] + 0.9) < abs(before[1] + 0.9)
    again, _ = surrogate._condition(masks, range(6))
    assert torch.allclose(again, changes, atol=0.01)  # what was scored stays certain
