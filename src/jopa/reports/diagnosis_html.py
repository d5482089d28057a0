"""A Diagnosis for people: what there is to show, and one HTML page (or a piece of a notebook) that shows it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from jopa.reports.in_place import in_place
from jopa.reports.wording import (
    REMOVAL_WORDS,
    Piece,
    environment,
    glossary_of,
    made_with,
    nats,
    ratio_text,
    unit_name,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jopa.diagnosis.result import Diagnosis


_NAMED = 4
"""Units or sentences that a list of the verdict names at most."""
_WIDTH = 24
"""Characters of a text that stand beside its code."""
NO_INFLUENCE = "no measurable influence on this answer"
NONE_ON_THE_WHOLE = "no measurable influence on the whole of it"
"""Of a unit that drives a sentence all the same."""


class HeatCell(NamedTuple):
    """A cell of a heat map.

    Its value, its strength as a fraction of the largest, and the unit's rank among those that drive the sentence, or 0.
    """

    value: float
    strength: float
    rank: int


def diagnosis_html(diagnosis: Diagnosis, *, standalone: bool = True, title: str | None = None) -> str:
    """A diagnosis as a web page that needs nothing but itself, or as a fragment for notebooks.

    Args:
        diagnosis: what to show.
        standalone: a whole page; otherwise a fragment for notebooks.
        title: the page's heading; by default the page has no other than its question.
    """
    shown = diagnosis_verdict(diagnosis)
    return (
        environment()
        .get_template("diagnosis.html.j2")
        .render(
            standalone=standalone,
            title=title or "".join(piece.text for piece in shown),
            heading=title,
            in_place=in_place(diagnosis),
            verdict=shown,
            d=diagnosis,
            requests=requests(diagnosis),
            heat=heat(diagnosis),
            labels=[label(diagnosis, i) for i in range(len(diagnosis.units))],
            titles=[unit_title(diagnosis, i) for i in range(len(diagnosis.units))],
            facts=diagnosis_facts(diagnosis),
        )
    )


def label(diagnosis: Diagnosis, unit: int) -> str:
    """The code of a unit: R for a request, U for any other; the numbers count all units."""
    return f"{'R' if unit in diagnosis.requests else 'U'}{unit + 1}"


def unit_title(diagnosis: Diagnosis, unit: int) -> str:
    """The code of a unit with the beginning of its text."""
    return f"{label(diagnosis, unit)} “{unit_name(diagnosis.units[unit].text, _WIDTH)}”"


def part_title(diagnosis: Diagnosis, part: int) -> str:
    """The code of a sentence of the answer with the beginning of its text."""
    return f"S{part + 1} “{unit_name(diagnosis.parts[part].text, _WIDTH)}”"


def diagnosis_verdict(diagnosis: Diagnosis) -> list[Piece]:
    """What was measured of the requests, in a few sentences; names of units and sentences have mark 1.

    A request may have no measurable influence on the whole answer and drive a sentence of it all the same.
    """
    d = diagnosis
    silent = [i for i in d.without_influence if i in d.requests]
    guess = "" if d.requests_given else " (guessed)"
    pieces: list[Piece] = []
    if not silent:
        every = "The only request" if len(d.requests) == 1 else f"Each of the {len(d.requests)} requests"
        pieces.append(Piece(f"{every}{guess} has a measurable influence on this answer."))
    else:
        names = [unit_title(d, i) for i in silent]
        pieces += [*_listed(names), Piece(f" {'has' if len(names) == 1 else 'have'} {NO_INFLUENCE}")]
        pieces.append(Piece(f" ({len(names)} of {len(d.requests)} requests{', guessed' if guess else ''})."))
    if d.cut_off:
        pieces.append(Piece(f" The answer was cut off at its limit of {len(d.output_ids)} tokens: what it had not"))
        pieces.append(Piece(" reached yet cannot be seen in it."))
    if d.interaction:
        ratio = ratio_text(d.together_ratio or 0.0)
        words = "some are redundant" if d.interaction > 0 else "they counteract one another"
        pieces.append(
            Piece(f" All {len(d.without_influence)} units without influence removed at once give PR {ratio},")
        )
        more = "less" if d.interaction > 0 else "more"
        pieces.append(Piece(f" {more} than their single effects add up to: {words}."))
    driving = [
        f"{unit_title(d, units[0])} drives {part_title(d, part)}" for part, units in enumerate(d.drivers) if units
    ]
    return (
        [*pieces, Piece(" "), *_listed(driving), Piece(".")]
        if driving
        else [*pieces, Piece(" No unit drives a sentence.")]
    )


def _listed(names: Sequence[str]) -> list[Piece]:
    """Names as a list in a sentence; of many, the first."""
    shown = names if len(names) <= _NAMED else [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
    gaps = ["", *[", "] * (len(shown) - 2), " and "][: len(shown)]
    parts = (part for gap, name in zip(gaps, shown, strict=True) for part in (Piece(gap), Piece(name, 1)))
    return [part for part in parts if part.text]


def _findings_of(d: Diagnosis, unit: int) -> str:
    """What the table says of a unit."""
    driven = list(_driven_sentences(d, unit))
    silent = [NONE_ON_THE_WHOLE if driven else NO_INFLUENCE] if unit in d.without_influence else []
    return "; ".join([*driven, *silent]) or "–"


def requests(diagnosis: Diagnosis) -> tuple[list[str], list[list[str]]]:
    """The header and rows of the table of units, the joint effect of all of them last."""
    d = diagnosis
    shares: Sequence[float | None] = d.shares or [None] * len(d.units)
    rows = [
        [
            label(d, i),
            unit.text.strip() or unit_name(unit.text),
            nats(d.individual[i], signed=True),
            _percent(shares[i]),
            ratio_text(d.ratios[i]),
            _findings_of(d, i),
        ]
        for i, unit in enumerate(d.units)
    ]
    synergy = d.synergy / d.joint if d.shares else None
    rows.append(["", "synergy", nats(d.synergy, signed=True), _percent(synergy), "", ""])
    whole = 1.0 if d.shares else None
    together = nats(d.joint, signed=True), _percent(whole), ratio_text(d.joint_ratio)
    rows.append(["", "all removed together", *together, ""])
    return ["#", "unit", "nats", "share", "PR", "what was measured"], rows


def _driven_sentences(diagnosis: Diagnosis, unit: int) -> list[str]:
    """The sentences that a unit drives, with how much each falls per token."""
    row = diagnosis.per_token[unit]
    named = [
        f"{part_title(diagnosis, part)} ({nats(row[part], signed=True)})" for part in diagnosis.drives[unit][:_NAMED]
    ]
    more = len(diagnosis.drives[unit]) - len(named)
    return [f"drives {', '.join(named)}" + (f" and {more} more" if more else "")] if named else []


def _percent(share: float | None) -> str:
    """A share for reading, with a true minus sign; a dash where there is none that a number can say."""
    return "–" if share is None or not math.isfinite(100 * share) else f"{round(100 * share) + 0:,} %".replace("-", "−")


def heat(diagnosis: Diagnosis) -> list[list[HeatCell]]:
    """One row a sentence of the answer, one column a request: nats per token."""
    columns, drivers = diagnosis.per_token, diagnosis.drivers
    most = max(abs(value) for column in columns for value in column) or 1.0
    return [
        [
            HeatCell(column[part], abs(column[part]) / most, units.index(i) + 1 if i in units else 0)
            for i, column in enumerate(columns)
        ]
        for part, units in enumerate(drivers)
    ]


def diagnosis_facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """How the diagnosis was made, as terms and plain words."""
    d, (low, high) = diagnosis, diagnosis.band
    single = sum(d.individual[i] for i in d.without_influence)
    marked = "".join(piece.text for piece in _listed([unit_title(d, i) for i in d.requests]))
    together: list[tuple[str, str]] = []
    if d.together is not None:
        measured = f"{nats(d.together, signed=True)} nats, PR {ratio_text(d.together_ratio or 0.0)}"
        together = [("These at once", f"{measured}; their single effects add up to {nats(single, signed=True)} nats")]
    return [
        (
            "log p(output)",
            f"{nats(d.log_prob)} nats with the whole prompt, {nats(d.log_prob_removed)} without all units",
        ),
        (
            "Answer",
            f"cut off at its limit of {len(d.output_ids)} tokens"
            if d.cut_off
            else f"{len(d.output_ids)} tokens, not cut off by a limit of this run",
        ),
        ("Target", f"tokens {d.target[0]}:{d.target[1]} of the output's {len(d.output_ids)}"),
        (
            "Requests",
            f"{len(d.requests)} of {len(d.units)} units, "
            + ("as given" if d.requests_given else "guessed from their words")
            + f": {marked}",
        ),
        ("No influence", f"PR from {low:g} to {high:g} when the unit is removed alone; of this answer only"),
        *together,
        (
            "Share",
            "of the joint effect of all units; with the synergy, shares make 100 %"
            if d.shares
            else "none: removing all units does not bring PR below the band",
        ),
        (
            "Drives",
            f"sentences that fall by {d.drive_threshold[0]:g} nats a token or more without the unit, "
            f"and by {d.drive_threshold[1]:.0%} of their largest fall; ranked within each sentence",
        ),
        ("Removal", f"{d.removal}: {REMOVAL_WORDS.get(d.removal, '')}"),
        ("Cost", f"{d.evaluations:,} evaluations, {d.ffe:,.1f} FFE, {d.seconds:,.1f} seconds"),
        *made_with(d.model, d.versions),
        *glossary_of("nats", "PR", "synergy", "FFE"),
    ]
