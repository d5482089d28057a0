"""The parts of a message's content, joined to one text that the chat template shows as it shows the parts.

Templates write parts one after the other, with something between them, without the blanks around each, or only the
first. What a template does is found by trying: the joined text must be shown as the list of parts is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jopa.errors import PromptError
from jopa.prompt.options import PromptOptions
from jopa.prompt.rendering import ContentForm, Renderer, content_forms, unused_marker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def joined_as_shown(
    tokenizer: PreTrainedTokenizerBase,
    options: PromptOptions,
    messages: Sequence[dict[str, Any]],
    parted: Mapping[int, Sequence[str]],
) -> list[dict[str, Any]]:
    """Messages whose parts of text are joined as the chat template shows them; as they are if it takes no parts.

    Args:
        tokenizer: the tokenizer.
        options: how the prompt is put before the model.
        messages: with texts or None as contents.
        parted: the parts of some of them, by their places.
    """
    renderer = Renderer(tokenizer, options)
    found = list(messages)
    if not renderer.by_template:
        return found
    for place, parts in parted.items():
        for form in content_forms(messages):
            between = _between_parts(renderer, found, place, form)
            if between is not None:
                joined = _shown_alike(renderer, found, place, form, parts, between)
                found[place] = {**found[place], "content": joined}
                break
    return found


def _between_parts(renderer: Renderer, messages: Sequence[dict[str, Any]], place: int, form: ContentForm) -> str | None:
    """What the template writes between two parts of a message; None if it takes no parts."""
    marker = unused_marker("".join(message["content"] or "" for message in messages))
    try:
        shown = _shown_with(renderer, messages, place, form, [marker + "1", marker + "2"])
    except PromptError:
        return None
    around = shown.split(marker)
    if len(around) == 2 and around[1].startswith("1"):
        return ""  # it shows the first part alone
    # Contents that a template prints as they are would show the parts' own marks.
    return around[1][1:] if len(around) == 3 and around[1].startswith("1") and "type" not in around[1] else None


def _shown_alike(
    renderer: Renderer,
    messages: Sequence[dict[str, Any]],
    place: int,
    form: ContentForm,
    parts: Sequence[str],
    between: str,
) -> str:
    """The text that is shown in place of some parts as they are; the parts joined where none of those tried is."""
    stripped = [part.strip() for part in parts]
    tried = (between.join(parts), between.join(stripped), parts[0], stripped[0])
    expected = _shown_with(renderer, messages, place, form, parts)
    for text in tried:
        one = [{**message} for message in messages]
        one[place]["content"] = text
        try:
            if renderer.shown([{**each, "content": form(each["content"])} for each in one], ()) == expected:
                return text
        except PromptError:
            continue
    return tried[0]


def _shown_with(
    renderer: Renderer, messages: Sequence[dict[str, Any]], place: int, form: ContentForm, parts: Sequence[str]
) -> str:
    """The messages as shown, one of them with several parts.

    Raises:
        PromptError: the template refuses them.
    """
    formed = [{**message, "content": form(message["content"])} for message in messages]
    formed[place]["content"] = [{"type": "text", "text": part} for part in parts]
    return renderer.shown(formed, ())
