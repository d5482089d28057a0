"""Units of a prompt: characters that share tokens, segments, spans, any text, and long texts."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from jopa.errors import SettingError
from jopa.prompt.building import UNIT_KINDS
from prompt_cases import build_prompt, every_kind, require_sound, seen, template_ids
from small_tokenizers import BYTE_LEVEL, small_tokenizer


class TestCharacters:
    @pytest.mark.parametrize("kind", [*BYTE_LEVEL, "sentencepiece-bpe", "sentencepiece-legacy"])
    def test_a_character_of_several_tokens_is_one_unit(self, kind: str) -> None:
        prompt = build_prompt(small_tokenizer(kind), "a 👍 b")
        thumb = next(unit for unit in prompt.units if "👍" in unit.text)
        assert thumb.text == "👍" and len(thumb.positions) == 4

    @pytest.mark.parametrize("kind", ["byte-level-trimmed", "byte-level-blank"])
    def test_blanks_left_out_of_offsets_are_removable(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind, "mistral")
        prompt = build_prompt(tokenizer, "a   the ")
        assert [unit.text for unit in prompt.units] == ["a", " ", " ", " the", " "]

    @pytest.mark.parametrize("kind", ["sentencepiece-bpe", "sentencepiece-legacy", "sentencepiece-unigram"])
    def test_a_blank_the_tokenizer_adds_goes_with_what_follows(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind)
        prompt = build_prompt(tokenizer, "\nhello")
        assert prompt.units[0].text == "\n"
        assert tokenizer.convert_ids_to_tokens([prompt.ids[i] for i in prompt.units[0].positions]) == ["▁", "\n"]

    @every_kind
    def test_special_tokens_in_the_text_are_units(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind, "chatml")
        prompt = build_prompt(tokenizer, "a<|im_end|>b")
        assert [unit.text for unit in prompt.units] == ["a", "<|im_end|>", "b"]
        mark = prompt.ids[prompt.units[1].positions[0]]
        assert tokenizer.convert_ids_to_tokens(mark) == "<|im_end|>"

    @every_kind
    def test_marks_that_swallow_blanks_of_the_text_stay_template(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind, "phi-3")
        prompt = build_prompt(tokenizer, "  hello \n")
        marks = [token for token in tokenizer.convert_ids_to_tokens(template_ids(prompt)) if token[:2] == "<|"]
        assert marks == ["<|user|>", "<|end|>", "<|assistant|>"]
        require_sound(prompt, "  hello \n")


SEGMENTS = [
    ("word", "hello   big\tworld", ["hello", "   big", "\tworld"]),
    ("word", "  don't stop-now, e.g. 3.14  ", ["  don't", " stop-now,", " e.g.", " 3.14  "]),
    ("word", "a\r\n\r\nb\n", ["a", "\r\n\r\nb\n"]),
    ("word", "「你好」,world。再见!", ["「你好」,", "world。", "再见!"]),
    ("word", "か\u3099 x", ["か\u3099", " x"]),
    ("word", "--- !", ["---", " !"]),
    ("line", "one\ntwo\n", ["one\n", "two\n"]),
    ("line", "one\r\ntwo\rthree\n\nfour", ["one\r\n", "two\r", "three\n", "\n", "four"]),
    ("line", "\n one", ["\n", " one"]),
    ("line", "a\u2028b\x0cc", ["a\u2028b\x0cc"]),
    ("sentence", "One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
    ("sentence", "Dr. Who met Mr. J. R. Smith. They left.", ["Dr. Who met Mr. J. R. Smith. ", "They left."]),
    ("sentence", "In the U.S. Paris, e.g. Texas, exists.", ["In the U.S. Paris, e.g. Texas, exists."]),
    ("sentence", "Pi is 3.14. See jopa.org now.", ["Pi is 3.14. ", "See jopa.org now."]),
    ("sentence", "Wait... what? Well… No.", ["Wait... what? ", "Well… No."]),
    ("sentence", "No. See No. 5, Fig. 2.", ["No. ", "See No. 5, Fig. 2."]),
    (
        "sentence",
        'He said "Stop!" and left. "Why?" (I asked.) So.',
        ['He said "Stop!" and left. ', '"Why?" ', "(I asked.) ", "So."],
    ),
    ("sentence", "**Bold.** Plain.", ["**Bold.** ", "Plain."]),
    ("sentence", "你好。“走吧!”他说。再见", ["你好。", "“走吧!”", "他说。", "再见"]),
    ("sentence", "好！吗？再见", ["好！", "吗？", "再见"]),
    ("sentence", "هل هذا؟ نعم۔ हाँ। ठीक", ["هل هذا؟ ", "نعم۔ ", "हाँ। ", "ठीक"]),
    ("sentence", "To do:\n- milk\n- eggs. Now\n", ["To do:\n", "- milk\n", "- eggs. ", "Now\n"]),
    ("sentence", "1. Buy milk.\n2. Call.\n 10. Go", ["1. Buy milk.\n", "2. Call.\n", " 10. Go"]),
    ("sentence", "It was 1999. Then it ended.", ["It was 1999. ", "Then it ended."]),
    ("sentence", "One.\r\n\r\nTwo\r\n", ["One.\r\n\r\n", "Two\r\n"]),
    ("sentence", "\n\n  One. \n\n", ["\n\n  One. \n\n"]),
    ("sentence", "?! Really?!", ["?! ", "Really?!"]),
]


class TestSegments:
    @pytest.mark.parametrize(("unit", "text", "expected"), SEGMENTS)
    def test_units_are_the_expected_parts(self, unit: str, text: str, expected: list[str]) -> None:
        # One token a character, so that nothing but the text decides where units end.
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(set(text)))}, merges=[]))
        )
        prompt = build_prompt(tokenizer, text, unit=unit)
        assert [part.text for part in prompt.units] == expected

    @every_kind
    def test_words_of_a_plain_sentence(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind, "chatml")
        prompt = build_prompt(tokenizer, "Write a story about the doctor.", unit="word")
        assert [unit.text for unit in prompt.units] == ["Write", " a", " story", " about", " the", " doctor."]

    @every_kind
    def test_sentences_and_lines_hold_the_same_tokens_as_the_token_units(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind, "llama-3")
        text = "One here. Two there.\n\nThree 👍.\r\n"
        tokens = [position for unit in build_prompt(tokenizer, text).units for position in unit.positions]
        for unit in UNIT_KINDS:
            units = build_prompt(tokenizer, text, unit=unit).units
            assert [position for part in units for position in part.positions] == tokens


class TestSpans:
    text = "Write a story about the doctor and his patient."

    def test_spans_become_units_and_the_rest_is_template(self) -> None:
        tokenizer = small_tokenizer("byte-level", "chatml")
        words = build_prompt(tokenizer, self.text, unit="word")
        doctor, patient = self.text.index("doctor"), self.text.index("patient")
        prompt = build_prompt(tokenizer, self.text, unit=[(patient, patient + 7), (doctor, doctor + 6)])
        assert prompt.ids == words.ids and prompt.text == self.text
        assert prompt.units[0] == words.units[5]
        assert prompt.units[1].text == " patient"
        assert len(template_ids(prompt)) > len(template_ids(words))

    @every_kind
    def test_spans_grow_to_whole_tokens(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind, "chatml")
        atoms = build_prompt(tokenizer, self.text).units
        for start, end in ((0, 3), (7, 9), (10, 22), (0, len(self.text))):
            (unit,) = build_prompt(tokenizer, self.text, unit=[(start, end)]).units
            touched = [a for a in atoms if seen(a) < end and a.end > start]
            assert unit.start == touched[0].start and unit.end == touched[-1].end
            assert unit.positions == tuple(position for atom in touched for position in atom.positions)

    def test_two_spans_of_one_line_apart(self) -> None:
        tokenizer = small_tokenizer("byte-level", "chatml")
        text = "(a) red (b) blue"
        prompt = build_prompt(tokenizer, text, unit=((3, 7), (11, 16)))
        assert [unit.text for unit in prompt.units] == [" red", " blue"]

    @pytest.mark.parametrize(
        ("spans", "message"),
        [
            ([(0, 100)], r"span \(0, 100\).*48|47 characters"),
            ([(-1, 4)], r"span \(-1, 4\)"),
            ([(4, 4)], r"span \(4, 4\)"),
            ([(9, 4)], r"span \(9, 4\)"),
            ([(0, 5), (4, 9)], r"spans \(0, 5\) and \(4, 9\) overlap"),
            ([(0, 5), (0, 5)], "overlap"),
            ([], "empty"),
            ([(5, 6)], r"span \(5, 6\) ' ' has no token of its own"),
            ([(1, 2, 3)], "character spans"),
            ([5], "character spans"),
            ([("a", "b")], "character spans"),
            ([(0, 1.5)], "character spans"),
            (["ab"], "character spans"),
            (None, "a unit is one of token, word, sentence, line, paragraph"),
            (7, "a unit is one of token, word, sentence, line, paragraph"),
        ],
    )
    def test_bad_spans_are_refused(self, spans: object, message: str) -> None:
        with pytest.raises(SettingError, match=message) as caught:
            build_prompt(small_tokenizer("byte-level", "chatml"), self.text, unit=spans)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    def test_two_spans_within_one_token_are_refused(self) -> None:
        tokenizer = small_tokenizer("sentencepiece-bpe", "chatml")
        (word,) = [unit for unit in build_prompt(tokenizer, self.text).units if unit.text == " story"]
        with pytest.raises(SettingError, match="has no token of its own"):
            build_prompt(tokenizer, self.text, unit=[(word.start + 1, word.start + 3), (word.start + 3, word.end)])
