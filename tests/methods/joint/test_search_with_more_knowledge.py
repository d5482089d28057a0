"""The default search where the scorer gives gradients, or knows which words the answer repeats."""

import math

import pytest
import torch

import jopa
from jopa.methods.joint.search import JointSearch
from jopa.prompt.repeated_tokens import RepeatedToken
from table_scorer import TableScorer, best_sets, redundant_pair


def test_gradients_of_zero_do_no_harm():
    class Blind(TableScorer):
        """Gives gradients that are all 0."""

        def gradient_norms(self):
            return torch.zeros(self.n_units)

        def mask_gradient(self, keep):
            return torch.zeros(self.n_units)

        def attention_gradient(self, factors):
            return torch.zeros(self.n_units)

        def relaxed_log_probs(self, factors):
            raise AssertionError

        def relaxed_gradients(self, factors):
            raise AssertionError

        def attention(self):
            raise AssertionError

    scorer = Blind(16, redundant_pair)
    assert isinstance(scorer, jopa.WhiteBoxScorer)
    assert frozenset(JointSearch().run(jopa.Problem(scorer), 3).removed) in best_sets(scorer, 3)


class WithGradients(TableScorer):
    """60 units that hardly do anything alone. Three do everything together, any two of them a tenth of it; a scorer
    with gradients sees the slopes between the corners."""

    strong = (7, 29, 51)

    def __init__(self):
        super().__init__(60, lambda removed: float(self.between(self.corner(removed))))
        self.gradients = 0

    def corner(self, removed):
        factors = torch.ones(60, dtype=torch.double)
        factors[list(removed)] = 0
        return factors

    def between(self, factors):
        gone = 1 - factors[list(self.strong)]
        pairs = gone[0] * gone[1] + gone[0] * gone[2] + gone[1] * gone[2]
        return -5.0 - pairs - 7.0 * gone.prod() - 0.02 * (1 - factors).sum()

    @property
    def ffe(self):
        return len(self.asked) + 3.0 * self.gradients

    def gradient_norms(self):
        self.gradients += 1
        return torch.ones(60)

    def attention_gradient(self, factors):
        self.gradients += 1
        factors = factors.double().requires_grad_()
        (gradient,) = torch.autograd.grad(self.between(factors), factors)
        return (factors * gradient).detach().float()

    def mask_gradient(self, keep):
        raise AssertionError

    relaxed_log_probs = relaxed_gradients = mask_gradient

    def attention(self):
        raise AssertionError


def test_what_the_gradient_at_the_best_set_predicts_is_tried_next():
    class Watched(WithGradients):
        def attention_gradient(self, factors):
            taken.append((len(self.asked), frozenset((factors < 0.1).nonzero()[:, 0].tolist())))
            assert set(factors.tolist()) == {0.5, float(torch.tensor(math.exp(-5)))}
            return super().attention_gradient(factors)

    taken = []
    scorer = Watched()
    assert isinstance(scorer, jopa.WhiteBoxScorer)
    JointSearch(budget=60, batch=4).run(jopa.Problem(scorer), 3)
    n_asked, best = taken[0]
    assert scorer.log_prob(best) == min(scorer.log_prob(units) for units in scorer.asked[:n_asked] if len(units) == 3)
    assert any(units & set(WithGradients.strong) for units in scorer.asked[n_asked : n_asked + 4])
    assert all(len(set(units)) == 3 for _, units in taken)
    assert len({units for _, units in taken}) == len(taken)  # never twice at the same set


def test_a_model_whose_attention_takes_no_factors_is_searched_without():
    class Refuses(WithGradients):
        def attention_gradient(self, factors):
            raise jopa.ScoringError("cannot be made weaker")

    scorer = Refuses()
    question = jopa.Problem(scorer)
    selection = JointSearch(budget=60).run(question, 3)
    assert len(set(selection.removed)) == 3
    assert selection.details == {"without_gradients": "cannot be made weaker"}
    assert scorer.gradients == 1
    assert question.ffe > 50


def test_sizes_take_turns_at_gradients():
    scorer = WithGradients()
    selections = JointSearch(budget=150).run_nested(jopa.Problem(scorer), [1, 2, 4])
    assert [len(selection.removed) for selection in selections] == [1, 2, 4]
    assert scorer.ffe <= 150
    assert 2 < scorer.gradients < 20


class Repeated(TableScorer):
    """120 units whose three mentions of one word do everything together and nothing by twos. Two more words stand in
    the answer: one that it says without the prompt as well, and one with more mentions than a set of four has room for.
    """

    mentions = frozenset({17, 58, 104})

    def __init__(self):
        super().__init__(120, lambda removed: 0.0)

    def log_probs(self, keep):
        gone = [frozenset((~mask).nonzero()[:, 0].tolist()) for mask in keep]
        self.asked += gone
        said = [-6.0 * (self.mentions <= units) for units in gone]
        other = [-0.01 * sum(unit % 7 for unit in units) for units in gone]
        return torch.tensor([[a, b, -1.0] for a, b in zip(said, other, strict=True)])

    def repeated_tokens(self):
        quiet, long = RepeatedToken(frozenset({3}), (2,)), RepeatedToken(frozenset(range(60, 70)), (1,))
        return [quiet, long, RepeatedToken(self.mentions, (0,))]


def test_a_word_that_the_answer_repeats_is_removed_wherever_it_stands():
    scorer = Repeated()
    selection = JointSearch(budget=30).run(jopa.Problem(scorer), 4)
    assert scorer.mentions < set(selection.removed)
    assert frozenset(range(119)) in scorer.asked  # what the answer loses without the prompt
    assert scorer.mentions in scorer.asked
    assert not {frozenset({3}), frozenset(range(60, 70))} & set(scorer.asked)
    assert selection.trace[-1].ffe <= 30
    keep_mask = jopa.Problem(scorer).keep_mask
    wordless = TableScorer(120, lambda removed: float(scorer.log_probs(keep_mask(removed)[None]).sum()))
    assert not scorer.mentions <= set(JointSearch(budget=30).run(jopa.Problem(wordless), 4).removed)


class Alike(TableScorer):
    """60 units that all do the same; the answer is lost only with nearly all of the prompt."""

    def __init__(self):
        super().__init__(60, lambda removed: -1.0 - 0.01 * len(removed) - 12.0 * (len(removed) > 50))


class AlikeWithGradients(Alike):
    """Has gradients that hardly differ between them."""

    mask_gradient = relaxed_log_probs = relaxed_gradients = attention = WithGradients.mask_gradient

    def gradient_norms(self):
        return torch.linspace(1.0, 0.9, 60)

    def attention_gradient(self, factors):
        return torch.zeros(60)


@pytest.mark.parametrize("kind", [Alike, AlikeWithGradients])
def test_units_of_a_word_that_the_answer_repeats_are_tried_first(kind):
    """One with more mentions than units are asked for, which is not removed by itself."""
    mentions = frozenset({5, 19, 33, 47})

    class Wordy(kind):
        def repeated_tokens(self):
            return [RepeatedToken(mentions, (0,))]

    scorer = Wordy()
    JointSearch(budget=40).run(jopa.Problem(scorer), 3)
    first = next(units for units in scorer.asked if len(units) == 3)
    assert first <= mentions
    assert mentions not in scorer.asked


def test_words_with_many_mentions_do_not_crowd_out_the_rest():
    words = [frozenset(range(30 * i, 30 * i + 20)) for i in range(6)]

    class Wordy(TableScorer):
        def repeated_tokens(self):
            return [RepeatedToken(units, (0,)) for units in words]

    scorer = Wordy(180, lambda removed: -1.0 - 0.1 * len(removed))
    JointSearch(budget=40).run(jopa.Problem(scorer), 20)
    assert [units in scorer.asked for units in words] == [True, True, False, False, False, False]
