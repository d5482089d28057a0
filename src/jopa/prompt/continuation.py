"""Texts that follow other text: their token ids, which token shows which characters, and how a turn ends.

Knows tokenizers, no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from jopa.errors import PromptError
from jopa.prompt.messages import require_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEADS = ("\n", ".", "a", "1", "\N{EURO SIGN}")
"""Texts to put before another so that it is no beginning; a tokenizer may join each of them with what follows."""
_MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
"""A mark as templates write it."""
_PROBE = "jopamarker"


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens shown."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def continuation_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that follows other text: no BOS, and no blank that the tokenizer adds by itself.

    SentencePiece tokenizers put a blank before the first word and take it away again where a text begins, so what ids
    say shows only after other text. Ids are right if, after a lead, they decode to the text. Where decoding is not
    exact for any of them, as with tokenizers that change letters, the text's own ids are taken.
    """

    def encoded(something: str) -> list[int]:
        return tokenizer.encode(something, add_special_tokens=False)

    alone = encoded(text)
    for lead in _LEADS:
        before, both = encoded(lead), encoded(lead + text)
        shown = decoded(tokenizer, before)
        candidates = [alone, both[len(before) :]] if both[: len(before)] == before else [alone]
        for ids in candidates:
            if decoded(tokenizer, [*before, *ids]) == shown + text:
                return ids
    return alone


def encode_continuation(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """`continuation_ids` of an output to explain.

    Raises:
        PromptError: the text is empty or the tokenizer cannot represent it.
    """
    require_text("output to explain", text)
    ids = continuation_ids(tokenizer, text)
    if not ids:
        raise PromptError("the output to explain is empty; give a text of at least one token")
    return tuple(ids)


def tokens_of(
    decode: Callable[[Sequence[int]], str], ids: Sequence[int], text: str, first: int, last: int
) -> list[int]:
    """The tokens of `ids` that show a part of the characters `text[first:last]`.

    A token that shows a part of a character counts with the whole character. Where the ids do not decode to the text
    exactly, characters that are no blanks are counted instead.
    """
    whole = decode(ids)
    lead = text[: len(text) - len(whole)] if text.endswith(whole) else ""  # a blank that decoding left out
    exact = lead + whole == text

    def counted(something: str) -> str:
        return something if exact else "".join(something.split())

    first, last = len(counted(text[:first])), len(counted(text[:last]))
    ends = shown_by_tokens(lambda some: counted(lead + decode(some)), ids)
    found = []
    for i in range(len(ids)):
        start = ends[i - 1] if i else 0
        stop = next((end for end in ends[i:] if end > start), start)
        if stop > first and start < last:
            found.append(i)
    return found


def shown_by_tokens(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[int]:
    """For each token, how many characters of the whole text it and the tokens before it show; never falling.

    A part of a character decodes to U+FFFD, and so may whole characters before it, until its last token is there.
    """
    whole = decode(ids)
    return list(accumulate((n_common(whole, decode(ids[: i + 1])) for i in range(len(ids))), max))


def n_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    if one.startswith(other):
        return len(other)
    differing = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token with which the chat template ends a turn of the assistant, found by rendering one."""
    if not tokenizer.chat_template:
        return None
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}
    for content in ("text", "parts"):
        chat = [user, assistant]
        if content == "parts":
            chat = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in chat]
        try:
            rendered = str(tokenizer.apply_chat_template(chat, tokenize=False))
        except Exception:
            continue
        _, found, tail = rendered.rpartition(_PROBE)
        if found:  # a template of texts would show parts as Python writes a list, with its closing brackets behind
            return _first_special(tokenizer, tail.lstrip())
    return None


def _first_special(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The id of the special token that a text begins with, if it begins with one."""
    unknown = tokenizer.unk_token_id
    first = next(iter(tokenizer.encode(text, add_special_tokens=False)), unknown)
    if first != unknown and (first in tokenizer.added_tokens_decoder or first in tokenizer.all_special_ids):
        return first
    mark = _MARK.match(text)
    known = tokenizer.get_vocab().get(mark[0]) if mark else None
    return known if known != unknown else None
