"""Invented facts for long contexts: a statement, the same in other words, a question and its answer.

No fact is true of anything, so a model can know it from the context alone. Knows texts, nothing of documents.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

_NAMES = (
    "Marrow Street",
    "Harbor Lane",
    "Quillfeather",
    "Tamsin Gate",
    "Old Brackwater",
    "Ferndale Hollow",
    "Copper Mill",
    "Saint Orlan",
    "Winterbourne Row",
    "Dunmoor",
    "Larkspur Hill",
    "Pellam Wharf",
)
_SURNAMES = (
    "Okonjo",
    "Varga",
    "Lindqvist",
    "Marchetti",
    "Haddad",
    "Petrov",
    "Nakamura",
    "Oyelaran",
    "Ferreira",
    "Kaplan",
)
_WORDS = ("lantern", "juniper", "saffron", "thistle", "marble", "compass", "velvet", "cinder", "walnut", "heron")


@dataclass(frozen=True)
class FactKind:
    """How facts of one kind are told.

    Attributes:
        statements: the fact in several wordings, with `{name}` and `{value}`.
        question: asks for the value, with `{name}`.
        answer: the whole answer, with `{name}` and `{value}`.
        draw: draws a value.
    """

    statements: tuple[str, ...]
    question: str
    answer: str
    draw: Callable[[random.Random], str]


@dataclass(frozen=True)
class Fact:
    """One invented fact.

    Attributes:
        statements: it in several wordings, a sentence each.
        question: asks for it.
        answer: states it.
    """

    statements: tuple[str, ...]
    question: str
    answer: str


KINDS = (
    FactKind(
        (
            "The access code of the {name} archive is {value}.",
            "Visitors open the archive at {name} with the code {value}.",
            "At the {name} archive the door unlocks after one types {value}.",
        ),
        "What is the access code of the {name} archive?",
        "The access code of the {name} archive is {value}.",
        lambda draw: str(draw.randrange(1000, 10000)),
    ),
    FactKind(
        (
            "The director of the {name} museum is Dr. {value}.",
            "Since last spring Dr. {value} has led the museum in {name}.",
            "Questions about the {name} museum go to its head, Dr. {value}.",
        ),
        "Who is the director of the {name} museum?",
        "The director of the {name} museum is Dr. {value}.",
        lambda draw: draw.choice(_SURNAMES),
    ),
    FactKind(
        (
            "The password of the {name} reading room is {value}.",
            "Readers enter the room at {name} with the password {value}.",
            "Whoever says {value} is let into the {name} reading room.",
        ),
        "What is the password of the {name} reading room?",
        "The password of the {name} reading room is {value}.",
        lambda draw: draw.choice(_WORDS),
    ),
    FactKind(
        (
            "The bridge at {name} was finished in the year {value}.",
            "Builders completed the {name} bridge in {value}.",
            "It was {value} when the {name} bridge opened to traffic.",
        ),
        "In which year was the bridge at {name} finished?",
        "The bridge at {name} was finished in the year {value}.",
        lambda draw: str(draw.randrange(1811, 1989)),
    ),
    FactKind(
        (
            "The last ferry from {name} leaves at {value}.",
            "Nobody crosses from {name} after the ferry of {value}, the last of the day.",
            "Boats stop for the night at {name} once the {value} ferry is gone.",
        ),
        "When does the last ferry from {name} leave?",
        "The last ferry from {name} leaves at {value}.",
        lambda draw: f"{draw.randrange(17, 24)}:{draw.randrange(10, 60)}",
    ),
)


def draw_facts(random_source: random.Random, n: int) -> list[Fact]:
    """One fact, and n − 1 of the same kind about other entities with other values.

    Args:
        random_source: what to draw by.
        n: facts, at most as many as there are invented names.
    """
    assert 1 <= n <= len(_NAMES)
    kind = random_source.choice(KINDS)
    values: list[str] = []
    while len(values) < n:
        value = kind.draw(random_source)
        if value not in values:
            values.append(value)
    names = random_source.sample(_NAMES, n)
    return [_fact(kind, name, value) for name, value in zip(names, values, strict=True)]


def _fact(kind: FactKind, name: str, value: str) -> Fact:
    words = {"name": name, "value": value}
    return Fact(
        tuple(statement.format(**words) for statement in kind.statements),
        kind.question.format(**words),
        kind.answer.format(**words),
    )
