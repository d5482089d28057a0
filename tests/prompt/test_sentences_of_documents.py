"""Sentences of contracts, papers, web pages and notes as people paste them."""

import pytest

from jopa.prompt.segmentation import sentences


def cut(text, language=None):
    return [text[start:end] for start, end in sentences(text, language)]


@pytest.mark.parametrize(
    "expected",
    [
        ['Here: (a) "Party" means one. ', '(b) "Term" means five years. ', "2.1 Scope. ", "It is set in Art. 5."],
        ["(1) One is here. ", "Two is there. ", "(12) Three is too."],
        ["(ii) Yes. ", "No. ", "(iii) Why? ", "(iv) So."],
        ["We saw it. ", "See eq. (3) and Fig. (4). ", "They came."],
        ["1.1. Scope. ", "It is wide."],
        ["IV. Results. ", "We found it."],
        ["## 3. Title. ", "Text."],
        ["> 1. First point. ", "Second."],
        ["§ 12. Title. ", "Text here."],
        ["**1.** First point. ", "Second."],
        ["- [ ] 1. Buy milk. ", "Now."],
    ],
)
def test_numbers_and_letters_of_items(expected):
    assert cut("".join(expected)) == expected


@pytest.mark.parametrize(
    "expected",
    [
        ["Others disagree.[3,4] ", "Then he left.[5] ", "More.[citation needed] ", "Yes.¹ ", "No.[1][2] ", "End."],
        ["It works [1]. ", "See Doe et al. (2020) for more. ", "The value is 3.5.[2] ", "Others said so."],
    ],
)
def test_numbers_of_sources_go_with_the_sentence_before(expected):
    assert cut("".join(expected)) == expected


@pytest.mark.parametrize(
    "expected",
    [
        ["Use java.util.List. ", "Call com.acme.App - now. ", "Use .NET here. ", "Run ./a.out. ", "Done."],
        ["It ended.", "Then it began.", "Wow.", "Cool."],
        ["<p>One.</p>", "<p>Two is here. ", "Three.</p>"],
        ["See Eq.~(3). ", "Then $$x_i. Y$$ holds. ", "It costs $5. ", "Or $6."],
        ["Tel. +1 (555) 123. ", "Call now. ", "It costs approx. $5. ", "See att.: a file."],
        ["It was p < 0.05. ", "Then n <30. ", "But x > 5 held. ", "So be it."],
    ],
)
def test_names_tags_and_formulas(expected):
    assert cut("".join(expected)) == expected


def test_one_letter_that_is_a_unit_of_measure():
    expected = [
        "It weighs 5 g. ",
        "It took 10s. ",
        "At 50 km/h. ",
        "In 5 h. ",
        "Bake 20 min. ",
        "In 1950 J. Smith left.",
    ]
    assert cut("".join(expected)) == expected
