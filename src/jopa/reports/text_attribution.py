"""A TextAttribution for people: one HTML page, or a view for the terminal.

It says everywhere that its scores are text similarities; the words of log-probabilities are not used. What lies within
the noise of equal requests is said to show nothing. Runs no model.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from jopa.reports.attribution_html import CERTIFICATE_WORDS, default_k
from jopa.reports.sources import cut_by_headings, headings, named, origin, source_facts, sources_of
from jopa.reports.wording import HEADING, NOTHING, Piece, environment, made_with, unit_name, visible, word_diff

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType
    from rich.text import Text

    from jopa.results.text_attribution import TextAttribution

QUESTION = "Which parts of this prompt, taken together, change what the model says?"
GLOSSARY = {
    "text-similarity": "how alike the words of the output and of a new answer are, from 0 to 1",
    "individual effect": "how far the similarity falls when one unit is removed alone",
    "joint effect": "how far it falls when all are removed together",
    "synergy": "the joint effect beyond the sum of the individual effects",
    "noise": "by how much the similarity differs when the unchanged prompt is asked again; less shows nothing",
    "FFE": "full-forward equivalents: tokens asked and answered, over those of prompt and output",
    "certificate": "what the scored sets prove beyond the noise: optimal, one-swap-optimal, or none",
}
_NAMED = 4
"""Units that the verdict names at most."""


def to_html(attribution: TextAttribution, *, standalone: bool = True, title: str | None = None) -> str:
    """The attribution as a web page that needs nothing but itself, or as a fragment for notebooks.

    Args:
        attribution: what to show.
        standalone: a whole page; otherwise a fragment for notebooks.
        title: the page's heading; by default the page has no other than its question.
    """
    return _page([attribution], verdict(attribution), standalone, title)


def text_comparison_html(attributions: Sequence[TextAttribution], *, title: str | None = None) -> str:
    """Several methods on the same prompt and output as one page, with a title of the caller's."""
    return _page(attributions, f"{len(attributions)} methods, one output", True, title)


def _page(attributions: Sequence[TextAttribution], usual: str, standalone: bool, title: str | None) -> str:
    template = environment().get_template("text_attribution.html.j2")
    header, rows = comparison(attributions)
    parts = [
        {
            "a": a,
            "name": a.method["name"],
            "verdict": verdict(a),
            "prompt": marked_prompt(a),
            "effects": [(name, similarity(value, signed=True)) for name, value in effects(a)],
            "strip": every_unit(a),
            "outputs": word_diff(a.output, a.counterfactual_output),
            "facts": facts(a),
        }
        for a in attributions
    ]
    return template.render(
        **{
            "standalone": standalone,
            "styled": True,
            "title": title or usual,
            "heading": title,
            "question": QUESTION,
            "parts": parts,
        },
        **{"header": header, "rows": rows, "nothing": NOTHING, "words": GLOSSARY, "span": ""},
    )


def to_terminal(attribution: TextAttribution) -> RenderableType:
    """The attribution for a terminal."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel

    a = attribution
    before, after = word_diff(a.output, a.counterfactual_output)
    sections: list[tuple[str, str, RenderableType]] = [
        (
            "Prompt",
            "⟦…⟧ removed",
            _text(map(_bracketed, marked_prompt(a))),
        ),
        (
            "Effects",
            "falls of text-similarity",
            _terms((name, similarity(value, signed=True)) for name, value in effects(a)),
        ),
        ("Output", "", _text(_quoted(before))),
        ("Output without them", "‹…› differs", _text(_quoted(after))),
        ("How this was found", "", _terms(facts(a))),
        ("Words", "", _terms(GLOSSARY.items())),
    ]
    if a.effects is not None:
        sections.insert(3, ("Every unit alone", "", _text([("  ".join(every_unit(a)), "")])))
    parts: list[RenderableType] = [Panel(_text([(verdict(a), "")]))]
    for title, note, body in sections:
        parts += [_text([(title, "bold underline"), (f"  {note}", "italic")]), Padding(body, (0, 0, 1, 2))]
    return Group(*parts)


def text_comparison_table(attributions: Sequence[TextAttribution]) -> RenderableType:
    """Several methods on the same prompt and output, one a row."""
    from rich import box
    from rich.table import Table

    header, rows = comparison(attributions)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < 2 else "right")
    for row in rows:
        table.add_row(*(_text([(cell, "")]) for cell in row))
    return table


def verdict(attribution: TextAttribution) -> str:
    """The answer as one sentence."""
    a = attribution
    origins = [origin(a, unit) for unit in a.chosen[:_NAMED]]
    names = [
        f"“{unit_name(unit.text)}”" + (f" ({of})" if of else "")
        for unit, of in zip(a.chosen[:_NAMED], origins, strict=True)
    ]
    more = f" and {len(a.chosen) - _NAMED} more" if len(a.chosen) > _NAMED else ""
    named = f"{', '.join(names)}{more}{' together' if len(a.chosen) > 1 else ''}"
    if not a.shown:
        return (
            f"Without {named}, the answer changes no more than when the unchanged prompt is asked again "
            f"(text-similarity falls by {similarity(a.joint)}, noise {similarity(a.noise)}): nothing is shown."
        )
    return (
        f"Without {named}, the model says something else: text-similarity falls by {similarity(a.joint)}, from "
        f"{similarity(a.similarity)} to {similarity(a.similarity_removed)} (noise {similarity(a.noise)})."
    )


def marked_prompt(attribution: TextAttribution) -> list[Piece]:
    """The prompt with each removed unit marked by its rank, and a heading above each message and document."""
    a, pieces, done = attribution, [], 0
    heads = headings(sources_of(a))
    for index, rank in sorted(zip(a.removed, range(1, len(a.removed) + 1), strict=True)):
        unit = a.units[index]
        blank = len(unit.text) - len(unit.text.lstrip())
        pieces += cut_by_headings(a.prompt, done, unit.start + blank, heads)
        pieces.append(Piece(unit.text[blank:] or unit_name(unit.text), rank))
        done = unit.end
    pieces += cut_by_headings(a.prompt, done, len(a.prompt), heads)
    return [piece for piece in pieces if piece.text]


def effects(attribution: TextAttribution) -> list[tuple[str, float]]:
    """What each unit does alone, and all together."""
    a = attribution
    alone = [(unit_name(unit.text), effect) for unit, effect in zip(a.chosen, a.individual, strict=True)]
    return [*alone, ("synergy", a.synergy), ("joint effect", a.joint)]


def every_unit(attribution: TextAttribution) -> list[str]:
    """What each unit of the prompt does alone; nothing where that was not asked for."""
    each = zip(attribution.units, attribution.effects or (), strict=False)
    return [f"{unit_name(unit.text)} {similarity(effect, signed=True)}" for unit, effect in each]


def facts(attribution: TextAttribution) -> list[tuple[str, str]]:
    """How the answer was found, as terms and plain words."""
    a, n_units = attribution, len(attribution.units)
    settings = ", ".join(
        f"{name} = {value}" for name, value in a.method.items() if name != "name" and value is not None
    )
    certificate = CERTIFICATE_WORDS.get(a.certificate, "").format(k=a.k, n=n_units, sets=f"{math.comb(n_units, a.k):,}")
    details = a.details or {}
    server, unit = details.get("server", {}), details.get("unit", "spans")
    word = "units" if unit == "spans" else f"units ({unit}s)"
    sent = f"{server.get('requests', 0):,} requests, {server.get('tokens_sent', 0):,} tokens asked and answered"
    return [
        (
            "Objective",
            f"text-similarity ({a.measure}): how alike the output and the new answer are",
        ),
        ("Noise", f"{similarity(a.noise)}: the unchanged prompt was asked again, {_repeats(details)}"),
        *source_facts(a),
        ("Removal", "delete: the texts of removed units are cut out of the messages"),
        ("Certificate", f"{a.certificate}: {certificate}"),
        ("Method", a.method["name"] + (f" ({settings})" if settings else "")),
        (
            "Asked for",
            f"k = {a.k} of {n_units} {word}{default_k(details)}, seed {a.seed}",
        ),
        ("Stopped", a.stop),
        ("Cost", f"{a.evaluations:,} evaluations, {sent}, {a.ffe:,.1f} FFE, {a.seconds:,.1f} seconds"),
        *made_with(a.model, a.versions),
    ]


def _repeats(details: dict[str, Any]) -> str:
    values = details.get("similarity", {}).get("unchanged", [])
    return "with similarities " + ", ".join(map(similarity, values)) if values else "with what is not recorded"


def comparison(attributions: Sequence[TextAttribution]) -> tuple[list[str], list[list[str]]]:
    """The header and rows of a comparison."""
    header = ["method", "units", "joint effect (text-similarity)", "noise", "evaluations", "FFE", "seconds"]
    rows = [
        [
            a.method["name"],
            " · ".join(named(a, a.units[i]) for i in sorted(a.removed)),
            similarity(a.joint, signed=True),
            similarity(a.noise),
            f"{a.evaluations:,}",
            f"{a.ffe:,.1f}",
            f"{a.seconds:,.1f}",
        ]
        for a in attributions
    ]
    return header, rows


def similarity(value: float, *, signed: bool = False) -> str:
    """A similarity, or a difference of two, with two decimals and a true minus sign."""
    rounded = round(value, 2) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.2f}".replace("-", "−")


def _bracketed(piece: Piece) -> tuple[str, str]:
    """A removed unit between brackets; a heading on a line of its own."""
    text, mark = piece
    return (f"{text}\n", "bold") if mark == HEADING else (f"⟦{text}⟧", "bold red") if mark else (text, "")


def _quoted(pieces: list[Piece]) -> Iterable[tuple[str, str]]:
    """Differing runs between marks."""
    marked = [(f"‹{text}›", "bold magenta") if mark and text.strip() else (text, "") for text, mark in pieces]
    return marked or [(NOTHING, "")]


def _text(runs: Iterable[tuple[str, str]]) -> Text:
    """Styled runs: plain text, never markup, with unseen characters visible."""
    from rich.text import Text

    text = Text(overflow="fold")
    for run, style in runs:
        text.append(visible(run), style=style)
    return text


def _terms(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    """Terms and their words in two columns."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for term, words in pairs:
        table.add_row(_text([(term, "")]), _text([(words, "")]))
    return table
