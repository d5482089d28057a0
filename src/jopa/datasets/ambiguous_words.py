"""Prompts with an ambiguous word and a context that settles its sense: each word in two contexts.

    jsonl_lines(count, seed)    what `jopa bench --data ambiguous=FILE` reads, with the spans of word and context

The words are English nouns of two unrelated senses. A prompt holds the word once, and nothing but the context says
which sense is meant, so an explanation of the answer should hold a part of both. Knows texts, nothing of models.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

WORDS: tuple[tuple[str, str, str], ...] = (
    ("bank", "of the muddy river", "that lends money"),
    ("bat", "that sleeps in a cave", "that a baseball player swings"),
    ("crane", "that nests in the marsh", "that lifts steel beams"),
    ("mouse", "that eats cheese", "that moves the cursor"),
    ("bark", "of an old oak", "of an angry dog"),
    ("seal", "that swims in the Arctic", "that closes a letter"),
    ("pitcher", "that holds lemonade", "who throws fast balls"),
    ("trunk", "of an elephant", "of a parked car"),
    ("palm", "on a tropical beach", "of a human hand"),
    ("spring", "that follows winter", "in a mattress"),
    ("match", "that lights a candle", "between two football teams"),
    ("nail", "on a finger", "that a hammer hits"),
    ("ring", "that a bride wears", "where boxers fight"),
    ("bow", "that shoots arrows", "on a birthday present"),
    ("fan", "that cools a room", "who cheers for a team"),
    ("star", "in the night sky", "of a famous film"),
    ("jam", "on toasted bread", "of cars at rush hour"),
    ("club", "for chess players", "in a golf bag"),
    ("pupil", "of the eye", "in a school class"),
    ("scale", "on a fish", "that weighs fruit"),
    ("iron", "that presses shirts", "that is mined as ore"),
    ("board", "of company directors", "that a surfer rides"),
    ("keyboard", "of a computer", "of a concert piano"),
    ("port", "where ships unload", "that is drunk after dinner"),
    ("organ", "that pumps blood", "that plays in a church"),
    ("plant", "that needs sunlight", "that builds engines"),
    ("tank", "full of goldfish", "in an army"),
    ("bolt", "of lightning", "with a metal nut"),
    ("date", "that grows on a tree", "on a calendar"),
    ("current", "in the deep ocean", "in a copper wire"),
    ("mole", "that digs tunnels", "on a person's skin"),
    ("net", "that catches fish", "on a tennis court"),
    ("cell", "in a prison", "seen through a microscope"),
    ("court", "where a judge sits", "where a king lives"),
    ("deck", "of playing cards", "of a sailing ship"),
    ("file", "saved on a disk", "that smooths wood"),
    ("glass", "full of water", "in a window frame"),
    ("letter", "in an envelope", "of the alphabet"),
    ("note", "sung by a choir", "stuck on the fridge"),
    ("park", "with swings and trees", "for amusement rides"),
    ("pipe", "that carries water", "that an old man smokes"),
    ("ruler", "of a kingdom", "that measures inches"),
    ("sheet", "on a bed", "of paper"),
    ("table", "with four legs", "of numbers"),
)
"""Each word with one context for either sense."""
REQUESTS = (
    "Describe the {} {} in one sentence.",
    "Write two sentences about the {} {}.",
    "Tell a child about the {} {}.",
    "What would you do with the {} {}?",
)


@dataclass(frozen=True)
class AmbiguousPrompt:
    """A prompt with an ambiguous word.

    Attributes:
        id: the word and the number of its context.
        text: the prompt.
        word: the span of the word in the text, in characters.
        context: the span of what settles its sense.
    """

    id: str
    text: str
    word: tuple[int, int]
    context: tuple[int, int]


def ambiguous_prompts(count: int | None = None, *, seed: int = 0) -> Iterator[AmbiguousPrompt]:
    """Prompts in a random order, the two contexts of a word next to each other and in the same request.

    Args:
        count: how many; None for all, two a word.
        seed: of the order of the words and of the requests.
    """
    drawn = random.Random(seed)
    words = drawn.sample(WORDS, len(WORDS))
    made = (prompt for word, *contexts in words for prompt in _of_word(word, contexts, drawn.choice(REQUESTS)))
    for number, prompt in enumerate(made):
        if count is not None and number >= count:
            return
        yield prompt


def jsonl_lines(count: int | None = None, *, seed: int = 0) -> Iterator[str]:
    """The prompts as lines of a JSONL file."""
    for prompt in ambiguous_prompts(count, seed=seed):
        record = {"id": prompt.id, "prompt": prompt.text, "word": prompt.word, "context": prompt.context}
        yield json.dumps(record, ensure_ascii=False)


def _of_word(word: str, contexts: list[str], request: str) -> Iterator[AmbiguousPrompt]:
    before = request.index("{}")
    for number, context in enumerate(contexts, start=1):
        start = before + len(word) + 1
        text = request.format(word, context)
        yield AmbiguousPrompt(f"{word}-{number}", text, (before, before + len(word)), (start, start + len(context)))
