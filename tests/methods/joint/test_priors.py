"""What may matter, guessed from the answer's words, from gradients and from segments."""

import torch

import jopa
from jopa.methods.joint.priors import repeated_words, segment_strengths, unit_weights
from jopa.prompt.repeated_tokens import RepeatedToken
from table_scorer import TableScorer


class Repeating(TableScorer):
    """Six units. Without any five of them the first target token costs 4 nats more, the second 1, the third less."""

    def __init__(self):
        super().__init__(6, lambda removed: 0.0)

    def log_probs(self, keep):
        gone = (~keep).sum(dim=1)
        self.asked += [frozenset((~mask).nonzero()[:, 0].tolist()) for mask in keep]
        return torch.stack([-0.8 * gone, -1.0 * (gone > 4), -2.0 + 0.1 * gone], dim=1)

    def repeated_tokens(self):
        often, once, quiet = (
            RepeatedToken(frozenset({1, 4}), (1,)),
            RepeatedToken(frozenset({4}), (0, 2)),
            RepeatedToken(frozenset({5}), (2,)),
        )
        return [quiet, often, once, often]


def test_a_word_has_the_nats_that_its_targets_lose_without_the_prompt():
    scorer = Repeating()
    words = repeated_words(jopa.Problem(scorer))
    assert list(words) == [frozenset({4}), frozenset({1, 4}), frozenset({5})]
    assert torch.allclose(torch.tensor(list(words.values())), torch.tensor([4.0, 2.0, 0.0]))
    assert set(scorer.asked) == {frozenset(), frozenset(range(5))}


def test_without_words_nothing_is_scored():
    scorer = TableScorer(6, lambda removed: 0.0)
    assert repeated_words(jopa.Problem(scorer)) == {}
    assert scorer.asked == []


def test_weights_are_strengths_times_what_the_mentions_claim():
    words = {frozenset({1, 3}): 2.0, frozenset({3}): 4.0}
    weights = unit_weights(torch.tensor([1.0, 1.0, 0.0, 0.5]).double(), words)
    expected = torch.tensor([1.0, 2.0, 0.0, 3.0]).double()  # 1, 1 × (1 + 1), 0, 0.5 × (1 + 1 + 4)
    assert torch.allclose(weights, (expected / 3 + 0.05) / 1.05)


def test_no_strength_at_all_weighs_all_alike():
    assert unit_weights(torch.zeros(3).double(), {frozenset({1}): 5.0}).tolist() == [1.0, 1.0, 1.0]


def test_the_units_of_a_segment_share_what_it_does():
    effects = {frozenset({0, 1}): -3.0, frozenset({2, 3}): 1.0, frozenset({4}): -0.5}
    assert segment_strengths(effects, 6).tolist() == [1.5, 1.5, 0.0, 0.0, 0.5, 0.0]
