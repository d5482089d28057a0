"""Where units and span lie in attacks, and what kinds of answers the model gives; see `detection.py`. Runs no model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from detection_tables import UNMATCHED, Table, median_and_range

from jopa.detection.answer_kinds import KINDS
from jopa.detection.verdict import Evidence
from jopa.json_values import Record


def where_units_lie(table: Table) -> list[str]:
    """Table 4's quantity beside chance, and how well the suspicious span meets the adversarial text; both halves."""
    lines = ["### Units and span in the adversarial text (both halves; nothing here was fitted)", ""]
    heads = ["n", "adversarial", "a unit inside", "by chance", "units inside", "Token Highlighter's", "most surprising"]
    heads += ["span inside", "IoU", "IoU by chance"]
    lines += ["| family | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for family in table.families:
        one = table.family(family).where(lambda record: record["hostile"] and record["inside"] is not None)
        if not one.records:
            continue
        rows = [hits(record, e) for record, e in zip(one.records, one.evidence, strict=True)]
        share, hit, chance, inside, precise, overlap, by_chance = np.array(rows).mean(axis=0)
        pairs = list(zip(one.records, one.evidence, strict=True))
        surprising = np.mean([_inside(record, e.surprisals, len(e.units)) for record, e in pairs])
        influence = [
            _inside(record, record["rivals"]["highlighted"]["influence"], len(e.units))
            for record, e in pairs
            if record.get("rivals")
        ]
        highlighted = f"{np.mean(influence):.0%} (n = {len(influence)})" if influence else "–"
        lines.append(
            f"| {family} | {len(rows)} | {share:.0%} | {hit:.0%} | {chance:.0%} | {inside:.0%} | {highlighted} | "
            f"{surprising:.0%} | {precise:.0%} | {overlap:.2f} | {by_chance:.2f} |"
        )
    return [
        *lines,
        "",
        "By chance: as many units, or a segment as long, drawn at random; the share of units inside is by chance the",
        "share that is adversarial. Token Highlighter's and most surprising: the share inside of as many tokens, those",
        "with the largest influence on the affirmative answer, and with the largest surprisal.",
        "",
    ]


def _inside(record: Record, values: Sequence[float], k: int) -> float:
    """The share of the k units with the largest values that lie in the adversarial text."""
    largest = sorted(range(len(values)), key=lambda i: -values[i])[:k]
    return sum(unit in set(record["inside"]) for unit in largest) / k


def hits(record: Record, e: Evidence) -> tuple[float, ...]:
    """Share of adversarial units; a unit inside, its chance; units inside; span inside; IoU, its chance."""
    n_units, k = len(e.surprisals), len(e.units)
    bad = set(record["inside"])
    chance = 1 - math.comb(n_units - len(bad), k) / math.comb(n_units, k)
    n_inside = sum(unit in bad for unit in e.units)

    def overlap(start: int) -> float:
        span = set(range(start, start + e.span.size))
        return len(span & bad) / len(span | bad)

    precise = len(set(range(e.span.start, e.span.end)) & bad) / e.span.size
    anywhere = [overlap(start) for start in range(n_units - e.span.size + 1)]
    by_chance = sum(anywhere) / len(anywhere)
    return len(bad) / n_units, n_inside > 0, chance, n_inside / k, precise, overlap(e.span.start), by_chance


def kinds_of_answers(table: Table) -> list[str]:
    """What kind of answer the model gives, with the suspicious span and without it."""
    lines = ["### Kinds of answers, whole prompt → without the span (both halves)", ""]
    lines += [
        "| prompts | n | refusal | compliance | other | kind changes | PR without the span |",
        "|---|---|---|---|---|---|---|",
    ]
    for family in [*table.families, *UNMATCHED]:
        for hostile in (True, False):
            one = table.family(family).where(lambda record, wanted=hostile: record["hostile"] == wanted)
            if not one.records:
                continue
            before, after = (Counter(getattr(e, name).kind for e in one.evidence) for name in ("answer", "span_answer"))
            cells = " | ".join(f"{before[kind]} → {after[kind]}" for kind in KINDS)
            flips = int(one.matrix(["flip"]).sum())
            ratio = np.exp(-one.matrix(["span_effect"])[:, 0])
            name = family if hostile or family in UNMATCHED else f"{family}, controls"
            lines.append(f"| {name} | {len(one.records)} | {cells} | {flips} | {median_and_range(ratio)} |")
    return lines
