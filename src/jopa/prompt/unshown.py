"""Which messages, reasoning, calls and tools a chat template leaves out: the model never reads them.

Found by rendering once more with something else in their place: where that changes nothing, they were not shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from jopa.errors import PromptError
from jopa.prompt.messages import REASONING_FIELDS, reasoning_of
from jopa.prompt.passages import Layout, Slot
from jopa.prompt.rendering import Renderer, unused_marker
from jopa.prompt.trace_marks import trace_marks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MIN_DISTINCT_CHARACTERS = 40
"""Characters of a text that occurs in the input and so was shown; a shorter one may be there by chance."""


@dataclass(frozen=True)
class Unshown:
    """What the model does not read.

    Attributes:
        texts: places of messages whose text is left out.
        calls: places of messages whose calls of tools are left out.
        tools: whether the tools are.
        reasoning: places of messages whose reasoning is left out; the beginning of the answer comes after the last.
        traces: by the places of messages, how many characters their text begins with that are left out: a trace.
    """

    texts: frozenset[int] = frozenset()
    calls: frozenset[int] = frozenset()
    tools: bool = False
    reasoning: frozenset[int] = frozenset()
    traces: Mapping[int, int] = field(default_factory=dict)


def unshown(renderer: Renderer, layout: Layout, rendered: str, attributed: Collection[int]) -> Unshown:
    """What a template leaves out of a layout.

    Args:
        renderer: how the layout was rendered.
        layout: what was rendered.
        rendered: the result.
        attributed: places of messages whose text was found in the result, so that it need not be looked for.
    """
    if not renderer.by_template:
        return Unshown()

    def changes_nothing(other: Layout, by: Renderer = renderer) -> bool:
        try:
            return by.text(other) == rendered
        except PromptError:  # the template looked at it
            return False

    def with_message(place: int, **fields: Any) -> Layout:
        changed = {**layout.messages[place], **fields}
        return replace(layout, messages=(*layout.messages[:place], changed, *layout.messages[place + 1 :]))

    def with_other_reasoning(fields: Mapping[str, Any]) -> dict[str, str]:
        return {name: marker for name in REASONING_FIELDS if fields.get(name)}

    texts, calls, reasoning, traces = set(), set(), set(), {}
    marker = unused_marker(layout.all_texts())
    for place, message in enumerate(layout.messages):
        said = (message["content"] or "").strip()
        found = place in attributed or (len(said) >= _MIN_DISTINCT_CHARACTERS and said in rendered)
        if said and not found and changes_nothing(layout.with_content(Slot("message", place), marker)):
            texts.add(place)
        elif said not in rendered and not found:
            n_of_trace = _n_of_trace(renderer.tokenizer, message["content"])
            if n_of_trace and changes_nothing(with_message(place, content=message["content"][n_of_trace:])):
                traces[place] = n_of_trace
        if reasoning_of(message) and changes_nothing(with_message(place, **with_other_reasoning(message))):
            reasoning.add(place)
        if message.get("tool_calls"):
            silent = {name: value for name, value in message.items() if name != "tool_calls"}
            messages = (*layout.messages[:place], silent, *layout.messages[place + 1 :])
            if changes_nothing(replace(layout, messages=messages)):
                calls.add(place)
    if reasoning_of(layout.prefill_fields):
        fields = {**layout.prefill_fields, **with_other_reasoning(layout.prefill_fields)}
        if changes_nothing(replace(layout, prefill_fields=fields)):
            reasoning.add(len(layout.messages))
    without_tools = replace(renderer, options=replace(renderer.options, tools=None))
    tools = bool(renderer.options.tools) and changes_nothing(layout, without_tools)
    return Unshown(frozenset(texts), frozenset(calls), tools, frozenset(reasoning), traces)


def _n_of_trace(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """How many characters of a text its trace has, its marks included; 0 where it has none or nothing else."""
    closings = [closing for _, closing in trace_marks(tokenizer)]
    ends = [text.rindex(closing) + len(closing) for closing in closings if closing in text]
    return max((end for end in ends if text[end:].strip()), default=0)
