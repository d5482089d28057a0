"""The stop token that a chat template shows, where templates show content in other ways."""

import pytest

import tiny_models
from jopa.prompt.continuation import end_of_turn_id
from small_tokenizers import small_tokenizer

PARTS = "{% for m in messages %}<|{{ m.role }}|> {% for part in m.content %}{{ part.text }}{% endfor %}END{% endfor %}"


def templated(template):
    tokenizer = tiny_models.tokenizer.__wrapped__(True)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("end", ["", " ", "\n", " nosuchword", " <unk>", " <nosuchmark>"])
def test_no_template_ends_a_turn_with_the_unknown_token(end):
    """Where nothing follows the answer, parts would be shown as Python writes a list, whose end is no word."""
    template = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}" + end + "{% endfor %}"
    assert end_of_turn_id(templated(template)) is None


def test_the_end_of_a_turn_behind_parts_is_found():
    tokenizer = templated(PARTS.replace("END", " <|system|>"))
    assert end_of_turn_id(tokenizer) == tiny_models.VOCABULARY["<|system|>"]
    assert end_of_turn_id(templated(PARTS.replace("END", " nosuchword"))) is None


def test_a_tail_that_no_token_stands_for():
    tokenizer = small_tokenizer("wordpiece", "{% for m in messages %}{{ m.content }}\u200b\u0000{% endfor %}")
    assert end_of_turn_id(tokenizer) is None
