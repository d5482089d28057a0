"""A Diagnosis for people: what there is to show, and one HTML page (or a piece of a notebook) that shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jopa.reports.wording import REMOVAL_WORDS, Piece, environment, made_with, nats, ratio_text, unit_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jopa.diagnosis import Diagnosis


class Heat(NamedTuple):
    """A cell of a heat map: its value, its strength as a fraction of the largest, and whether the request drives it."""

    value: float
    strength: float
    peak: bool


def diagnosis_html(diagnosis: Diagnosis, *, standalone: bool = True) -> str:
    """A diagnosis as a web page that needs nothing but itself, or as a fragment for notebooks."""
    shown = diagnosis_verdict(diagnosis)
    return (
        environment()
        .get_template("diagnosis.html.j2")
        .render(
            standalone=standalone,
            title="".join(piece.text for piece in shown),
            verdict=shown,
            d=diagnosis,
            requests=requests(diagnosis),
            heat=heat(diagnosis),
            facts=diagnosis_facts(diagnosis),
        )
    )


def diagnosis_verdict(diagnosis: Diagnosis) -> list[Piece]:
    """What the answer makes of the requests, in a sentence or two; names of requests and sentences have mark 1.

    A request that is ignored as a whole may drive a sentence all the same; that is said apart.
    """
    d, together = diagnosis, diagnosis.ignored_ratio
    ignored = [f"R{i + 1}" for i in d.ignored]
    pieces: list[Piece] = []
    if not ignored:
        pieces.append(Piece(f"The answer ignores none of the {len(d.units)} requests."))
    elif together is not None and together < d.band[0]:
        pieces += [Piece("Without any one of "), *_listed(ignored), Piece(" the answer stays as likely; without all ")]
        pieces.append(Piece(f"of them it is less so (PR {ratio_text(together)}): some stand in for others."))
    else:
        pieces += [Piece("The answer ignores "), *_listed(ignored), Piece(f" of {len(d.units)} requests.")]
    driving = [(i in d.ignored, f"R{i + 1} drives S{part + 1}") for i, part in enumerate(d.drives) if part is not None]
    for lead, among_ignored in ((" ", False), (" Yet ", True)):
        words = [pair for is_ignored, pair in driving if is_ignored == among_ignored]
        pieces += [Piece(lead), *_listed(words), Piece(".")] if words else []
    return pieces if driving else [*pieces, Piece(" None drives a sentence.")]


def _listed(names: Sequence[str]) -> list[Piece]:
    """Names as a list in a sentence."""
    gaps = ["", *[", "] * (len(names) - 2), " and "][: len(names)]
    parts = (part for gap, name in zip(gaps, names, strict=True) for part in (Piece(gap), Piece(name, 1)))
    return [part for part in parts if part.text]


def requests(diagnosis: Diagnosis) -> tuple[list[str], list[list[str]]]:
    """The header and rows of the table of requests, the joint effect of all of them last."""
    d = diagnosis
    shares: Sequence[float | None] = d.shares or [None] * len(d.units)
    rows = [
        [
            f"R{i + 1}",
            unit.text.strip() or unit_name(unit.text),
            nats(d.individual[i], signed=True),
            _percent(shares[i]),
            ratio_text(d.ratios[i]),
            ", but ".join([*(["ignored"] if i in d.ignored else []), *_driven(d.drives[i])]) or "–",
        ]
        for i, unit in enumerate(d.units)
    ]
    synergy = d.synergy / d.joint if d.shares else None
    rows.append(["", "synergy", nats(d.synergy, signed=True), _percent(synergy), "", ""])
    whole = 1.0 if d.shares else None
    together = nats(d.joint, signed=True), _percent(whole), ratio_text(d.joint_ratio)
    rows.append(["", "all removed together", *together, ""])
    return ["#", "request", "nats", "share", "PR", "verdict"], rows


def _driven(part: int | None) -> list[str]:
    return [] if part is None else [f"drives S{part + 1}"]


def _percent(share: float | None) -> str:
    """A share for reading, with a true minus sign; a dash where there is none."""
    return "–" if share is None else f"{round(100 * share) + 0:,} %".replace("-", "−")


def heat(diagnosis: Diagnosis) -> list[list[Heat]]:
    """One row a sentence of the answer, one column a request: nats per token."""
    columns, most = diagnosis.per_token, max(abs(value) for row in diagnosis.per_token for value in row) or 1.0
    return [
        [Heat(column[part], abs(column[part]) / most, diagnosis.drives[i] == part) for i, column in enumerate(columns)]
        for part in range(len(diagnosis.parts))
    ]


def diagnosis_facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """How the diagnosis was made, as terms and plain words."""
    d, (low, high) = diagnosis, diagnosis.band
    together = d.ignored_ratio
    return [
        (
            "log p(output)",
            f"{nats(d.log_prob)} nats with the whole prompt, {nats(d.log_prob_removed)} without requests",
        ),
        ("Target", f"tokens {d.target[0]}:{d.target[1]} of the output's {len(d.output_ids)}"),
        ("Ignored", f"PR from {low:g} to {high:g} when the request is removed alone"),
        ("Ignored together", "fewer than two are ignored" if together is None else f"PR {ratio_text(together)}"),
        (
            "Share",
            "of the joint effect of all requests; with the synergy, shares make 100 %"
            if d.shares
            else "none: removing all requests does not bring PR below the band",
        ),
        ("Drives", f"the sentence that falls most per token without the request, by more than PR {low:g}"),
        ("Removal", f"{d.removal}: {REMOVAL_WORDS.get(d.removal, '')}"),
        ("Cost", f"{d.evaluations:,} evaluations, {d.ffe:,.1f} FFE, {d.seconds:,.1f} seconds"),
        *made_with(d.model, d.versions),
    ]
