"""The output that is explained: token ids, and the part of them whose probability counts; from text to ids and back.

Knows tokenizers, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jopa.errors import PromptError, SettingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Output:
    """The token ids to explain.

    Attributes:
        ids: what the model generated, or the caller's own text.
        text: the same as text.
        target: `[start, end)`, the tokens of `ids` whose probability counts.
    """

    ids: tuple[int, ...]
    text: str
    target: tuple[int, int]

    def __post_init__(self) -> None:
        start, end = self.target
        if not 0 <= start < end <= len(self.ids):
            raise SettingError(f"the target must lie within the output's {len(self.ids)} tokens, got {start}:{end}")


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens shown."""
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def encode_continuation(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text that follows other text: no BOS, and no blank that the tokenizer adds by itself.

    Raises:
        PromptError: the text is empty or the tokenizer cannot represent it.
    """
    # SentencePiece tokenizers put a blank before the first word; after a line break that is already there they
    # do not, so tokens are taken from behind one.
    ids, behind, lead = (tokenizer.encode(each, add_special_tokens=False) for each in (text, "\n" + text, "\n"))
    if behind[: len(lead)] == lead and decode(tokenizer, behind[len(lead) :]) == text != decode(tokenizer, ids):
        ids = behind[len(lead) :]
    if not ids:
        raise PromptError("the output to explain is empty; give a text of at least one token")
    return tuple(ids)
