"""A Verdict for people: the score and what it was tuned for, the prompt with its most surprising text marked, facts.

Runs no model; sees a Verdict only. No text of any answer is in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jopa.detection.scoring import TUNED_FOR
from jopa.reports.in_place import in_place_of
from jopa.reports.wording import Piece, environment, glossary_of, made_with, nats, ratio_text, unit_name

if TYPE_CHECKING:
    from jopa.detection.verdict import Verdict


def verdict_html(verdict: Verdict, *, standalone: bool = True, title: str | None = None) -> str:
    """A verdict as a web page that needs nothing but itself, or as a fragment for notebooks.

    Args:
        verdict: what to show.
        standalone: a whole page; otherwise a fragment for notebooks.
        title: the page's heading; by default the page has no other than its question.
    """
    said = [Piece("Score "), Piece(f"{verdict.score:.2f}", 2), Piece(" from 0 to 1.")]
    template = environment().get_template("hostility.html.j2")
    return template.render(
        standalone=standalone,
        title=title or "".join(piece.text for piece in said),
        heading=title,
        verdict=said,
        meaning=score_meaning(calibrated=verdict.calibrated, model=verdict.model.get("id")),
        prompt=_marked(verdict),
        facts=verdict_facts(verdict),
        in_place=in_place_of(verdict.prompt),
    )


def score_meaning(*, calibrated: bool, model: str | None, tuned_for: str = TUNED_FOR) -> str:
    """What a score was tuned for, and whether that holds for the model."""
    said = f"The score was tuned for {tuned_for}."
    return said if calibrated else f"{said} Uncalibrated: its weights were not fitted on this model ({model})."


def verdict_facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What the score rests on, as terms and plain words."""
    e, units = verdict.evidence, verdict.prompt.units
    start, end = verdict.span
    chosen = ", ".join(
        f"“{unit_name(units[i].text)}” ({nats(effect, signed=True)})"
        for i, effect in zip(e.units, e.individual, strict=True)
    )
    synergy = e.joint - math.fsum(e.individual)
    return [
        ("Answer", f"{e.answer.kind}; {e.answer.tokens} tokens looked at, {nats(e.log_prob)} nats"),
        (
            "Caused by",
            f"{chosen}; together {nats(e.joint, signed=True)} nats, synergy {nats(synergy, signed=True)}",
        ),
        ("Most surprising text", f"characters {start} to {end}: “{unit_name(verdict.prompt.text[start:end], 200)}”"),
        ("Without it", f"{e.span_answer.kind}; PR {ratio_text(verdict.span_ratio)}"),
        ("Surprisal", f"{math.fsum(e.surprisals) / len(e.surprisals):.2f} nats a token"),
        ("Cost", f"{e.ffe:,.1f} FFE, {e.seconds:,.1f} seconds"),
        *made_with(verdict.model, verdict.versions),
        *glossary_of("nats", "synergy", "PR", "FFE"),
    ]


def _marked(verdict: Verdict) -> list[Piece]:
    """The prompt with its most surprising text marked."""
    text, (start, end) = verdict.prompt.text, verdict.span
    return [piece for piece in (Piece(text[:start]), Piece(text[start:end], 1), Piece(text[end:])) if piece.text]
