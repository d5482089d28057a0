"""The most that one visitor of the page may ask for. Each limit stands here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

CHARACTERS_PER_TOKEN = 10
"""Texts of more characters than so many a token are refused before they are cut into tokens."""


@dataclass(frozen=True)
class RequestLimits:
    """The most that one request may ask for.

    Attributes:
        characters: of all its texts together: prompt, system message, turns and documents.
        turns: of the conversation, the prompt left out.
        documents: beside the question.
        tokens: of the model's input and the answer together.
        gradient_tokens: the same for methods that need gradients or attention: their memory grows faster with it.
        max_new_tokens: of each answer.
        k: units to find.
        budget: of a search, in its own measure.
        seconds: of work for one request, waiting left out.
        waiting: requests in the queue, of all visitors.
        per_visitor: unfinished requests of one visitor, waiting and at work.
    """

    characters: int = 6000 * CHARACTERS_PER_TOKEN
    turns: int = 60
    documents: int = 100
    tokens: int = 6000
    gradient_tokens: int = 1200
    max_new_tokens: int = 300
    k: int = 12
    budget: int = 500
    seconds: float = 600.0
    waiting: int = 40
    per_visitor: int = 10
