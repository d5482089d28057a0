"""Words that prompt and answer share."""

import jopa
from jopa.prompt.building import Unit
from jopa.prompt.repeated_tokens import RepeatedToken, find_repeated_tokens


def repeated_tokens(pieces, spans, target):
    """Of a prompt of these pieces, in units that hold some of them; every piece is a token of its own."""
    vocabulary = sorted({*pieces, *target})
    ids = tuple(vocabulary.index(piece) for piece in pieces)
    units = tuple(Unit("", 0, 0, span) for span in spans)
    said = [vocabulary.index(piece) for piece in target]
    return find_repeated_tokens(
        jopa.Prompt("", ids, units), said, lambda tokens: "".join(vocabulary[i] for i in tokens)
    )


def test_every_mention_whatever_its_case_and_blanks():
    pieces = ["The", " chip", " is", " a", " Chip", "chip"]
    found = repeated_tokens(pieces, [(i,) for i in range(6)], [" A", " chip", ".", " CHIP"])
    assert found == [RepeatedToken(frozenset({3}), (0,)), RepeatedToken(frozenset({1, 4, 5}), (1, 3))]


def test_a_unit_of_several_tokens_holds_each_of_their_words():
    found = repeated_tokens(["Wik", "i", "Le", "aks", " Wik"], [(0, 1), (2, 3), (4,)], ["aks", "Wik"])
    assert found == [RepeatedToken(frozenset({1}), (0,)), RepeatedToken(frozenset({0, 2}), (1,))]


def test_template_blanks_and_other_words_are_none():
    assert repeated_tokens(["user", "hello", " ", "\n"], [(1,), (2,), (3,)], ["user", " ", "\n\n", "bye"]) == []


def test_parts_of_characters_match_by_what_they_are():
    names = ["\ufffd", "\ufffd", "\ufffd"]  # three tokens that are no character by themselves
    prompt = jopa.Prompt("", (0, 1), (Unit("", 0, 0, (0,)), Unit("", 0, 0, (1,))))
    found = find_repeated_tokens(prompt, [2, 1], lambda tokens: "".join(names[i] for i in tokens))
    assert found == [RepeatedToken(frozenset({1}), (1,))]


def test_a_scorer_tells_them_of_its_target_only(tiny):
    prompt = jopa.build_prompt(tiny.tokenizer, "the doctor and his patient and the rain")
    ids = tiny.encode_continuation("rain and birds the doctor")
    scorer = jopa.ModelScorer(tiny, prompt, jopa.Output(ids, tiny.decode(ids), (1, 4)), "delete")
    assert scorer.repeated_tokens() == [RepeatedToken(frozenset({2, 5}), (0,)), RepeatedToken(frozenset({0, 6}), (2,))]
    assert jopa.Problem(scorer).repeated_tokens() == scorer.repeated_tokens()
    assert scorer.work.forwards == 0
