"""Which texts of a conversation are attributable: those whose units can be removed.

    user        the last message of the user
    users       every message of the user
    system      system messages (and those of role "developer")
    tools       what tools returned (messages of role "tool" or "function")
    documents   the documents
    trace       the reasoning before the answer; see `jopa.prompt.trace`
    all         the documents and every message that has a text

In Python a message can also be named by its place (0 is the first, −1 the last) or by any other role. Knows messages,
no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jopa.errors import PromptError, SettingError

Attribute = str | int | Sequence[str | int]
"""Names of the module's head, separated by commas or in a list, places of messages, or roles."""

_ROLES = {
    "users": ("user",),
    "system": ("system", "developer"),
    "tools": ("tool", "function", "ipython"),
    "tool": ("tool", "function", "ipython"),
}
NAMES = ("user", "users", "system", "tools", "documents", "trace", "all")


@dataclass(frozen=True)
class Attributable:
    """What of a conversation is attributable.

    Attributes:
        messages: places of the messages, ascending.
        documents: whether the documents are.
        trace: whether the reasoning before the answer is.
        lenient: whether messages that the chat template does not show are left out without an error.
    """

    messages: tuple[int, ...]
    documents: bool
    trace: bool
    lenient: bool = False


def attributable(messages: Sequence[dict[str, Any]], attribute: Attribute | None, has_documents: bool) -> Attributable:
    """What a value of `PromptOptions.attribute` names.

    Args:
        messages: in full, without a prefilled answer; with texts or None as contents.
        attribute: what the caller wants; None for the documents, or where there are none for the user's last message.
        has_documents: whether there are documents.

    Raises:
        PromptError: nothing of what is named is there, or it has no text.
        SettingError: the value names nothing.
    """
    names = _names("documents" if attribute is None and has_documents else "user" if attribute is None else attribute)
    found: set[int] = set()
    for name in names:
        if name == "documents" and not has_documents:
            raise PromptError("nothing attributable: there are no documents; give some, or attribute something else")
        if name not in ("documents", "trace"):
            found.update(_places(messages, name))
    lenient = "all" in names
    with_text = tuple(place for place in sorted(found) if (messages[place]["content"] or "").strip())
    empty = found - set(with_text)
    if empty and ("user" in names or not with_text) and not lenient:
        if [name for name in names if name != "user"] or messages[min(empty)]["role"] != "user":
            role = messages[min(empty)]["role"]
            raise PromptError(f"nothing attributable: the message at place {min(empty)}, of role '{role}', has no text")
        raise PromptError("the prompt is empty; give a text with something in it besides blanks")
    documents = "documents" in names or ("all" in names and has_documents)
    if not with_text and not documents and "trace" not in names:
        raise PromptError("nothing attributable: no message has a text; give one with something in it besides blanks")
    return Attributable(with_text, documents, "trace" in names, lenient)


def _names(attribute: object) -> list[str | int]:
    """The names that a value of `attribute` consists of."""
    if isinstance(attribute, bool) or not isinstance(attribute, str | int | Sequence) or isinstance(attribute, bytes):
        raise SettingError(f"attribute is one of {', '.join(NAMES)}, a message's place or role, got {attribute!r:.60}")
    given = attribute.split(",") if isinstance(attribute, str) else [attribute]
    if isinstance(attribute, Sequence) and not isinstance(attribute, str):
        given = list(attribute)
    names: list[str | int] = []
    for name in given:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise SettingError(f"attribute names messages by texts or whole numbers, got {name!r:.60}")
        names.append(name.strip() if isinstance(name, str) else name)
    if not names or "" in names:
        raise SettingError(f"attribute names nothing; choose of {', '.join(NAMES)}")
    return names


def _places(messages: Sequence[dict[str, Any]], name: str | int) -> list[int]:
    """The messages of one name, at least one.

    Raises:
        PromptError: there is none.
        SettingError: the name means nothing.
    """
    n = len(messages)
    if isinstance(name, int):
        if not -n <= name < n:
            raise SettingError(f"there is no message at place {name} to attribute; the places are 0 to {n - 1}")
        return [name % n]
    if name == "all":
        return list(range(n))
    roles = [message["role"] for message in messages]
    wanted = _ROLES.get(name, (name,))
    places = [place for place, role in enumerate(roles) if role in wanted]
    if places:
        return places[-1:] if name == "user" else places
    there = ", ".join(dict.fromkeys(roles)) or "none"
    if name in (*NAMES, "tool", "assistant"):
        role = " or ".join(f"'{role}'" for role in wanted)
        raise PromptError(
            f"nothing attributable: no message is of role {role}; add one, or attribute another (there are: {there})"
        )
    raise SettingError(f"unknown part '{name}' to attribute: choose of {', '.join(NAMES)}, or a role ({there})")
