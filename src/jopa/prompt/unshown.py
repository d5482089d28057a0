"""Which messages, calls and tools a chat template leaves out: it is handed them, and the model never reads them.

Found by rendering once more with something else in their place: where that changes nothing, they were not shown.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from jopa.errors import PromptError
from jopa.prompt.passages import Layout, Slot
from jopa.prompt.rendering import Renderer, marker_for

_TELLING = 40
"""Characters of a text that occurs in the input and so was shown; a shorter one may be there by chance."""


@dataclass(frozen=True)
class Unshown:
    """What the model does not read.

    Attributes:
        texts: places of messages whose text is left out.
        calls: places of messages whose calls of tools are left out.
        tools: whether the tools are.
    """

    texts: frozenset[int] = frozenset()
    calls: frozenset[int] = frozenset()
    tools: bool = False


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

    texts, calls = set(), set()
    marker = marker_for(layout.said())
    for place, message in enumerate(layout.messages):
        said = (message["content"] or "").strip()
        found = place in attributed or (len(said) >= _TELLING and said in rendered)
        if said and not found and changes_nothing(layout.with_content(Slot("message", place), marker)):
            texts.add(place)
        if message.get("tool_calls"):
            silent = {name: value for name, value in message.items() if name != "tool_calls"}
            messages = (*layout.messages[:place], silent, *layout.messages[place + 1 :])
            if changes_nothing(replace(layout, messages=messages)):
                calls.add(place)
    without_tools = replace(renderer, options=replace(renderer.options, tools=None))
    tools = bool(renderer.options.tools) and changes_nothing(layout, without_tools)
    return Unshown(frozenset(texts), frozenset(calls), tools)
