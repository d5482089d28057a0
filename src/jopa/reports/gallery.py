"""What two methods chose on the same prompts, and what the answer is without it: `jopa gallery DIR`.

    DIR/gallery/index.html   the examples, side by side (the paper's Figures 2 to 4)
    DIR/gallery/gallery.md   the same as Markdown

Each example shows the units that two methods chose, what each does alone and all do together, the answer with all units
and without the chosen ones; and the answer without one of them, where the run has a cell with k = 1 that removed it.
The records have no other answers to single removals, and no model runs. Both pictures of an example have one scale.

Examples are chosen by a rule, not by a person: of each model and data set the prompts with the largest, the median (the
lower of two) and the smallest lead of the first method, its joint effect less the other's, in nats; equal leads in the
order of the records. The smallest shows where the first method does worst; usually it is not better there.

Reads records; runs no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from jopa.benchmark.records import ExampleRecord, FinishedCell, Run, read_run
from jopa.errors import InputFileError, SettingError
from jopa.reports.attribution_html import Bar, bars, highlighted_pieces, meaning
from jopa.reports.benchmark_report import joined, run_facts, without_retired
from jopa.reports.figures import main_k
from jopa.reports.tables import labels
from jopa.reports.typesetting import MARKDOWN
from jopa.reports.wording import NOTHING, Piece, environment, nats, unit_name, visible, word_diff
from jopa.results.attribution import Attribution
from jopa.storage import staged_folder, write_text

LEAVE_ONE_OUT = "ablation"
_LINE_START = re.compile(r"^(\d*)([-+=.)])(?=\s|=|$)")
"""What Markdown would read as a list or as the line below a heading."""


class Side(NamedTuple):
    """What one method chose; `singles` holds a chosen unit and the answer without it alone, where that is on record."""

    label: str
    attribution: Attribution
    prompt: list[Piece]
    bars: list[Bar]
    meaning: str
    answer: list[Piece]
    singles: list[tuple[str, list[Piece]]]


class GalleryEntry(NamedTuple):
    """A prompt and the selections of both methods; `lead` is the first one's joint effect less the other's, in nats."""

    model: str
    data: str
    name: str
    reason: str
    lead: float
    output: str
    sides: tuple[Side, Side]


def write_gallery(folder: Path, out: Path | None = None, *, methods: Sequence[str] | None = None) -> tuple[Path, ...]:
    """Write the gallery of a run as a page and as Markdown, for k = 3 if the run has it, else for its largest k.

    Args:
        folder: what `jopa bench` wrote.
        out: where to write; `folder/gallery` if not given.
        methods: the labels of two methods; by default the experiment's baseline (else its first method) and the first
            leave-one-out.

    Returns:
        What was written, the page first.

    Raises:
        InputFileError: there is no run, or it has no prompt that both methods finished, or nothing can be written.
        SettingError: the methods are not two of the run's.
    """
    run = without_retired(read_run(folder))
    pair = _pair(run, methods)
    k = main_k(run)
    examples = chosen_examples(run, pair, k)
    if not examples:
        raise InputFileError(
            f"the run in '{folder}' has no prompt that both {pair[0]} and {pair[1]} finished at k = {k}"
        )
    out = folder / "gallery" if out is None else out
    title = f"{pair[0]} and {pair[1]} on the same prompts, k = {k}"
    template = environment().get_template("gallery.html.j2")
    notes = [*rule(pair), lead_note(examples, pair)]
    made = run_facts(run)
    page = template.render(title=title, notes=notes, examples=examples, facts=made, nothing=NOTHING)
    with staged_folder(out) as staged:
        write_text(staged / "index.html", page)
        write_text(staged / "gallery.md", to_markdown(title, notes, examples, made))
    return out / "index.html", out / "gallery.md"


def rule(pair: tuple[str, str]) -> list[str]:
    """How the examples were chosen, and what the records do not contain."""
    first, second = pair
    return [
        f"Examples are chosen by a rule: of each model and data set the prompts with the largest, the median and the "
        f"smallest lead of {first} over {second}. The lead is the difference of their joint effects: how far "
        f"log p(answer) falls without all their units, in nats.",
        "What the answer is without a single unit is shown where the run has a cell with k = 1 that removed it, and "
        "left out elsewhere.",
    ]


def lead_note(examples: Sequence[GalleryEntry], pair: tuple[str, str]) -> str:
    """Whether the first method is no better on one of the examples; if not, it is nowhere in the run."""
    n_worse = sum(example.lead <= 0 for example in examples)
    if n_worse:
        return f"On {n_worse} of these {len(examples)} examples {pair[0]} is no better than {pair[1]}."
    return f"{pair[0]} is better than {pair[1]} on every prompt of the run, so no example shows it no better."


def chosen_examples(run: Run, pair: tuple[str, str], k: int | None) -> list[GalleryEntry]:
    """The examples that the rule picks; each once, also where it is picked for two reasons."""
    cells: dict[tuple[str, str], dict[str, dict[str, FinishedCell]]] = {}
    singles: dict[tuple[str, str, str], dict[int, FinishedCell]] = {}
    for cell in run.done:
        key = cell.key
        if key.k == 1:
            singles.setdefault(key[:3], {}).setdefault(cell.removed[0], cell)
        if key.k == k and key.method in pair:  # of several seeds the first on record
            by_method = cells.setdefault(key[:2], {}).setdefault(key.example, {})
            by_method.setdefault(key.method, cell)
    examples = []
    for (model, data), prompts in cells.items():
        both = {
            name: found for name, found in prompts.items() if len(found) == 2 and (model, data, name) in run.examples
        }
        leads = {name: found[pair[0]].joint - found[pair[1]].joint for name, found in both.items()}
        for name, reasons in extremes(leads).items():
            where = (model, data, name)
            record, alone = run.examples[where], singles.get(where, {})
            sides = on_one_scale(*(_side(label, record, both[name][label], alone) for label in pair))
            reason = f"the {' and '.join(reasons)} lead"
            examples.append(GalleryEntry(*where, reason, leads[name], record.output.text, sides))
    return examples


def extremes(values: Mapping[str, float]) -> dict[str, list[str]]:
    """The names with the largest, the median (the lower of two) and the smallest value; ties keep their order.

    Returns:
        Each name once, with all that it is ("largest", "median", "smallest"), the largest first.
    """
    order = sorted(values, key=lambda name: -values[name])
    found: dict[str, list[str]] = {}
    if order:
        for what, name in (("largest", order[0]), ("median", order[len(order) // 2]), ("smallest", order[-1])):
            found.setdefault(name, []).append(what)
    return found


def on_one_scale(first: Side, second: Side) -> tuple[Side, Side]:
    """Two sides whose bars have the same scale and zero, so that their lengths may be compared."""
    ranges = [_range(side.attribution) for side in (first, second)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    width = (high - low) or 1.0
    scaled = []
    for side, (own_low, own_high) in zip((first, second), ranges, strict=True):
        offset, scale = (own_low - low) / width, (own_high - own_low) / width
        drawn = [bar._replace(start=offset + scale * bar.start, end=offset + scale * bar.end) for bar in side.bars]
        scaled.append(side._replace(bars=drawn))
    return scaled[0], scaled[1]


def to_markdown(
    title: str, notes: Sequence[str], examples: Sequence[GalleryEntry], made: Sequence[tuple[str, str]] = ()
) -> str:
    """The gallery as Markdown; all text of prompts and answers is quoted and escaped, `made` are terms and words."""
    lines = [f"# {escaped(title)}", *(escaped(note) for note in notes)]
    for e in examples:
        lines.append(f"## {escaped(f'{e.model}, {e.data}, {e.name}')}")
        lines.append(escaped(f"Chosen for {e.reason}: {nats(e.lead, signed=True)} nats."))
        lines += ["The answer:", quote(escaped(e.output))]
        for side in e.sides:
            lines.append(f"### {escaped(side.label)}")
            lines.append(quote("".join(f"**{escaped(t.strip())}**" if m else escaped(t) for t, m in side.prompt)))
            rows = "\n".join(
                f"| {escaped(unit_name(bar.label))} | {nats(bar.value, signed=True)} |" for bar in side.bars
            )
            lines.append(f"| removed | nats |\n|---|--:|\n{rows}")
            lines.append(escaped(side.meaning))
            for unit, answer in side.singles:
                lines += [f"The answer without “{escaped(unit)}” alone:", quote(escaped(_plain(answer)))]
            lines += [f"The answer without all {len(side.attribution.removed)}:"]
            lines.append(quote(escaped(_plain(side.answer)) or NOTHING))
    if made:
        rows = ("\n".join(f"- {escaped(f'{term}: {line}')}" for line in words.splitlines()) for term, words in made)
        lines += ["## How this was made", "\n".join(rows)]
    return "\n\n".join(lines) + "\n"


def _pair(run: Run, methods: Sequence[str] | None) -> tuple[str, str]:
    """The labels of the two methods."""
    known = labels(run)
    if methods is None:
        active = [method for method in run.experiment.methods if not method.retired]
        first = run.experiment.baseline or (active[0].label if active else "")
        alone = [method.label for method in active if method.name == LEAVE_ONE_OUT and method.label != first]
        methods = [first, *alone[:1]]
    if len(set(methods)) != 2 or not set(methods) <= set(known):
        raise SettingError(
            f"give two methods of the run to compare, got {', '.join(methods) or 'none'}: it has {', '.join(known)}"
        )
    return methods[0], methods[1]


def _range(attribution: Attribution) -> tuple[float, float]:
    """The least and the most that the bars of an attribution reach, in nats; `bars` draws them across this range."""
    reached = [0.0, *accumulate([*attribution.individual, attribution.synergy]), attribution.joint]
    return min(reached), max(reached)


def _side(label: str, example: ExampleRecord, cell: FinishedCell, alone: dict[int, FinishedCell]) -> Side:
    """A method's part of an example."""
    attribution, output = joined(example, cell), example.output.text
    return Side(
        label,
        attribution,
        highlighted_pieces(attribution),
        bars(attribution),
        meaning(attribution),
        word_diff(output, attribution.counterfactual_output)[1],
        [
            (unit_name(attribution.units[i].text), word_diff(output, alone[i].counterfactual_output)[1])
            for i in attribution.removed
            if i in alone
        ],
    )


def _plain(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, line breaks left; unseen characters as escapes."""
    return MARKDOWN.sub(r"\\\1", visible(text))


def quote(text: str) -> str:
    """A block of quoted lines of text that is escaped already, with every line break and indent kept."""
    lines = []
    for line in text.splitlines():
        core = line.strip()
        indent = "\N{NO-BREAK SPACE}" * (len(line) - len(line.lstrip()))
        shown = _LINE_START.sub(r"\1\\\2", core)
        lines.append(f"> {indent}{shown}  " if core else ">")
    return "\n".join(lines) or ">"
