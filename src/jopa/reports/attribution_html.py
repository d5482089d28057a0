"""An Attribution for people: what there is to show, and one HTML page (or a piece of a notebook) that shows it.

The page and the terminal view show the same things in the same order: a verdict in one sentence, the prompt with the
removed units marked, what each unit does alone and all do together, the output beside the output without them, and how
the answer was found. Runs no model; sees Attributions only.
"""

from __future__ import annotations

import math
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from jopa.reports.in_place import in_place
from jopa.reports.levels import level_facts, level_lines, tree
from jopa.reports.sources import cut_by_headings, headings, named, origin, source_facts, sources_of
from jopa.reports.wording import (
    NOTHING,
    REMOVAL_WORDS,
    Piece,
    environment,
    glossary_of,
    made_with,
    nats,
    ratio_text,
    unit_name,
    word_diff,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jopa.results.attribution import Attribution

CERTIFICATE_WORDS = {
    "none": "nothing is proved; another set of {k} may do more",
    "one-swap-optimal": "every set that differs in a single unit was scored, and none does more",
    "optimal": "all sets of {k} of the {n} units were scored ({sets}), and none does more",
}
PARTS = ("verdict", "effects", "levels", "outputs", "in_place", "found")
"""The parts of an attribution's page that stand by themselves; each has a template."""
_NAMED = 4  # units that the verdict names at most


class Bar(NamedTuple):
    """A row of the effects picture: its value in nats, and where its bar lies, as fractions of the width."""

    label: str
    value: float
    start: float
    end: float


def to_html(attribution: Attribution, *, standalone: bool = True, styled: bool = True, title: str | None = None) -> str:
    """The attribution as a self-contained web page.

    Args:
        attribution: what to show.
        standalone: a whole page; otherwise a fragment for notebooks, whose style affects nothing outside it.
        styled: with its style; False for a fragment on a page that has it.
        title: the page's heading; by default the page has no other than its question.
    """
    shown = _shown(attribution)
    name = title or "".join(piece.text for piece in shown["verdict"])
    template = environment().get_template("attribution.html.j2")
    return template.render(standalone=standalone, styled=styled, title=name, heading=title, **shown)


def parts_html(attribution: Attribution) -> dict[str, str]:
    """The parts of `to_html`'s page for a page that has its own place for each, by name; see `PARTS`."""
    shown = {**_shown(attribution), "h2": "h2", "h3": "h3", "standalone": False}
    return {name: environment().get_template(f"{name}.html.j2").render(shown) for name in PARTS}


def page_html(setup: dict[str, Any]) -> str:
    """The live page, which shows these parts as they are found; `setup` is what it knows from the start."""
    return environment().get_template("page.html.j2").render(setup=setup)


def _shown(attribution: Attribution) -> dict[str, Any]:
    """What the templates of an attribution show."""
    return {
        "a": attribution,
        "verdict": verdict(attribution),
        "prompt": headed_pieces(attribution),
        "bars": bars(attribution),
        "meaning": meaning(attribution),
        "span": target_span(attribution),
        "outputs": word_diff(attribution.output, attribution.counterfactual_output),
        "nothing": NOTHING,
        "in_place": in_place(attribution),
        "facts": attribution_facts(attribution),
        "trace": _trace_line(attribution),
        "tree": tree(attribution),
        "levels": level_lines(attribution),
        "refined_by_default": (attribution.details or {}).get("refined_by_default"),
    }


def comparison_html(attributions: Sequence[Attribution], *, title: str | None = None) -> str:
    """Several methods on the same prompt and output as one page: a table, then each attribution."""
    from markupsafe import Markup

    parts = [
        (a.method["name"], Markup(to_html(a, standalone=False, styled=False)))  # its template has escaped it
        for a in attributions
    ]
    summary = f"{len(attributions)} method{'s' if len(attributions) > 1 else ''}, one output"
    table = Markup(comparison_table_html(attributions))  # as above
    template = environment().get_template("comparison.html.j2")
    shown = {"title": title or summary, "heading": title, "summary": summary, "table": table, "parts": parts}
    return template.render(in_place=in_place(attributions[0]), standalone=True, h2="h2", **shown)


def comparison_table_html(attributions: Sequence[Attribution]) -> str:
    """The table of a comparison by itself."""
    header, rows = comparison(attributions)
    template = environment().get_template("comparison_table.html.j2")
    words = glossary_of("nats", "PR", "FFE")
    return template.render(header=header, rows=rows, removal=attributions[0].removal, words=words)


def comparison(attributions: Sequence[Attribution]) -> tuple[list[str], list[tuple[list[str], bool]]]:
    """The header and rows of a comparison; a row's flag says that no method found a larger joint effect."""
    header = ["method", "units", "joint effect", "PR", "FFE", "evaluations", "seconds"]
    best = max(round(a.joint, 4) for a in attributions)
    rows = [
        (
            [
                a.method["name"],
                " · ".join(named(a, a.units[i]) for i in sorted(a.removed)),
                nats(a.joint, signed=True),
                ratio_text(a.probability_ratio),
                f"{a.ffe:,.1f}",
                f"{a.evaluations:,}",
                f"{a.seconds:,.1f}",
            ],
            round(a.joint, 4) == best,
        )
        for a in attributions
    ]
    return header, rows


def verdict(attribution: Attribution) -> list[Piece]:
    """The answer as one sentence; unit names have mark 1, the strength mark 2."""
    ratio, units, span = attribution.probability_ratio, attribution.chosen, target_span(attribution)
    pieces = [Piece("Without ")]
    for number, unit in enumerate(units[:_NAMED], start=1):
        gap = "" if number == 1 else " and " if number == len(units) else ", "
        of = origin(attribution, unit)
        pieces += [Piece(f"{gap}“"), Piece(unit_name(unit.text), 1), Piece(f"” ({of})" if of else "”")]
    more = f" and {len(units) - _NAMED} more" if len(units) > _NAMED else ""
    strength = ratio_text(max(ratio, 1 / ratio) if ratio else math.inf)
    times = f"{strength} times {'less' if ratio < 1 else 'more'} likely" if strength != "1.00" else "about as likely"
    return [
        *pieces,
        Piece(f"{more} together, the model is " if len(units) > 1 else ", the model is "),
        Piece(times, 2),
        Piece(f" per token to say {f'output tokens {span}' if span else 'this'} (PR {ratio_text(ratio)})."),
        *_not_reached(attribution),
    ]


def _not_reached(attribution: Attribution) -> list[Piece]:
    """That no set brought PR below the value asked for; nothing where one did, or none was asked for."""
    record = (attribution.details or {}).get("until_pr")
    if record is None or record["reached"]:
        return []
    most, value = record["tried"][-1]["k"], record["pr"]
    return [Piece(f" No set of up to {most} unit{'s' if most > 1 else ''} was found that brings PR below {value:g}.")]


def target_span(attribution: Attribution) -> str:
    """The output tokens that count, as start:end; empty if all do."""
    start, end = attribution.target
    return "" if end - start == len(attribution.output_ids) else f"{start}:{end}"


def highlighted_pieces(attribution: Attribution, heads: Sequence[tuple[int, str]] = ()) -> list[Piece]:
    """The prompt with the visible part of each removed unit marked by its rank.

    Args:
        attribution: what to show.
        heads: headings, with mark `HEADING`, and where in the prompt they stand.
    """
    pieces: list[Piece] = []
    heads, done = list(heads), 0
    for index, rank in sorted(zip(attribution.removed, range(1, len(attribution.removed) + 1), strict=True)):
        unit = attribution.units[index]
        core = unit.text.strip()
        start = unit.start + unit.text.index(core)
        pieces += [*cut_by_headings(attribution.prompt, done, start, heads), Piece(core or unit_name(unit.text), rank)]
        # A line break that is removed is named and still breaks the line.
        done = start + len(core) if core or "\n" in unit.text else unit.end
    pieces += cut_by_headings(attribution.prompt, done, len(attribution.prompt), heads)
    return [piece for piece in pieces if piece.text]


def headed_pieces(attribution: Attribution) -> list[Piece]:
    """The same with a heading above each message and document, where there are several."""
    return highlighted_pieces(attribution, headings(sources_of(attribution)))


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, from 0 to 1."""
    return (value - low) / ((high - low) or 1.0)


def bars(attribution: Attribution) -> list[Bar]:
    """Individual effects and synergy, each from where the last one ended, and the joint effect they add up to."""
    values = [*attribution.individual, attribution.synergy]
    ends = [0.0, *accumulate(values)]
    labels = [*(unit.text for unit in attribution.chosen), "synergy", "joint effect"]
    spans = [sorted(span) for span in [*pairwise(ends), (0.0, attribution.joint)]]
    low, high = min(first for first, _ in spans), max(last for _, last in spans)
    return [
        Bar(label, value, _share(first, low, high), _share(last, low, high))
        for label, value, (first, last) in zip(labels, [*values, attribution.joint], spans, strict=True)
    ]


def meaning(attribution: Attribution) -> str:
    """What the synergy says, in words."""
    if attribution.k == 1:
        return "One unit alone: there is nothing joint about it."
    amount = nats(abs(attribution.synergy))
    if amount == "0.00":
        return "The joint effect is the sum of the individual effects."
    if attribution.synergy > 0:
        return f"Together they do {amount} nats more than the sum of each alone."
    return f"They overlap: together they do {amount} nats less than the sum of each alone."


def _trace_line(attribution: Attribution) -> dict[str, Any] | None:
    """The search as a stepped line in a 100 × 100 box; None without two steps to join."""
    steps = [(step.ffe, step.log_prob) for step in attribution.trace]
    if len(steps) < 2:
        return None
    heights = [attribution.log_prob, *(height for _, height in steps)]
    low, high, right = min(heights), max(heights), steps[-1][0]
    turns = [[(ffe, before), (ffe, height)] for (_, before), (ffe, height) in pairwise(steps) if height != before]
    return {
        "points": " ".join(
            f"{100 * _share(ffe, 0.0, right):.2f},{100 * _share(height, high, low):.2f}"
            for ffe, height in [steps[0], *chain.from_iterable(turns), steps[-1]]
        ),
        "whole": f"{100 * _share(attribution.log_prob, high, low):.2f}",
        **{"low": low, "high": high, "right": right, "first": steps[0][1], "last": steps[-1][1]},
    }


def attribution_facts(attribution: Attribution) -> list[tuple[str, str]]:
    """How the answer was found, as terms and plain words."""
    a, span, n_output, n_units = (
        attribution,
        target_span(attribution),
        len(attribution.output_ids),
        len(attribution.units),
    )
    given = {name: value for name, value in a.method.items() if name != "name" and value is not None}
    settings = ", ".join(f"{name} = {value}" for name, value in given.items())
    certificate = CERTIFICATE_WORDS.get(a.certificate, "").format(k=a.k, n=n_units, sets=f"{math.comb(n_units, a.k):,}")
    return [
        (
            "log p(output)",
            f"{nats(a.log_prob)} nats with the whole prompt, {nats(a.log_prob_removed)} without the units",
        ),
        ("Target", f"tokens {span} of the output's {n_output}" if span else f"tokens 0:{n_output}, the whole output"),
        *source_facts(a),
        ("Removal", f"{a.removal}: {REMOVAL_WORDS.get(a.removal, '')}"),
        ("Certificate", f"{a.certificate}: {certificate}" + (" (inside what was opened)" if a.levels else "")),
        *level_facts(a),
        ("Method", a.method["name"] + (f" ({settings})" if settings else "") + _method_reason(a)),
        ("Asked for", f"k = {a.k} of {n_units} {_units_word(a)}{default_k(a.details)}, seed {a.seed}"),
        *sufficient_facts(a),
        *_kept_answer(a),
        ("Stopped", a.stop),
        ("Cost", f"{a.evaluations:,} evaluations, {a.ffe:,.1f} FFE, {a.seconds:,.1f} seconds"),
        *made_with(a.model, a.versions),
    ]


def _method_reason(attribution: Attribution) -> str:
    """Why this method, where the length of the input chose it."""
    reason = (attribution.details or {}).get("method_by_default")
    return f", by default: {reason}" if reason else ""


def default_k(details: Mapping[str, Any] | None) -> str:
    """Why k is not the usual one, in parentheses; nothing where the caller chose it."""
    reason = (details or {}).get("default_k")
    return f" ({reason})" if reason else ""


def _kept_answer(attribution: Attribution) -> list[tuple[str, str]]:
    """That the answer was not generated in this run; nothing where it was."""
    kept = (attribution.details or {}).get("answer")
    return [("Answer", str(kept))] if kept else []


def _units_word(attribution: Attribution) -> str:
    """What the units are, as a plural; "units" where the record does not tell or the caller gave spans."""
    kind = (attribution.details or {}).get("unit", "spans")
    return "units" if kind == "spans" else f"units ({kind}s)"


def sufficient_facts(attribution: Attribution) -> list[tuple[str, str]]:
    """What a search for the smallest sufficient set tried; nothing if there was none."""
    record = (attribution.details or {}).get("until_pr")
    if record is None:
        return []
    tried = "; ".join(
        f"k = {step['k']}: PR {ratio_text(step['pr'])}" + (" (optimal)" if step["certificate"] == "optimal" else "")
        for step in record["tried"]
    )
    return [(f"Until PR < {record['pr']:g}", f"{'reached' if record['reached'] else 'not reached'}: {tried}")]
