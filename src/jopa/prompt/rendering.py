"""A conversation as the tokens that a model reads, and where the attributable texts lie among them.

Chat prompts go through the model's chat template, and what it renders is tokenised once. Where an attributable text
sits in it is found by rendering a second time with a marker in the middle of the text. A prefilled answer follows what
the template writes before an answer of the assistant, character by character as it was given; that place, too, is found
with a marker, so a template cannot strip, split or repeat parts of the prefill.

Templates want a content as a text or as a list of parts, the arguments of a call as an object or as a text of JSON, and
documents under other names; all are tried.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from jopa.errors import PromptError, SettingError, reason_of
from jopa.prompt.documents import Document
from jopa.prompt.messages import with_parsed_arguments, with_written_arguments
from jopa.prompt.options import PromptOptions
from jopa.prompt.passages import Layout, Place, RenderedPrompt, Slot
from jopa.prompt.segmentation import Span
from jopa.prompt.trace_marks import leading_mark

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EMPTY_BLOCK = re.compile(r"<(\w+)>\s*</\1>\s*\Z")
"""A block such as `<think></think>`, with nothing in it, at the end of a text."""
_OPEN_TAG = re.compile(r"<(\w+)>\s*\Z")
_PRINTED_PARTS = ("{'type': 'text'", '{"type": "text"')
"""How parts of a content look where a template prints the list, which it takes for a text."""
ContentForm = Callable[[str | None], Any]
_Calls = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
_TEXT_KEYS = ("text", "content", "contents", "page_content")
"""What templates call the text of a document; the first is that of transformers' documentation."""


@dataclass(frozen=True)
class Renderer:
    """Renders layouts in one way, which suits the chat template or, without one, plain text.

    Attributes:
        tokenizer: the tokenizer.
        options: how the prompt is put before the model.
        form: turns a content into the form that the template takes.
        text_key: what the template calls a document's text.
        template: the name of the chat template, where the tokenizer has several; None for its default.
        arguments: gives messages whose calls of tools have their arguments in the form that the template takes.
    """

    tokenizer: PreTrainedTokenizerBase
    options: PromptOptions
    form: ContentForm = lambda content: content
    text_key: str = "text"
    template: str | None = None
    arguments: _Calls = list

    @property
    def by_template(self) -> bool:
        """Whether there is a chat template in use."""
        return bool(self.tokenizer.chat_template) and not self.options.plain

    def text(self, layout: Layout) -> str:
        """The whole input as text.

        Raises:
            PromptError: the chat template refuses the messages.
        """
        if not self.by_template:
            return "".join(message["content"] for message in layout.messages) + layout.prefill
        if not layout.prefill:
            return self.shown(layout.messages, layout.documents, add_generation_prompt=True)
        marker = unused_marker(layout.all_texts())
        if mark := leading_mark(self.tokenizer, layout.prefill):  # of a trace: it stands before the mark of an answer
            shown = self.shown(layout.messages, layout.documents, add_generation_prompt=True)
            has_mark = shown.rstrip().endswith(mark)
            return (shown.rstrip().removesuffix(mark) if has_mark else shown) + layout.prefill
        answer = {**layout.prefill_fields, "role": "assistant", "content": marker}
        answered = self.shown([*layout.messages, answer], layout.documents)
        if marker not in answered:
            raise PromptError("the model's chat template leaves the beginning of the answer out; give no prefill")
        return _joined(answered[: answered.rindex(marker)], layout.prefill)

    def encoded(self, text: str) -> tuple[list[int], list[Span | None]]:
        """The token ids of a whole input, and the characters that each stands for."""
        if self.by_template:
            encoding: Any = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            return list(encoding["input_ids"]), list(encoding["offset_mapping"])
        encoding = self.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
        added = list(encoding["special_tokens_mask"])
        # Some tokenizers close the text with EOS or SEP; the model must continue it, not start anew.
        length = len(added) - next((i for i, special in enumerate(reversed(added)) if not special), len(added))
        offsets = [
            None if special else offset
            for offset, special in zip(encoding["offset_mapping"][:length], added[:length], strict=True)
        ]
        return list(encoding["input_ids"][:length]), offsets

    def shown(self, messages: Sequence[dict[str, Any]], documents: Sequence[Document], **goal: bool) -> str:
        """Messages as the chat template shows them.

        Raises:
            PromptError: the chat template refuses them.
        """
        extra = _template_arguments(self.options)
        if documents:
            extra["documents"] = [
                {"doc_id": document.id, "title": document.title or "", self.text_key: document.text}
                for document in documents
            ]
        if self.template:
            extra["chat_template"] = self.template
        formed = [{**message, "content": self.form(message["content"])} for message in self.arguments(messages)]
        try:
            return str(self.tokenizer.apply_chat_template(formed, tokenize=False, **goal, **extra))
        except Exception as error:  # a template is a program of the model's maker and may raise anything
            has_system = any(message["role"] in ("system", "developer") for message in messages)
            system = "; what a system message says can stand in the prefix" if has_system else ""
            raise PromptError(
                f"the model's chat template refuses these messages: {reason_of(error):.200}; give messages of the form "
                f"it takes{system}"
            ) from error


def render(renderer: Renderer, layout: Layout, *, lenient: bool = False) -> RenderedPrompt:
    """Render a layout and find its passages.

    Args:
        renderer: how.
        layout: what.
        lenient: leave out passages that the template does not show as they are, as long as others remain.

    Raises:
        PromptError: the chat template leaves a passage out or rewrites it.
    """
    rendered = renderer.text(layout)
    slots = {passage.slot: None for passage in layout.passages}
    found: dict[Slot, Place] = {}
    refusal: PromptError | None = None
    for slot in slots:
        try:
            found[slot] = _locate(renderer, layout, slot, rendered)
        except PromptError as error:
            if not lenient:
                raise
            refusal = refusal or error
    if refusal and not found:
        raise refusal
    placed: list[tuple[int, Place]] = []
    for number, passage in enumerate(layout.passages):
        if passage.slot in found:
            placed.append((number, found[passage.slot].within(*passage.span, passage.span[0])))
    placed.sort(key=lambda each: each[1].span)
    ids, offsets = renderer.encoded(rendered)
    passages = [layout.passages[number] for number, _ in placed]
    left_out = tuple(slot.index for slot in slots if slot not in found)
    return RenderedPrompt(
        ids, offsets, rendered, passages, [place for _, place in placed], [number for number, _ in placed], left_out
    )


def render_first(
    tokenizer: PreTrainedTokenizerBase, options: PromptOptions, layout: Layout, *, lenient: bool = False
) -> tuple[Renderer, RenderedPrompt]:
    """Render a layout in the first way that the chat template takes, or as plain text.

    Raises:
        PromptError: the chat template refuses every form of the messages, leaves a passage out or rewrites it.
        SettingError: a setting needs a chat template.
    """
    renderer = Renderer(tokenizer, options)
    if not renderer.by_template:
        _require_plain(layout, options)
        return renderer, render(renderer, layout)
    refused: PromptError | None = None
    not_shown: PromptError | None = None  # says more: the template took the messages
    encoded_twice: tuple[Renderer, RenderedPrompt] | None = None
    as_text = _arguments_as_text(layout.messages)
    for arguments in (list, with_parsed_arguments, with_written_arguments):
        if arguments is not list and arguments(layout.messages) == list(layout.messages):
            continue
        for form in content_forms(layout.messages):
            candidate = Renderer(tokenizer, options, form, arguments=arguments)
            try:
                candidate.text(layout)
            except PromptError as error:
                refused = refused or error
                continue
            try:
                rendered = render(candidate, layout, lenient=lenient)
            except PromptError as error:
                not_shown = not_shown or error
                continue
            if _prints_parts(rendered.rendered, layout, options):
                continue
            twice = (json.dumps(text, ensure_ascii=False) in rendered.rendered for text in as_text)
            if arguments is with_parsed_arguments or not any(twice):
                return candidate, rendered
            encoded_twice = encoded_twice or (candidate, rendered)
    if encoded_twice is not None:  # the template takes no objects
        return encoded_twice
    refusal = not_shown or refused
    assert refusal is not None
    raise refusal


def takes_documents(renderer: Renderer, layout: Layout) -> Renderer | None:
    """A way of rendering in which the chat template itself shows documents; None if it has no place for them.

    Found by rendering two marked documents: each text must be there once, one after the other, as it is.
    """
    if not renderer.by_template:
        return None
    templates = renderer.tokenizer.chat_template
    names = [None, *(name for name in ("rag",) if isinstance(templates, dict) and name in templates)]
    first = unused_marker(layout.all_texts())
    probes = (Document(first + "1", "1", "a"), Document(first + "2", "2"))
    probe = replace(layout, documents=probes, passages=())
    for name in names:
        for key in _TEXT_KEYS:
            candidate = Renderer(renderer.tokenizer, renderer.options, renderer.form, key, name, renderer.arguments)
            try:
                shown = candidate.text(probe)
            except PromptError:
                continue
            counts = [shown.count(document.text) for document in probes]
            if counts == [1, 1] and shown.index(probes[0].text) < shown.index(probes[1].text):
                return candidate
    return None


def _require_plain(layout: Layout, options: PromptOptions) -> None:
    """Refuse what plain text cannot hold."""
    why = "plain text" if options.plain else "this model has no chat template, so it"
    roles = [message["role"] for message in layout.messages]
    if roles != ["user"]:
        raise SettingError(
            f"{why} cannot take several messages ({', '.join(roles)}); put fixed text into the prefix instead"
        )
    if options.template_args or options.tools:
        name = "template_args" if options.template_args else "tools"
        raise SettingError(f"{why} cannot take {name}, which a chat template reads; leave them out")


def content_forms(messages: Sequence[dict[str, Any]]) -> list[ContentForm]:
    """The forms in which a template may want a content: as it is, nothing as an empty text, or as parts."""

    def as_parts(content: str | None) -> list[dict[str, str]]:
        return [{"type": "text", "text": content}] if content else []

    forms: list[ContentForm] = [lambda content: content]
    if any(message["content"] is None for message in messages):
        forms.append(lambda content: content or "")
    return [*forms, as_parts]


def _prints_parts(rendered: str, layout: Layout, options: PromptOptions) -> bool:
    """Whether a template printed a list of parts, which it takes for a text."""
    given = repr(layout.messages) + repr(options.tools)
    return any(mark in rendered for mark in _PRINTED_PARTS) and not any(
        mark in given for mark in (*_PRINTED_PARTS, "'type': 'text'")
    )


def _arguments_as_text(messages: Sequence[dict[str, Any]]) -> list[str]:
    """The arguments of calls that came as a text of JSON, as chat APIs write them; templates may want objects."""
    return [
        call["function"]["arguments"]
        for before, after in zip(messages, with_parsed_arguments(messages), strict=True)
        for call, new in zip(before.get("tool_calls") or [], after.get("tool_calls") or [], strict=True)
        if call is not new
    ]


def _template_arguments(options: PromptOptions) -> dict[str, Any]:
    """What the chat template is given besides the messages."""
    arguments = dict(options.template_args)
    return {**arguments, "tools": list(options.tools)} if options.tools else arguments


def _joined(head: str, prefill: str) -> str:
    """The prefill after what the template writes before an answer.

    Templates of models that think write an empty block of thoughts before an answer without them, or open the block;
    a prefill that opens the block itself stands in its place.
    """
    for pattern in (_EMPTY_BLOCK, _OPEN_TAG):
        if (found := pattern.search(head)) and prefill.lstrip().startswith(f"<{found[1]}>"):
            return head[: found.start()] + prefill
    return head + prefill


def unused_marker(text: str) -> str:
    """A word that does not occur in a text."""
    marker = "jopa\N{LATIN SMALL LETTER THORN}marker"
    while marker in text:
        marker += "x"
    return marker


def _locate(renderer: Renderer, layout: Layout, slot: Slot, rendered: str) -> Place:
    """Find a content in what was rendered, as it is or written as JSON.

    The marker goes into the middle of the content without the blanks around it, so that a template that looks at how a
    message begins or ends does what it did, and one that strips shows where its own blanks are.
    """
    content = layout.content(slot)
    if not renderer.by_template:
        return Place((0, len(content)), 0)  # the only message, at the very beginning
    core = content.strip()
    marker = unused_marker(layout.all_texts())
    before, after = core[: len(core) // 2], core[len(core) // 2 :]
    around = renderer.text(layout.with_content(slot, before + marker + after)).split(marker)
    which = _name_of(layout, slot)
    if len(around) > 2:
        raise PromptError(
            f"the model's chat template shows {which} {len(around) - 1} times, and jopa needs it once; "
            "set the tokenizer's chat_template to one that does"
        )
    for written in (str, _in_json) if len(around) == 2 else ():
        head, tail = around[0].removesuffix(written(before)), around[1].removeprefix(written(after))
        shown = rendered[len(head) : len(rendered) - len(tail)]
        kept = _kept(content, shown, written)
        if kept is not None:
            widths = (len(written(character)) for character in content[slice(*kept)])
            starts = tuple(accumulate(widths, initial=len(head))) if written is _in_json else ()
            return Place(kept, len(head), starts)
    if len(around) == 2 and (place := _without_some_blanks(renderer, layout, slot, rendered)):
        return place
    otherwise = "" if which == "the prompt" else "attribute another text, or "
    raise PromptError(
        f"nothing attributable: the model's chat template leaves {which} out or rewrites it; {otherwise}"
        "set the tokenizer's chat_template to one that shows it as it is"
    )


def _without_some_blanks(renderer: Renderer, layout: Layout, slot: Slot, rendered: str) -> Place | None:
    """Where a content is that the template shows without some of its blanks, as Falcon's does with empty lines."""
    content, marker = layout.content(slot), unused_marker(layout.all_texts())
    head, _, tail = renderer.text(layout.with_content(slot, marker)).partition(marker)
    if not (rendered.startswith(head) and rendered.endswith(tail) and len(head) + len(tail) < len(rendered)):
        return None
    starts = [len(rendered) - len(tail)]
    for character in reversed(content):  # a blank that is left out goes with the character after it
        is_shown = starts[-1] > len(head) and rendered[starts[-1] - 1] == character
        if not is_shown and not character.isspace():
            return None
        starts.append(starts[-1] - is_shown)
    return Place((0, len(content)), len(head), tuple(reversed(starts))) if starts[-1] == len(head) else None


def _kept(content: str, shown: str, written: Callable[[str], str]) -> Span | None:
    """The span of a content that was shown, when it was written in some way; a template may strip blanks around it."""
    core = written(content.strip())
    if core not in shown:
        return None
    before, after = shown[: shown.index(core)], shown[shown.index(core) + len(core) :]
    first = len(content) - len(content.lstrip())
    last = first + len(content.strip())
    starts = [start for start in range(first + 1) if written(content[start:first]) == before]
    ends = [end for end in range(last, len(content) + 1) if written(content[last:end]) == after]
    return (starts[0], ends[0]) if starts and ends else None


def _in_json(text: str) -> str:
    """A text as a template writes it that puts it into JSON, as Llama 3.1's and gpt-oss's do with tools' results."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _name_of(layout: Layout, slot: Slot) -> str:
    """What an attributable text is called in a message to the user."""
    if slot.kind == "document":
        return f"document {layout.documents[slot.index].id!r:.60}"
    role = layout.messages[slot.index]["role"]
    if role == "user" and len(layout.passages) == 1:
        return "the prompt"
    return f"the message at place {slot.index} (of role '{role}')"
