"""A conversation as the tokens that a model reads, and where the attributable text lies among them.

Chat prompts go through the model's chat template, and what it renders is tokenised once. Where the attributable text
sits in it is found by rendering a second time with a marker in the middle of the text. A prefilled answer follows what
the template writes before an answer of the assistant, character by character as it was given; that place, too, is found
with a marker, so a template cannot strip, split or repeat parts of the prefill.

Templates want a content as a text or as a list of parts; both are tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jopa.errors import PromptError, SettingError
from jopa.prompt.options import PromptOptions
from jopa.prompt.segmentation import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RESERVED = frozenset(
    {
        *("conversation", "chat_template", "messages", "tools", "tokenize", "return_dict", "return_tensors", "padding"),
        *("add_generation_prompt", "continue_final_message", "tokenizer_kwargs", "truncation", "max_length"),
        *("return_assistant_tokens_mask", "sanitize_control_tokens", "processor_kwargs"),
    }
)
"""Arguments of `apply_chat_template` that are not the template's own."""
_EMPTY_BLOCK = re.compile(r"<(\w+)>\s*</\1>\s*\Z")
"""A block such as `<think></think>`, with nothing in it, at the end of a text."""
_OPEN_TAG = re.compile(r"<(\w+)>\s*\Z")


@dataclass(frozen=True)
class RenderedPrompt:
    """The model's whole input, and where the attributable text lies in it.

    Attributes:
        ids: the token ids.
        offsets: the characters of `rendered` that each token stands for; None for one the tokenizer adds to any text.
        rendered: the whole input as text.
        text: what the caller wrote.
        visible: the part of `text` that survived rendering; templates often strip blanks at the ends.
        shift: `text[i]` is `rendered[i + shift]`.
    """

    ids: list[int]
    offsets: list[Span | None]
    rendered: str
    text: str
    visible: Span
    shift: int


def render_plain(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    lead: str,
    prefill: str,
    options: PromptOptions,
) -> RenderedPrompt:
    """The text as it is, with the tokenizer's own BOS; no chat template."""
    why = "plain text" if options.plain else "this model has no chat template, so it"
    roles = [message["role"] for message in messages]
    if roles != ["user"]:
        raise SettingError(
            f"{why} cannot take several messages ({', '.join(roles)}); put fixed text into the prefix instead"
        )
    if options.template_args or options.tools:
        name = "template_args" if options.template_args else "tools"
        raise SettingError(f"{why} cannot take {name}, which a chat template reads; leave them out")
    text = messages[0]["content"]
    rendered = lead + text + prefill
    encoding: Any = tokenizer(rendered, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    added = list(encoding["special_tokens_mask"])
    # Some tokenizers close the text with EOS or SEP; the model must continue it, not start anew.
    length = len(added) - next((i for i, special in enumerate(reversed(added)) if not special), len(added))
    offsets = [
        None if special else offset
        for offset, special in zip(encoding["offset_mapping"][:length], added[:length], strict=True)
    ]
    return RenderedPrompt(list(encoding["input_ids"][:length]), offsets, rendered, text, (0, len(text)), len(lead))


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    index: int,
    lead: str,
    prefill: str,
    options: PromptOptions,
) -> RenderedPrompt:
    """Tokenise through the chat template; message `index` holds the attributable text."""
    text = messages[index]["content"]
    said = lead + prefill + "".join(message["content"] or "" for message in messages)
    extra = _template_arguments(options)

    def renderer(form: Callable[[str | None], Any]) -> Callable[[str], str]:
        def shown(chat: list[dict[str, Any]], **goal: bool) -> str:
            formed = [{**message, "content": form(message["content"])} for message in chat]
            try:
                return str(tokenizer.apply_chat_template(formed, tokenize=False, **goal, **extra))
            except Exception as error:  # a template is a program of the model's maker and may raise anything
                reason = " ".join(str(error).split())
                raise PromptError(
                    f"the model's chat template refuses these messages: {reason:.200}; give messages of the form it "
                    "takes"
                ) from error

        def render(content: str) -> str:
            chat = [*messages[:index], {**messages[index], "content": lead + content}, *messages[index + 1 :]]
            if not prefill:
                return shown(chat, add_generation_prompt=True)
            marker = _marker(said + content)
            answered = shown([*chat, {"role": "assistant", "content": marker}])
            if marker not in answered:
                raise PromptError("the model's chat template leaves the beginning of the answer out; give no prefill")
            return _joined(answered[: answered.rindex(marker)], prefill)

        return render

    refusal: PromptError | None = None
    for form in _forms(messages):
        render = renderer(form)
        try:
            rendered = render(text)
            visible, shift = _locate(text, rendered, render, said)
        except PromptError as error:
            refusal = refusal or error
            continue
        encoding: Any = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = list(encoding["offset_mapping"])
        return RenderedPrompt(list(encoding["input_ids"]), offsets, rendered, text, visible, shift)
    assert refusal is not None
    raise refusal


def _forms(messages: Sequence[dict[str, Any]]) -> list[Callable[[str | None], Any]]:
    """The forms in which a template may want a content: as it is, nothing as an empty text, or as parts."""

    def as_parts(content: str | None) -> list[dict[str, str]]:
        return [{"type": "text", "text": content}] if content else []

    forms: list[Callable[[str | None], Any]] = [lambda content: content]
    if any(message["content"] is None for message in messages):
        forms.append(lambda content: content or "")
    return [*forms, as_parts]


def _template_arguments(options: PromptOptions) -> dict[str, Any]:
    """What the chat template is given besides the messages."""
    arguments = dict(options.template_args)
    for name in arguments:
        if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
            raise SettingError(f"{name!r} is no argument of a chat template that can be set; leave it out")
    return {**arguments, "tools": list(options.tools)} if options.tools else arguments


def _joined(head: str, prefill: str) -> str:
    """The prefill behind what the template writes before an answer.

    Templates of models that think write an empty block of thoughts before an answer without them, or open the block;
    a prefill that opens the block itself stands in its place.
    """
    for pattern in (_EMPTY_BLOCK, _OPEN_TAG):
        if (found := pattern.search(head)) and prefill.lstrip().startswith(f"<{found[1]}>"):
            return head[: found.start()] + prefill
    return head + prefill


def _marker(said: str) -> str:
    """A word that does not occur in what was said."""
    marker = "jopa\N{LATIN SMALL LETTER THORN}marker"
    while marker in said:
        marker += "x"
    return marker


def _locate(text: str, rendered: str, render: Callable[[str], str], said: str) -> tuple[Span, int]:
    """Find the attributable text in the rendered chat.

    The marker goes into the middle of the text without the blanks around it, so that a template that looks at how a
    message begins or ends does what it did, and one that strips shows where its own blanks are.

    Returns:
        The span of `text` that the template shows, and how far to the right it is in `rendered`.
    """
    core = text.strip()
    marker = _marker(said)
    before, after = core[: len(core) // 2], core[len(core) // 2 :]
    around = render(before + marker + after).split(marker)
    if len(around) > 2:
        raise PromptError(
            f"the model's chat template shows the prompt {len(around) - 1} times, and jopa needs it once; "
            "set the tokenizer's chat_template to one that does"
        )
    head, tail = around[0].removesuffix(before), around[-1].removeprefix(after)
    shown = rendered[len(head) : len(rendered) - len(tail)]
    if len(around) < 2 or shown.strip() != core or shown not in text:
        raise PromptError(
            "nothing attributable: the model's chat template leaves the prompt out or rewrites it; "
            "set the tokenizer's chat_template to one that shows it as it is"
        )
    start = text.index(shown)
    return (start, start + len(shown)), len(head) - start
