"""A Verdict for people: score or order and its meaning, the prompt with its most surprising text marked, facts.

Runs no model; sees a Verdict only. No text of any answer is in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jopa.detection.calibration import Calibration
from jopa.detection.scoring import TUNED_FOR
from jopa.reports.in_place import in_place_of
from jopa.reports.wording import Piece, environment, glossary_of, made_with, nats, ratio_text, unit_name

if TYPE_CHECKING:
    from jopa.detection.verdict import Verdict
    from jopa.json_values import Record


def verdict_html(verdict: Verdict, *, standalone: bool = True, title: str | None = None) -> str:
    """A verdict as a web page that needs nothing but itself, or as a fragment for notebooks.

    Args:
        verdict: what to show.
        standalone: a whole page; otherwise a fragment for notebooks.
        title: the page's heading; by default the page has no other than its question.
    """
    value, what = score_or_order(verdict.score, verdict.order)
    said = [Piece("Score " if verdict.score is not None else "Order "), Piece(value, 2), Piece(f", {what}.")]
    if verdict.calibration is not None:
        said.append(Piece(" " + flag_words(verdict.calibration.to_dict(), verdict.flagged)))
    template = environment().get_template("hostility.html.j2")
    return template.render(
        standalone=standalone,
        title=title or "".join(piece.text for piece in said),
        heading=title,
        verdict=said,
        meaning=score_meaning(
            calibrated=verdict.calibrated,
            model=verdict.model.get("id"),
            calibration=None if verdict.calibration is None else verdict.calibration.to_dict(),
        ),
        prompt=_marked(verdict),
        facts=verdict_facts(verdict),
        in_place=in_place_of(verdict.prompt),
    )


def score_or_order(score: float | None, order: float) -> tuple[str, str]:
    """The number that a verdict shows, and what kind of number it is."""
    return (f"{order:.2f}", "an order and no probability") if score is None else (f"{score:.2f}", "from 0 to 1")


def flag_words(calibration: Record, flagged: bool | None) -> str:
    """Whether a prompt lies above the threshold of a calibration, in words."""
    return f"{'Flagged: above' if flagged else 'Not flagged: not above'} the threshold {calibration['threshold']:.2f}."


def score_meaning(
    *, calibrated: bool, model: str | None, calibration: Record | None = None, tuned_for: str = TUNED_FOR
) -> str:
    """What a score was tuned for, whether that holds for the model, and where the threshold comes from.

    Args:
        calibrated: whether the weights were fitted on this model.
        model: its id.
        calibration: the JSON form of the calibration that the prompt was judged by, if there is one.
        tuned_for: what the score finds.
    """
    said = f"The score was tuned for {tuned_for}."
    if not calibrated:
        said += (
            f" Its weights were not fitted on this model ({model}), so it gives an order and no probability: compare"
            " prompts under this model with one another"
        )
        said += "." if calibration else ", or set a threshold from harmless prompts of your own (--calibrate)."
    if calibration is not None:
        said += f" The threshold was {Calibration.from_dict(calibration, 'the calibration').statement}."
    return said


def verdict_facts(verdict: Verdict) -> list[tuple[str, str]]:
    """What the score is based on, as terms and plain words."""
    e, units = verdict.evidence, verdict.prompt.units
    start, end = verdict.span
    chosen = ", ".join(
        f"“{unit_name(units[i].text)}” ({nats(effect, signed=True)})"
        for i, effect in zip(e.units, e.individual, strict=True)
    )
    synergy = e.joint - math.fsum(e.individual)
    return [
        ("Answer", f"{e.answer.kind}; {e.answer.tokens} tokens measured, {nats(e.log_prob)} nats"),
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
