"""A reasoning trace before an answer: where it ends, and its parts as removable units.

Models that reason write a trace first, `<think>…</think>` or within the marks of their own chat template, then the
answer. To explain the answer alone, its tokens are the target and the trace stays; to ask which parts of the trace
the answer needs, the trace becomes the end of the prompt, with units of its own.

Knows tokenizers, no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from jopa.choices import WHOLE_KINDS
from jopa.errors import PromptError, SettingError
from jopa.prompt.building import AUTO, GAP, Prompt, Source, units_of
from jopa.prompt.continuation import shown_by_tokens
from jopa.prompt.output import Output
from jopa.prompt.passages import Place
from jopa.prompt.segmentation import fitting_unit
from jopa.prompt.trace_marks import trace_marks
from jopa.prompt.units import atoms_of, joined, pieces_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = "answer"
"""As a target: what follows the trace."""


def trace_span(
    tokenizer: PreTrainedTokenizerBase, text: str, prompt: Prompt | None = None
) -> tuple[int, int, int] | None:
    """Where the trace of an output begins and ends, and where the answer begins, in characters.

    A trace begins where the output begins, or in the prompt, where that ends with the mark that opens one. An output
    that names the mark further on has no trace by it. Where no opening mark is to be seen at all, everything before the
    closing one is the trace.

    Args:
        tokenizer: the model's.
        text: the output.
        prompt: what it answers.

    Returns:
        None if the output holds no trace.

    Raises:
        PromptError: the trace does not end, or nothing follows it.
    """
    for opening, closing in trace_marks(tokenizer):
        start = text.find(opening) + len(opening) if text.lstrip().startswith(opening) else 0
        begins = bool(start) or _is_open(prompt, opening, closing)
        end = text.find(closing, start)
        if end < 0 and begins:
            raise PromptError(
                f"the output's reasoning trace does not end: it lacks {closing!r:.60}; raise max_new_tokens"
            )
        if end < 0 or (not begins and opening and opening in text[:end]):
            continue
        answer = end + len(closing)
        answer += len(text[answer:]) - len(text[answer:].lstrip())
        if answer == len(text):
            raise PromptError(
                "the output ends with its reasoning trace; raise max_new_tokens, so that it has an answer"
            )
        return start, end, answer
    return None


def _is_open(prompt: Prompt | None, opening: str, closing: str) -> bool:
    """Whether an input ends within a trace: with the mark that opens one, or in a prefilled answer that does."""
    if prompt is None or not opening:
        return False
    prefill = next((part.text for part in prompt.fixed if part.kind == "prefill"), "")
    return prompt.rendered.rstrip().endswith(opening) or prefill.rfind(opening) > prefill.rfind(closing)


def with_trace(
    tokenizer: PreTrainedTokenizerBase,
    decode: Callable[[Sequence[int]], str],
    prompt: Prompt,
    output: Output,
) -> tuple[Prompt, Output]:
    """The prompt followed by the output's trace, whose units can be removed; and the answer as the output.

    Args:
        tokenizer: the model's.
        decode: gives the text of token ids.
        prompt: what the output answers; `prompt.unit_kind` says what the trace's units are.
        output: trace and answer; its target counts as far as it lies in the answer.

    Raises:
        PromptError: the output holds no trace or no answer.
        SettingError: the target lies in the trace.
    """
    text = decode(output.ids)
    found = trace_span(tokenizer, text, prompt)
    if found is None:
        raise PromptError(
            "there is no reasoning trace to attribute: the output holds no </think> or mark of the model's own template"
        )
    begin, end, answer = found
    ends = shown_by_tokens(decode, output.ids)
    first = next(i for i, shown in enumerate(ends) if shown > answer)
    target = (max(output.target[0], first), output.target[1])
    if target[0] >= target[1]:
        raise SettingError("the target lies in the reasoning trace, whose units are to be removed; leave it out")
    kind = prompt.unit_kind
    trace = text[begin:end]
    lead = len(prompt.text) + len(GAP) if prompt.text else 0
    offset = len(prompt.ids)
    pieces = [
        (span, [offset + position for position in positions])
        for span, positions in pieces_of(list(pairwise([0, *ends[:first]])))
    ]
    atoms = [
        replace(atom, start=atom.start + lead, end=atom.end + lead)
        for atom in atoms_of(text, trace, Place((0, len(trace)), begin), pieces)
    ]
    if not atoms:
        raise PromptError("nothing attributable: the output's reasoning trace is empty")
    whole = prompt.text + GAP + trace if prompt.text else trace
    kind = fitting_unit(whole, prompt.language) if kind == AUTO else kind
    source = Source(lead, len(whole), None, "trace", None, None, sum(len(atom.positions) for atom in atoms))
    if kind in WHOLE_KINDS:
        source = replace(source, removed_with="text")
        units = [joined(atoms)]
    else:
        units = units_of(whole, [source], [atoms], kind, prompt.language)
    return (
        replace(
            prompt,
            text=whole,
            ids=(*prompt.ids, *output.ids[:first]),
            units=(*prompt.units, *units),
            unit_kind=kind,
            sources=(*prompt.sources, source),
        ),
        Output(output.ids[first:], text[answer:], (target[0] - first, target[1] - first)),
    )
