"""How a prompt is put before the model: what stands around it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from jopa.errors import SettingError
from jopa.json_values import require_plain
from jopa.prompt.attributable import Attribute
from jopa.prompt.chat_formats import tools_of

_RESERVED = frozenset(
    {
        "conversation",
        "chat_template",
        "messages",
        "tools",
        "documents",
        "tokenize",
        "return_dict",
        "return_tensors",
        "padding",
        "add_generation_prompt",
        "continue_final_message",
        "tokenizer_kwargs",
        "truncation",
        "max_length",
        "return_assistant_tokens_mask",
        "sanitize_control_tokens",
        "processor_kwargs",
    }
)
"""Arguments of `apply_chat_template` that are not the template's own."""


class PromptSettings(TypedDict, total=False):
    """Fields of `PromptOptions`, as keywords."""

    system: str | None
    prefix: str | None
    prefill: str | None
    plain: bool
    template_args: Mapping[str, Any]
    tools: Sequence[Any] | None
    language: str | None
    attribute: Attribute | None
    documents: Sequence[Any] | Path | None


@dataclass(frozen=True)
class PromptOptions:
    """How a prompt is put before the model.

    Attributes:
        system: a system message before a text prompt (chat models).
        prefix: a fixed instruction, not attributable, on a line of its own before the attributable text.
        prefill: the beginning of the answer, as if the assistant had begun to write; without a chat template it follows
            the text directly. Blanks alone are no prefill.
        plain: take the prompt as plain text, also where the tokenizer has a chat template.
        template_args: further arguments of the chat template, as `{"enable_thinking": False}`.
        tools: what the model may call, as the chat template takes it (JSON schemas), or functions with types and a
            docstring; None for none.
        language: the prompt's, such as "de", for words and sentences; guessed by default.
        attribute: what can be removed: "user" (its last message), "users", "system", "tools", "documents", "trace",
            "all", a message's place or role, or several of these; by default the documents, or where there are none
            the user's last message. See `jopa.prompt.attributable`.
        documents: texts that stand beside the question, or objects with "text" and perhaps "id" and "title"; or the
            path of a JSONL file or a folder. See `jopa.prompt.documents.checked_documents`.

    Raises:
        SettingError: plain text is to take arguments of the chat template, or what the template takes is no JSON or
            not the caller's to set.
    """

    system: str | None = None
    prefix: str | None = None
    prefill: str | None = None
    plain: bool = False
    template_args: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Any] | None = None
    language: str | None = None
    attribute: Attribute | None = None
    documents: Sequence[Any] | Path | None = None

    def __post_init__(self) -> None:
        if self.plain and self.template_args:
            raise SettingError(
                "plain text cannot take template_args, which a chat template reads; leave them out, or plain"
            )

        object.__setattr__(self, "tools", tools_of(self.tools))
        for name in self.template_args:
            if not isinstance(name, str) or not name.isidentifier() or name in _RESERVED:
                raise SettingError(f"{name!r} is no argument of a chat template that can be set; leave it out")
        for name, value in (("template_args", self.template_args), ("tools", self.tools)):
            _require_json(name, value)

    @property
    def rendering(self) -> dict[str, Any]:
        """What a result records of how the prompt was rendered; only what is not the default."""
        recorded: dict[str, Any] = {"plain": True} if self.plain else {}
        if self.template_args:
            recorded["template_args"] = dict(self.template_args)
        if self.tools:
            recorded["tools"] = [dict(tool) for tool in self.tools]
        return recorded


def _require_json(name: str, value: Any) -> None:
    """Refuse what no result could be written with."""
    try:
        require_plain(value)
        json.dumps(value, default=_as_builtin)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"{name} must be values of JSON, such as texts, finite numbers and lists: {error}"
        ) from error


def _as_builtin(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r:.60} is none")
