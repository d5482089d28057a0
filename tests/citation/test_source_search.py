"""The search for the sources of a sentence, on tables: planted single sources, pairs, duplicates and nothing."""

import itertools
import math

import pytest
import torch

import jopa
from jopa.citation.search import EXACT_UNITS, find_sources
from jopa.prompt.answer_parts import Part
from table_scorer import TableScorer


class Sentences(TableScorer):
    """Log-probability −1 a token, less what functions of the removed units take from each sentence."""

    removal = "delete"

    def __init__(self, n_units, lengths, falls):
        super().__init__(n_units, lambda units: 0.0)
        self.lengths, self.falls = lengths, falls

    def log_probs(self, keep):
        removed = [frozenset((~mask).nonzero()[:, 0].tolist()) for mask in keep]
        self.asked += removed
        rows = []
        for units in removed:
            tokens = []
            for length, fall in zip(self.lengths, self.falls, strict=True):
                tokens += [-1.0 - fall(units) / length] * length
            rows.append(tokens)
        return torch.tensor(rows)


def parts(*lengths):
    ends = list(itertools.accumulate(lengths))
    return [Part("", end - length, end) for end, length in zip(ends, lengths, strict=True)]


def sources(n_units, *falls, lengths=None, groups=None, below=0.8, max_sources=5):
    lengths = lengths or [2] * len(falls)
    scorer = Sentences(n_units, lengths, falls)
    groups = groups or [[unit] for unit in range(n_units)]
    found = find_sources(jopa.Problem(scorer), parts(*lengths), groups, below=below, max_sources=max_sources)
    return found, scorer


def needs(*units, fall=3.0):
    """A sentence that falls when any of these units is missing."""
    return lambda removed: fall * bool(removed & set(units))


def either(*units, fall=3.0):
    """A sentence that falls only when all of these units are missing: each says it alone."""
    return lambda removed: fall * (removed >= set(units))


def test_each_sentence_gets_its_own_source():
    found, _ = sources(8, needs(3), needs(6))
    assert [each.sources for each in found] == [(3,), (6,)]
    assert [each.proof for each in found] == ["smallest", "smallest"]
    assert found[0].log_prob == pytest.approx(-2.0)
    assert found[0].log_prob_dropped == pytest.approx(-5.0)
    assert found[0].log_prob_kept == pytest.approx(-2.0)
    assert found[0].log_prob_none == pytest.approx(-5.0)


def test_a_fact_that_stands_twice_is_found_where_leaving_one_out_shows_nothing():
    def fall(removed):
        return either(2, 5)(removed) + 0.1 * (0 in removed) + 0.08 * (7 in removed)

    (found,), _ = sources(8, fall)
    assert sorted(found.sources) == [2, 5]
    assert found.proof == "smallest"  # every single unit was removed, and none was enough
    assert found.alone_dropped == pytest.approx((-2.0, -2.0))  # leave-one-out sees nothing
    assert found.alone_kept == pytest.approx((-2.18, -2.18))  # and each alone is enough


def test_three_copies_are_found():
    (found,), _ = sources(12, either(1, 4, 9))
    assert sorted(found.sources) == [1, 4, 9]
    assert found.proof == "minimal"


def test_what_only_two_sentences_say_together_is_one_source_to_drop():
    (found,), _ = sources(8, needs(1, 2))
    assert found.sources == (1,)
    assert found.log_prob_kept == pytest.approx(-5.0)  # and that one alone is not enough


def test_nothing_is_cited_where_nothing_matters():
    found, scorer = sources(8, lambda removed: 0.0, needs(4))
    assert found[0].sources == () and found[0].proof == "none"
    assert found[1].sources == (4,)
    assert len(set(scorer.asked)) <= 2 + 2 * 8


def test_a_sentence_that_hangs_on_everything_a_little_is_spread():
    (found,), _ = sources(10, lambda removed: 0.08 * len(removed), max_sources=3)
    assert len(found.sources) == 3 and found.proof == "none"
    assert found.log_prob_dropped == pytest.approx(-2.24)


def test_a_set_that_screening_alone_tried_is_cited_although_nothing_left_at_all_changes_little():
    """Two copies of a fact and a sentence that contradicts it: the model knows the answer unless only that is left."""

    def fall(removed):
        return 3.0 * ({0, 1} <= removed and 2 not in removed)

    (found,), scorer = sources(3, fall)
    assert frozenset({0, 1}) in scorer.asked
    assert (found.sources, found.status, found.proof) == ((0, 1), "cited", "smallest")
    assert found.without_documents == pytest.approx(1.0)
    (beyond,), _ = sources(3, fall, max_sources=1)
    assert beyond.status == "elsewhere"


def test_a_set_that_was_scored_for_a_later_sentence_counts_for_an_earlier_one():
    found, scorer = sources(6, lambda removed: 3.0 * (removed == {0, 1}), either(0, 1))
    assert [set(citation.sources) for citation in found] == [{0, 1}, {0, 1}]
    assert [citation.status for citation in found] == ["cited", "cited"]
    assert len(scorer.asked) == len(set(scorer.asked))


def test_what_a_larger_set_does_not_need_is_left_out():
    def fall(removed):
        return 0.3 * len(removed & {0, 1}) + either(3, 4)(removed)

    (found,), _ = sources(8, fall)
    assert sorted(found.sources) == [3, 4]


@pytest.mark.parametrize("below", [0.9, 0.5, 0.3])
def test_the_cited_set_is_below_and_no_smaller_part_of_it_is(below):
    def fall(removed):
        return sum({1: 0.5, 2: 0.9, 5: 1.3}.get(unit, 0.02) for unit in removed)

    (found,), scorer = sources(7, fall, below=below, max_sources=7)

    def ratio(units):
        return math.exp(-fall(frozenset(units)) / 2)

    assert ratio(found.sources) < below
    assert all(ratio(set(found.sources) - {unit}) >= below for unit in found.sources)
    assert scorer.asked[0] == frozenset()


def many(n_documents=20, size=5):
    """More units than are all removed alone, in documents."""
    assert n_documents * size > EXACT_UNITS
    return [list(range(start, start + size)) for start in range(0, n_documents * size, size)]


def test_of_many_units_those_of_documents_that_matter_are_looked_at():
    groups = many()
    found, scorer = sources(100, needs(33), either(12, 78), groups=groups)
    assert found[0].sources == (33,)
    assert sorted(found[1].sources) == [12, 78]
    assert found[1].proof == "minimal"
    assert len(set(scorer.asked)) < 100


def test_the_proxy_stands_for_removals_of_many_units():
    class WithProxy(Sentences):
        ffe_of_proxy = 0

        def approximation(self):
            scorer = self

            class Proxy:
                ffe = 0.03

                def log_probs(self, keep):
                    scorer.ffe_of_proxy += len(keep)
                    return Sentences(scorer.n_units, scorer.lengths, scorer.falls).log_probs(keep) + 0.01

                def gradient(self, factors):
                    return None

            return Proxy()

    falls = [needs(33), either(12, 78)]
    scorer = WithProxy(100, [2, 2], falls)
    found = find_sources(jopa.Problem(scorer), parts(2, 2), many(), below=0.8, max_sources=5)
    assert found[0].sources == (33,) and sorted(found[1].sources) == [12, 78]
    assert scorer.ffe_of_proxy == 100
    assert found[0].alone_dropped == pytest.approx((-5.0,))  # what is reported is exact


def test_sentences_share_evaluations():
    _, alone = sources(8, needs(3))
    _, both = sources(8, needs(3), needs(3), needs(5))
    assert len(set(both.asked)) <= len(set(alone.asked)) + 2
