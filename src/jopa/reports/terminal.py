"""An Attribution for a terminal: reads well on 80 columns, with colour and without.

Shows what `report` says there is to show. Text is never read as markup, and what a reader cannot see is escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jopa.reports.attribution_html import (
    attribution_facts,
    bars,
    comparison,
    headed_pieces,
    meaning,
    target_span,
    verdict,
)
from jopa.reports.citations_html import citation_rows, citations_facts, citations_verdict
from jopa.reports.diagnosis_html import diagnosis_facts, diagnosis_verdict, heat, label, requests
from jopa.reports.in_place import in_place_lines
from jopa.reports.levels import tree
from jopa.reports.prompts_html import NAMES, prompts_rows, prompts_verdict
from jopa.reports.wording import GLOSSARY, HEADING, NOTHING, Piece, glossary_of, nats, unit_name, visible, word_diff

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType
    from rich.text import Text

    from jopa.citation.result import Citations
    from jopa.diagnosis.result import Diagnosis
    from jopa.results.attribution import Attribution
    from jopa.results.prompt_comparison import PromptComparison

_BAR = 34  # terminal cells
_COLUMNS = 4
"""Requests beside one another in the heat map."""
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def to_terminal(attribution: Attribution) -> RenderableType:
    """The attribution for a terminal: rich renderables that read well on 80 columns, with or without colour."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel

    a, span = attribution, target_span(attribution)
    prompt = _text(_bracketed(piece) for piece in headed_pieces(a))
    effects = Group(_effects_table(a), _text([(meaning(a), "italic")]))
    sections: list[tuple[str, str, RenderableType]] = [
        ("Prompt", "⟦…⟧ removed, ranked by individual effect", prompt),
        ("Effects", "in nats; each bar starts where the one above ends", effects),
        ("Output", "‹…› differs between the two" + (f"; only tokens {span} count" if span else ""), _outputs_table(a)),
    ]
    if a.levels:
        sections.append(("From coarse to fine", "red = chosen at its level", _levels_tree(a)))
    if a.effects is not None:
        each = zip(a.units, a.effects, strict=True)
        strip = "  ".join(f"{unit_name(unit.text)} {nats(effect)}" for unit, effect in each)
        sections.append(("Every unit alone", "in nats", _text([(strip, "")])))
    sections.append(("What stayed in place", "", _terms(in_place_lines(a))))
    sections.append(("How this was found", "", _terms(attribution_facts(a))))
    sections.append(("Words", "", _terms(GLOSSARY.items())))
    parts: list[RenderableType] = [Panel(_text((run, "bold" if mark else "") for run, mark in verdict(a)))]
    for title, note, body in sections:
        parts += [_text([(title, "bold underline"), (f"  {note}", "italic")]), Padding(body, (0, 0, 1, 2))]
    return Group(*parts)


def comparison_table(attributions: Sequence[Attribution]) -> RenderableType:
    """Several methods on the same prompt and output, one a row; ★ marks the largest joint effect."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    (method, units, *numbers), rows = comparison(attributions)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False, pad_edge=False)
    table.add_column(f"{method}, {units}")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for (name, chosen, *values), best in rows:
        style = "bold" if best else ""
        cell = _text([(name + (" ★" if best else ""), "bold"), (f"\n  {chosen}", "")])
        table.add_row(cell, *(_text([(value, style)]) for value in values))
    first = attributions[0]
    note = f"★ largest joint effect, in nats. Removal: {first.removal}. Output: {' '.join(first.output.split())}"
    words = "\n".join(f"{term}: {meant}" for term, meant in glossary_of("nats", "PR", "FFE"))
    return Group(table, _text([(note, "italic")]), _text([(words, "italic")]))


def prompts_view(prompts: PromptComparison) -> RenderableType:
    """Two prompts for a terminal: both answers, what explains each, and what changed, side by side."""
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table

    p = prompts
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False, show_lines=True)
    table.add_column("")
    for name in NAMES:
        table.add_column(name, ratio=1)
    for term, sides in (
        ("Prompt", word_diff(p.first.prompt, p.second.prompt)),
        ("Answer", word_diff(p.first.output, p.second.output)),
    ):
        table.add_row(term, *(_text(_quoted(side)) for side in sides))
    for term, *sides in prompts_rows(p):
        table.add_row(_text([(term, "")]), *(_text([(words, "")]) for words in sides))
    words = "\n".join(f"{term}: {meant}" for term, meant in glossary_of("nats", "joint effect", "synergy", "PR"))
    verdict_line = _text((run, "bold" if mark else "") for run, mark in prompts_verdict(p))
    return Group(Panel(verdict_line), table, _text([("‹…› differs between the two\n" + words, "italic")]))


def diagnosis_view(diagnosis: Diagnosis) -> RenderableType:
    """A diagnosis for a terminal: the requests, then what each does to each sentence of the answer."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel

    d = diagnosis
    guessed = "" if d.requests_given else " (guessed; --requests names others)"
    note = "nats per token that a sentence loses without a unit; ▲1 drives it most"
    sections: list[tuple[str, str, Sequence[RenderableType]]] = [
        ("Units", f"R request{guessed}, U other; each removed alone", [_requests_table(d)]),
        ("Answer", note, [_heat_table(d, first) for first in range(0, len(d.units), _COLUMNS)]),
        ("What stayed in place", "", [_terms(in_place_lines(d))]),
        ("How this was found", "", [_terms(diagnosis_facts(d))]),
    ]
    parts: list[RenderableType] = [Panel(_text((run, "bold" if mark else "") for run, mark in diagnosis_verdict(d)))]
    for title, words, bodies in sections:
        parts.append(_text([(title, "bold underline"), (f"  {words}", "italic")]))
        parts += [Padding(body, (0, 0, 1, 2)) for body in bodies]
    return Group(*parts)


def citations_view(citations: Citations) -> RenderableType:
    """Citations for a terminal: each sentence of the answer with its sources below it."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.panel import Panel

    verdict_line = _text((run, "bold" if mark else "") for run, mark in citations_verdict(citations))
    note = "PR per token; 1 = nothing changed"
    parts: list[RenderableType] = [Panel(verdict_line), _text([("Answer", "bold underline"), (f"  {note}", "italic")])]
    for number, (sentence, sources, values, found) in enumerate(citation_rows(citations), start=1):
        measured = zip(("necessity", "sufficiency", "without all sources"), values, strict=True)
        numbers = ", ".join(f"{name} {value}" for name, value in measured if value != "–")
        parts.append(Padding(_text([(f"{number}. {sentence}", "bold")]), (1, 0, 0, 2)))
        parts += [Padding(_text([(source, "red")]), (0, 0, 0, 5)) for source in sources]
        parts.append(Padding(_text([(f"{found}: {numbers}", "")]), (0, 0, 0, 5)))
    for title, terms in (
        ("What stayed in place", in_place_lines(citations)),
        ("How this was found", citations_facts(citations)),
    ):
        parts += [_text([(f"\n{title}", "bold underline")]), Padding(_terms(terms), (0, 0, 0, 2))]
    return Group(*parts)


def _requests_table(diagnosis: Diagnosis) -> RenderableType:
    from rich import box
    from rich.table import Table

    header, rows = requests(diagnosis)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, expand=True)
    for name in header[:-1]:
        number = name in ("nats", "share", "PR")
        table.add_column(name, justify="right" if number else "left", no_wrap=number, ratio=None if number else 1)
    table.columns[0].ratio = None
    table.add_column("", ratio=1)
    for number, words, *values in rows:
        table.add_row(number, _text([(" ".join(words.split()), "")]), *(_text([(value, "")]) for value in values))
    return table


def _heat_table(diagnosis: Diagnosis, first: int) -> RenderableType:
    """Some columns of the heat map, one row a sentence of the answer."""
    from rich import box
    from rich.table import Table

    shown = range(first, min(first + _COLUMNS, len(diagnosis.units)))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, expand=True)
    table.add_column("")
    table.add_column("sentence", ratio=1)
    for i in shown:
        table.add_column(
            f"{label(diagnosis, i)}\n{unit_name(diagnosis.units[i].text, 8)}", justify="right", no_wrap=True
        )
    for number, (part, row) in enumerate(zip(diagnosis.parts, heat(diagnosis), strict=True), start=1):
        cells = (
            _text(
                [
                    (
                        nats(row[i].value, signed=True) + (f"▲{row[i].rank}" if row[i].rank else "  "),
                        "bold red" if row[i].rank else "",
                    )
                ]
            )
            for i in shown
        )
        table.add_row(f"S{number}", _text([(unit_name(part.text, 60), "")]), *cells)
    return table


def _text(runs: Iterable[tuple[str, str]], *, one_line: bool = False) -> Text:
    """Styled runs for the terminal: plain text, never markup, with its unseen characters visible."""
    from rich.text import Text

    text = Text(overflow="ellipsis" if one_line else "fold", no_wrap=one_line)
    for run, style in runs:
        text.append(visible(run), style=style)
    return text


def _bracketed(piece: Piece) -> tuple[str, str]:
    """A removed unit between brackets, with its rank; a heading on a line of its own."""
    text, rank = piece
    if rank == HEADING:
        return f"{text}\n", "bold"
    return (f"⟦{text}⟧{str(rank).translate(_SUBSCRIPT)}", "bold red") if rank else (text, "")


def _quoted(pieces: list[Piece]) -> Iterator[tuple[str, str]]:
    """Differing runs between marks, the blanks around them outside."""
    for text, mark in pieces or [Piece(NOTHING)]:
        if not mark or not text.strip():
            yield text, ""
            continue
        before, core, after = text.partition(text.strip())
        yield from [(before, ""), ("‹", "bold magenta"), (core, ""), ("›", "bold magenta"), (after, "")]


def _effects_table(attribution: Attribution) -> RenderableType:
    """One row a bar, with its number before it."""
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for justify in ("right", "left", "right", "left"):
        table.add_column(justify=justify)
    for rank, bar in enumerate(bars(attribution), start=1):
        of_unit = rank <= len(attribution.removed)
        first, last = round(bar.start * _BAR), round(bar.end * _BAR)
        block = ("█" if bar.value > 0 else "░") * (last - first) or ("▏" if bar.value else "")
        table.add_row(
            str(rank) if of_unit else "",
            _text([(unit_name(bar.label, 22), "red" if of_unit else "bold")]),
            nats(bar.value, signed=True),
            _text([(" " * first + block, "red" if of_unit else "")], one_line=True),
        )
    return table


def _levels_tree(attribution: Attribution) -> RenderableType:
    """The chosen units of each level, below the unit that they lie in."""
    from rich.console import Group
    from rich.padding import Padding

    lines = []
    for depth, name, note, chosen in tree(attribution):
        line = [("└ " if depth else "", ""), (name, "red" if chosen else ""), (f"  ({note})", "italic")]
        lines.append(Padding(_text(line), (0, 0, 0, 2 * depth)))
    return Group(*lines)


def _outputs_table(attribution: Attribution) -> RenderableType:
    """The two outputs side by side."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1), show_edge=False)
    table.add_column("what the model said", ratio=1)
    table.add_column("what it says without them", ratio=1)
    table.add_row(*(_text(_quoted(side)) for side in word_diff(attribution.output, attribution.counterfactual_output)))
    return table


def _terms(pairs: Iterable[tuple[str, str]]) -> RenderableType:
    """Terms and their words in two columns."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for term, words in pairs:
        table.add_row(_text([(term, "")], one_line=True), _text([(words, "")]))
    return table
