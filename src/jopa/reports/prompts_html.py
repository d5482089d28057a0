"""Two prompts for people: both answers, what explains each, and what changed, side by side.

Runs no model; sees a PromptComparison only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jopa.reports.attribution_html import to_html
from jopa.reports.wording import NOTHING, Piece, environment, glossary_of, nats, ratio_text, unit_name, word_diff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jopa.results.attribution import Attribution
    from jopa.results.prompt_comparison import PromptComparison

NAMES = ("first prompt", "second prompt")
"""How every view calls the two."""
_LISTED = 6
"""Units that one list names at most."""


def prompts_html(
    prompts: PromptComparison, *, standalone: bool = True, styled: bool = True, title: str | None = None
) -> str:
    """Two prompts as a web page that needs nothing but itself.

    Args:
        prompts: what to show.
        standalone: a whole page, with the report of each prompt to unfold; otherwise a fragment without them.
        styled: with its style; False for a fragment on a page that has it.
        title: the page's heading; by default the page has no other than its question.
    """
    from markupsafe import Markup

    p = prompts
    said = prompts_verdict(p)
    parts = [
        (name, Markup(to_html(each, standalone=False, styled=False)))  # its template has escaped it
        for name, each in zip(NAMES, (p.first, p.second), strict=True)
        if standalone
    ]
    template = environment().get_template("prompts.html.j2")
    return template.render(
        standalone=standalone,
        styled=styled,
        title=title or "".join(piece.text for piece in said),
        heading=title,
        names=NAMES,
        verdict=said,
        asked=word_diff(p.first.prompt, p.second.prompt),
        answered=word_diff(p.first.output, p.second.output),
        nothing=NOTHING,
        rows=prompts_rows(p),
        alike=_settings_note(p),
        words=glossary_of("nats", "joint effect", "synergy", "PR"),
        parts=parts,
    )


def prompts_verdict(prompts: PromptComparison) -> list[Piece]:
    """What the change of the prompt changed, in a few sentences; names of units have mark 1."""
    p = prompts
    pieces = [Piece("Both prompts have the same answer." if p.same_output else "The answers differ.")]
    for start, texts in (
        (" Found for both: ", p.in_both),
        (" Only for the first: ", p.only_first),
        (" Only for the second: ", p.only_second),
    ):
        if texts:
            pieces += [Piece(start), *_named(texts), Piece(".")]
    return pieces


def prompts_rows(prompts: PromptComparison) -> list[tuple[str, str, str]]:
    """A term and its words for the first and for the second prompt, a row each."""
    each = [_facts(attribution) for attribution in (prompts.first, prompts.second)]
    return [(term, words, each[1][term]) for term, words in each[0].items()]


def _settings_note(prompts: PromptComparison) -> str:
    """Whether both were explained in the same way: the page lets a visitor change every setting between the two."""
    first, second = (_settings(attribution) for attribution in (prompts.first, prompts.second))
    differ = [name for name, value in first.items() if value != second[name]]
    return f"Not the same for both: {', '.join(differ)}." if differ else "The same model and options for both."


def _settings(attribution: Attribution) -> dict[str, object]:
    a, details = attribution, attribution.details or {}
    return {
        "model": a.model,
        "method and its settings": a.method,
        "removal": a.removal,
        "kind of unit": details.get("unit"),
        "k": None if "until_pr" in details else a.k,
        "value that PR is to fall below": (details.get("until_pr") or {}).get("pr"),
    }


def _facts(attribution: Attribution) -> dict[str, str]:
    a = attribution
    chosen = [
        f"“{unit_name(unit.text)}” {nats(effect, signed=True)}"
        for unit, effect in zip(a.chosen, a.individual, strict=True)
    ]
    return {
        "Units found, nats alone": ", ".join(chosen),
        "Joint effect": f"{nats(a.joint, signed=True)} nats",
        "Synergy": f"{nats(a.synergy, signed=True)} nats",
        "PR": ratio_text(a.probability_ratio),
        "Answer without them": " ".join(a.counterfactual_output.split()) or NOTHING,
        "log p(answer)": f"{nats(a.log_prob)} nats, {a.target[1] - a.target[0]} tokens",
        "Certificate": a.certificate,
        "Asked for": f"k = {a.k} of {len(a.units)} units, {a.method['name']}, {a.removal}",
    }


def _named(texts: Sequence[str]) -> list[Piece]:
    """Names of units as a list, of many the first."""
    pieces = []
    for number, text in enumerate(texts[:_LISTED]):
        pieces += [Piece(", “" if number else "“"), Piece(unit_name(text), 1), Piece("”")]
    return [*pieces, Piece(f" and {len(texts) - _LISTED} more")] if len(texts) > _LISTED else pieces
