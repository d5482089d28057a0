"""What a prompt cannot be: refused in one line. Any text and long texts are prompts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from jopa.errors import JopaError, PromptError, SettingError
from jopa.prompt import building as checked
from jopa.prompt.building import UNIT_KINDS
from prompt_cases import AWKWARD, assistant, build_prompt, require_sound, system, user
from small_tokenizers import KINDS, TEMPLATES, small_tokenizer


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
            ([user("hi"), {"role": "system", "content": None}], "message 2 is not of the form"),
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
        with pytest.raises(PromptError, match=r"refuses these messages: .*[Ss]upported.*in the prefix$") as caught:
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
        ["'gone'", "upper", "lower", "replace('l', 'L')", "truncate(12)", "[:10]", "e", "reverse", "length"],
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

    def test_a_whole_request_is_no_list_of_messages(self) -> None:
        with pytest.raises(PromptError, match=r"this is a whole request; give its 'messages' alone, and its tools"):
            build_prompt(small_tokenizer("byte-level", "chatml"), {"messages": [user("a")]})

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
