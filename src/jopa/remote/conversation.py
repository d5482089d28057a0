"""Chat messages as one text whose characters can be removed, and back.

A model behind a chat API takes messages, and nobody here knows its tokens. A class in place of a tokenizer cuts the
conversation into characters: `jopa.prompt` then finds units in it as in any prompt, a unit's positions are the
characters that it has there, and what is left of a conversation without some units is read back as messages.

    ﷐ JSON of a message without its content ﷑ content ﷒        one message after another

The three marks are characters that Unicode keeps for use inside programs (U+FDD0 to U+FDD2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from jopa.errors import SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEGIN, CONTENT, END = "\ufdd0", "\ufdd1", "\ufdd2"
_MESSAGE = re.compile(f"{BEGIN}([^{BEGIN}{CONTENT}{END}]*){CONTENT}([^{BEGIN}{CONTENT}{END}]*){END}")
_MARKS = re.compile(f"[{BEGIN}{CONTENT}{END}]")


@cache
def character_tokenizer() -> PreTrainedTokenizerBase:
    """What `jopa.prompt.build_prompt` takes for a tokenizer; a token is a character, its id the code point."""
    from transformers import AddedToken, PreTrainedTokenizerBase

    class CharacterTokenizer(PreTrainedTokenizerBase):
        """Characters as tokens, a conversation as its template writes it."""

        is_fast = True
        smallest_unit = "word"
        """Characters are no units: parts of a word mean nothing to an unknown tokenizer."""

        @property
        def added_tokens_decoder(self) -> dict[int, Any]:
            """The mark with which a message begins, so that a message that is removed goes from its beginning on."""
            return {ord(BEGIN): AddedToken(BEGIN, special=True)}

        def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]  # what build_prompt asks for
            self, conversation: Any, tokenize: bool = False, **arguments: Any
        ) -> Any:
            """The messages as one text; raises ValueError for what a chat API does not take."""
            assert not tokenize, "the text is cut by calling the tokenizer"
            if not arguments.pop("add_generation_prompt", False):
                raise ValueError("a chat API takes no beginning of an answer; leave out the prefill")
            if arguments:
                raise ValueError(f"a chat API takes no {', '.join(arguments)}; leave them out")
            return "".join(map(_written, conversation))

        def __call__(self, text: Any, **_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Ids, offsets, and which tokens are special: none; raises SettingError for what is no conversation."""
            if not text.startswith(BEGIN):
                raise SettingError("a chat API takes messages, not plain text; leave out plain")
            return {
                "input_ids": list(map(ord, text)),
                "offset_mapping": [(place, place + 1) for place in range(len(text))],
                "special_tokens_mask": [0] * len(text),
            }

    return CharacterTokenizer(chat_template="messages")


def messages_of(text: str) -> list[dict[str, Any]]:
    """The messages of a conversation as its tokenizer writes it, of whose contents some may be removed.

    A message whose content is removed altogether stays, with an empty content: roles are no part of a unit.
    """
    return [{**json.loads(found[1]), "content": found[2]} for found in _MESSAGE.finditer(text)]


def _written(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError("a message without a text cannot be sent to a chat API")
    if _MARKS.search(content):
        raise ValueError("a message holds one of the characters U+FDD0 to U+FDD2, which are no text; remove it")
    head = {name: value for name, value in message.items() if name != "content"}
    return f"{BEGIN}{json.dumps(head)}{CONTENT}{content}{END}"
