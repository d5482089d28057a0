"""Ambiguous words: does the best set hold the word and the context that settles its sense?

    python analysis/ambiguous_words.py --write ambiguous.jsonl     # the prompts; then
    jopa bench experiments/ambiguous.toml --data ambiguous=ambiguous.jsonl --out runs/ambiguous
    python analysis/ambiguous_words.py runs/ambiguous              # the answers; runs no model

A set holds the pair if one of its units overlaps the word and another the context. Chance: as many units drawn at
random from the prompt. Methods are compared with leave-one-out on the same prompts: McNemar's exact test. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jopa.benchmark.records import FinishedCell, Run, read_run
from jopa.datasets.ambiguous_words import AmbiguousPrompt, ambiguous_prompts, jsonl_lines
from jopa.storage import write_text

ALONE = "ablation"


class Answer(NamedTuple):
    """What a method's set holds of one prompt.

    Attributes:
        word: a part of the word.
        context: a part of the context.
        pair: both, by two units.
        chance: the probability of `pair` for as many units drawn at random.
        joint: the joint effect, in nats.
        synergy: in nats.
    """

    word: bool
    context: bool
    pair: bool
    chance: float
    joint: float
    synergy: float


def main() -> None:
    """Write the prompts, or answer from a run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="a folder of `jopa bench`")
    parser.add_argument("--write", type=Path, help="write the prompts as JSONL")
    parser.add_argument("--count", type=int, default=None, help="how many prompts; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.write is not None:
        write_text(arguments.write, "\n".join(jsonl_lines(arguments.count, seed=arguments.seed)) + "\n")
    if arguments.run is not None:
        known = {prompt.id: prompt for prompt in ambiguous_prompts(seed=arguments.seed)}
        print("\n".join(section(read_run(arguments.run), known)))


def section(run: Run, known: dict[str, AmbiguousPrompt]) -> Iterator[str]:
    """One table for each model and k."""
    for model in dict.fromkeys(cell.key.model for cell in run.done):
        for k in sorted({cell.key.k for cell in run.done}):
            cells = [cell for cell in run.done if (cell.key.model, cell.key.k) == (model, k)]
            by_method: dict[str, dict[str, Answer]] = {}
            for cell in cells:
                if cell.key.example in known:
                    found = answer(run, cell, known[cell.key.example])
                    by_method.setdefault(cell.key.method, {})[cell.key.example] = found
            shared = set.intersection(*map(set, by_method.values())) if by_method else set()
            yield f"### {model}, k = {k}, {len(shared)} prompts"
            yield ""
            heads = ["method", "word", "context", "both", "both by chance", "joint effect, nats", "synergy"]
            yield f"| {' | '.join(heads)} | p against leave-one-out |"
            yield "|---|--:|--:|--:|--:|--:|--:|--:|"
            for method, answers in by_method.items():
                rows = [answers[name] for name in sorted(shared)]
                if not rows:
                    continue
                alone = [by_method[ALONE][name].pair for name in sorted(shared)] if ALONE in by_method else []
                own = [row.pair for row in rows]
                p = f"{mcnemar(own, alone):.3g}" if alone and method != ALONE else "–"
                shares = [_share([getattr(row, name) for row in rows]) for name in ("word", "context", "pair")]
                means = ("chance", "joint", "synergy")
                mean = [math.fsum(getattr(row, name) for row in rows) / len(rows) for name in means]
                yield f"| {method} | {' | '.join(shares)} | {mean[0]:.0%} | {mean[1]:.2f} | {mean[2]:+.2f} | {p} |"
            yield ""


def answer(run: Run, cell: FinishedCell, prompt: AmbiguousPrompt) -> Answer:
    """What a cell's set holds."""
    units = run.examples[cell.key[:3]].prompt.units
    word, context = (
        {i for i, unit in enumerate(units) if unit.start < end and unit.end > start}
        for start, end in (prompt.word, prompt.context)
    )
    context -= word
    chosen = set(cell.removed)
    k = len(chosen)
    chance = pair_by_chance(len(units), len(word), len(context), k)
    joint = cell.log_prob - cell.log_prob_removed
    has_word, has_context = bool(chosen & word), bool(chosen & context)
    return Answer(has_word, has_context, has_word and has_context, chance, joint, cell.synergy)


def pair_by_chance(n: int, n_word: int, n_context: int, k: int) -> float:
    """The probability that k of n units hold one of the word's and one of the context's."""
    whole = math.comb(n, k)
    without = math.comb(n - n_word, k) + math.comb(n - n_context, k) - math.comb(n - n_word - n_context, k)
    return 1 - without / whole


def mcnemar(own: Sequence[bool], other: Sequence[bool]) -> float:
    """The two-sided exact p-value that two methods hold the pair equally often."""
    more = sum(a and not b for a, b in zip(own, other, strict=True))
    fewer = sum(b and not a for a, b in zip(own, other, strict=True))
    n = more + fewer
    tail = sum(math.comb(n, i) for i in range(min(more, fewer) + 1)) / 2**n
    return min(1.0, 2 * tail)


def _share(flags: Sequence[bool]) -> str:
    return f"{sum(flags)} ({sum(flags) / len(flags):.0%})"


if __name__ == "__main__":
    main()
