"""What stands before and after a reasoning trace: the marks of a chat template, and the usual ones.

A template shows its marks when it is handed a message with a trace. Knows tokenizers, no model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jopa.prompt.continuation import n_common
from jopa.prompt.messages import REASONING_FIELDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_USUAL = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
"""Marks before and after a trace."""
_TAG = re.compile(r"<\w+>")
_TRACE, _SAID = "jopatrace", "jopaanswer"


def trace_marks(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """What stands before and after a trace, (opening, closing): the chat template's own marks, then the usual ones."""
    marks: list[tuple[str, str]] = []
    for name in REASONING_FIELDS if tokenizer.chat_template else ():
        message: dict[str, Any] = {"role": "assistant", "content": _SAID, name: _TRACE}
        try:
            question = [{"role": "user", "content": "a"}]
            shown = str(tokenizer.apply_chat_template([*question, message], tokenize=False))
            bare = str(tokenizer.apply_chat_template(question, tokenize=False))
            asked = str(tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True))
        except Exception:  # a template may raise anything
            continue
        before, found, after = shown.partition(_TRACE)
        closing, said, _ = after.partition(_SAID)
        if found and said and closing.strip():
            # What the model writes itself; all of the mark where the template writes it before an answer.
            own = before[n_common(before, asked) :].strip() or before[n_common(before, bare) :].strip()
            marks.append((own.splitlines()[-1].strip() if own else "", closing.strip()))
    return [*marks, *(pair for pair in _USUAL if pair not in marks)]


def leading_mark(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The mark of a trace with which a text begins; empty if there is none, or if it is an opening tag (`<think>`)."""
    begun = text.lstrip()
    if begun[:1].isalnum() or _TAG.match(begun):
        return ""
    return next((mark for pair in trace_marks(tokenizer) for mark in pair if mark and begun.startswith(mark)), "")
