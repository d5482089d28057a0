"""The numbers of the detection study made into weights and tables; runs no model. See `detection.py`."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from jopa.detection.calibration import clopper_pearson, set_threshold
from jopa.detection.scoring import BIAS, WEIGHTS
from jopa.detection.settings import DetectionConfig
from jopa.detection.verdict import Answer, Evidence, Segment, numbers
from jopa.errors import SettingError
from jopa.json_values import Record
from jopa.storage import read_lines

BENIGN = "JailbreakBench benign"
"""Short harmless prompts on the attacks' own subjects; matched to nothing."""
EVERYDAY = "everyday"
"""Prompts of Alpaca and tldr_news, of any length; matched to nothing."""
UNMATCHED = (BENIGN, EVERYDAY)
SEED = 7
PENALTY = 1.0
"""Of the squared weights (of numbers scaled to standard deviation 1) in the logistic regression."""
DRAWS = 2000
CANDIDATES = {
    "surprisal": ("surprisal", "window", "span_surprisal", "spread"),
    "joint": ("contiguity", "unit_effect", "unit_synergy", "span_effect"),
    "answer": ("confidence", "flip"),
    "refusal": ("refusal", "refusal_without_span"),
}
"""Groups of numbers that the score may be made of."""
SETS = [groups for n in range(1, len(CANDIDATES) + 1) for groups in combinations(CANDIDATES, n)]
RIVALS = {
    "Token Highlighter: willingness": ("highlighted", "affirmation"),
    "Token Highlighter: soft removal": ("highlighted", "effect"),
    "SmoothLLM: less likely answer": ("perturbed", "loss"),
    "SmoothLLM: other kind of answer": ("perturbed", "changed"),
}
"""Numbers of `jopa.detection.rivals`; by each paper an attack has the larger value."""


@dataclass(frozen=True)
class Table:
    """What was measured, and every number made of it.

    Attributes:
        records: as written, but a family's name leaves out the attacked model.
        evidence: of each record.
        numbers: of each record.
    """

    records: tuple[Record, ...]
    evidence: tuple[Evidence, ...]
    numbers: tuple[dict[str, float], ...]

    @staticmethod
    def read(folder: Path) -> Table:
        """Whole pairs only: an attack whose control is missing is left out, and the other way round."""
        records = read_lines(folder / "evidence.jsonl")
        attacks = {record["id"] for record in records if record["hostile"]}
        met = {record["pair"] for record in records if record["pair"] in attacks}
        rivals = {record["id"]: record for record in read_lines(folder / "rivals.jsonl")}
        kept: list[Record] = [
            record
            | {"family": record["family"].split(" (")[0], "rivals": rivals.get(record["id"])}  # of either target model
            for record in records
            if record["family"] in UNMATCHED or (record["id"] if record["hostile"] else record["pair"]) in met
        ]
        evidence = tuple(evidence_of(record["evidence"]) for record in kept)
        return Table(tuple(kept), evidence, tuple(map(numbers, evidence)))

    def of(self, half: str) -> Table:
        """One half."""
        return self.where(lambda record: record["half"] == half)

    def where(self, wanted: Callable[[Record], bool]) -> Table:
        """Some of the records."""
        rows = [i for i, record in enumerate(self.records) if wanted(record)]
        return Table(
            tuple(self.records[i] for i in rows),
            tuple(self.evidence[i] for i in rows),
            tuple(self.numbers[i] for i in rows),
        )

    def family(self, name: str | None) -> Table:
        """A family with its controls; None for all families without the unmatched harmless prompts."""
        return self.where(
            lambda record: record["family"] == name or (name is None and record["family"] not in UNMATCHED)
        )

    @property
    def families(self) -> list[str]:
        """The attack families, in the order met."""
        return [name for name in dict.fromkeys(record["family"] for record in self.records) if name not in UNMATCHED]

    @property
    def hostile(self) -> np.ndarray:
        """Which records are attacks."""
        return np.array([record["hostile"] for record in self.records], dtype=bool)

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """The numbers of these names, one record a row."""
        return np.array([[row[name] for name in names] for row in self.numbers]).reshape(len(self.records), len(names))

    def with_rivals(self) -> Table:
        """The records that have other defences' numbers."""
        return self.where(lambda record: record.get("rivals") is not None)

    def rival(self, part: str, name: str) -> np.ndarray:
        """A number of another defence, one a record."""
        return np.array([record["rivals"][part][name] for record in self.records])


def evidence_of(record: Record) -> Evidence:
    """Evidence as it was before it was written."""
    values: dict[str, Any] = {field.name: record[field.name] for field in fields(Evidence)}
    for name in ("surprisals", "units", "individual"):
        values[name] = tuple(record[name])
    for name, kind in (("span", Segment), ("answer", Answer), ("span_answer", Answer)):
        values[name] = kind(**record[name])
    return Evidence(**values)


def fitted(table: Table, names: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Bias and weights of a logistic regression on these numbers, in their own units."""
    from sklearn.linear_model import LogisticRegression

    matrix = table.matrix(names)
    mean, spread = matrix.mean(axis=0), matrix.std(axis=0) + 1e-9
    model = LogisticRegression(C=1 / PENALTY, class_weight="balanced").fit((matrix - mean) / spread, table.hostile)
    weights = model.coef_[0] / spread
    return float(model.intercept_[0] - weights @ mean), dict(zip(names, weights.tolist(), strict=True))


def scores(table: Table, bias: float, weights: Mapping[str, float]) -> np.ndarray:
    """The weighted sum of each record; a score's order without its squashing."""
    return bias + table.matrix(list(weights)) @ np.array(list(weights.values()))


def area(values: np.ndarray, hostile: np.ndarray) -> float:
    """ROC-AUC: how often an attack has the larger value than a harmless prompt, ties half."""
    ranks = values[hostile][:, None] - values[~hostile][None]
    return float(np.mean((ranks > 0) + 0.5 * (ranks == 0))) if ranks.size else float("nan")


def interval(values: np.ndarray, hostile: np.ndarray) -> tuple[float, float]:
    """95 % of the AUCs of resampled attacks and resampled harmless prompts."""
    random_ = np.random.default_rng(SEED)
    ones, zeros = np.flatnonzero(hostile), np.flatnonzero(~hostile)
    drawn = [np.concatenate([random_.choice(ones, len(ones)), random_.choice(zeros, len(zeros))]) for _ in range(DRAWS)]
    low, high = np.quantile([area(values[rows], hostile[rows]) for rows in drawn], [0.025, 0.975])
    return float(low), float(high)


def fitting(table: Table) -> list[str]:
    """How sets of numbers do on prompts that their weights were not fitted on, and the weights of each set."""
    lines = [
        f"Development half: {int(table.hostile.sum())} attacks, {int((~table.hostile).sum())} harmless prompts.",
        "AUC of each family by weights from the other families, and their mean; the families' mean AUC by weights from",
        "all other pairs of an attack and its control; the mean of the two means, which decides.",
        "",
        "| numbers | " + " | ".join(table.families) + " | unseen kind | unseen pair | mean |",
        "|---|" + "---|" * (len(table.families) + 3),
    ]
    for groups in SETS:
        names = [name for group in groups for name in CANDIDATES[group]]
        areas = [area(*left_out(table, table, family, names)) for family in table.families]
        unseen_kind, unseen_pair = float(np.mean(areas)), pairs_left_out(table, names)
        cells = (*areas, unseen_kind, unseen_pair, (unseen_kind + unseen_pair) / 2)
        lines.append(f"| {' + '.join(groups)} | " + " | ".join(f"{value:.2f}" for value in cells) + " |")
    for groups in SETS:
        bias, weights = fitted(table, [name for group in groups for name in CANDIDATES[group]])
        listed = ", ".join(f'"{name}": {weight:.3f}' for name, weight in weights.items())
        lines += ["", f"{' + '.join(groups)}: bias {bias:.3f}, {listed}"]
    return lines


def pairs_left_out(table: Table, names: Sequence[str]) -> float:
    """The mean over families of the AUC of scores by weights that know every pair but the one judged."""
    pair = np.array([record["id"] if record["hostile"] else record["pair"] or "" for record in table.records])
    values = np.zeros(len(pair))
    for one in sorted(set(pair.tolist()) - {""}):
        bias, weights = fitted(table.where(lambda record, one=one: one not in (record["id"], record["pair"])), names)
        values[pair == one] = scores(table, bias, weights)[pair == one]
    family = np.array([record["family"] for record in table.records])
    return float(np.mean([area(values[family == name], table.hostile[family == name]) for name in table.families]))


def left_out(learnt_on: Table, judged: Table, family: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a family by weights that know other families only, and which of it are attacks."""
    bias, weights = fitted(learnt_on.where(lambda record: record["family"] != family), names)
    one = judged.family(family)
    return scores(one, bias, weights), one.hostile


def reporting(table: Table) -> list[str]:
    """Everything that docs/detection.md shows, from the half that no coefficient was fitted on."""
    blind, development = table.of("blind"), table.of("development")
    return [
        *counts(table),
        *areas_by_family(development, blind),
        *other_defences(blind),
        *false_alarms(development, blind),
    ]


def counts(table: Table) -> list[str]:
    """How many of what."""
    lines = ["### Prompts", "", "| family | development, blind | tokens | tokens of controls | controls from |"]
    lines.append("|---|---|---|---|---|")
    for family in [*table.families, *UNMATCHED]:
        one = table.family(family)
        n = [
            len(half.records) if family in UNMATCHED else int(half.hostile.sum())
            for half in (one.of(name) for name in ("development", "blind"))
        ]
        tokens = one.matrix(["tokens"])[:, 0]
        sources = Counter(record["source"] for record in one.records if not record["hostile"])
        cells = [
            family,
            f"{n[0]}, {n[1]}",
            median_and_range(tokens[one.hostile]),
            median_and_range(tokens[~one.hostile]),
        ]
        cells.append(", ".join(f"{source} {count}" for source, count in sources.most_common()))
        lines.append(f"| {' | '.join(cells)} |")
    seconds = [e.seconds for e in table.evidence]
    work = [e.ffe for e in table.evidence]
    return [
        *lines,
        "",
        f"A prompt cost {median_and_range(work)} forwards of itself and {median_and_range(seconds)} s (median, range).",
        "",
    ]


def areas_by_family(development: Table, blind: Table) -> list[str]:
    """ROC-AUC on the blind half: the score, the score fitted without the family, and what it has to beat."""
    families = [*blind.families, None]
    lines = ["### ROC-AUC against harmless prompts, blind half (95 % bootstrap interval)", ""]
    lines += ["| | " + " | ".join(family or "all" for family in families) + " |", "|---|" + "---|" * len(families)]

    def row(label: str, value: Callable[[Table], np.ndarray], against: Callable[..., Table] = Table.family) -> str:
        cells = [auc_cell(value(one), one.hostile) for one in (against(blind, family) for family in families)]
        return f"| {label} | " + " | ".join(cells) + " |"

    def perplexity(one: Table) -> np.ndarray:
        return one.matrix(["surprisal"])[:, 0]

    def ours(one: Table) -> np.ndarray:
        return scores(one, BIAS, WEIGHTS)

    lines.append(row("**score**", ours))
    anew = fitted(development, list(WEIGHTS))
    lines.append(row("score, weights fitted anew on the development half", lambda one: scores(one, *anew)))
    unseen = [area(*left_out(development, blind, family, list(WEIGHTS))) for family in blind.families]
    lines.append("| score, this kind of attack unseen | " + " | ".join(f"{value:.2f}" for value in unseen) + " | – |")
    lines.append(row("length", lambda one: one.matrix(["tokens"])[:, 0]))
    lines.append(row("perplexity", perplexity))
    lines.append(row("random units", random_units))
    for label, against in (("no AQuA", against_other_sources), ("everyday prompts", against_everyday)):
        lines += [row(f"score, {label}", ours, against), row(f"perplexity, {label}", perplexity, against)]
    for group, names in CANDIDATES.items():
        bias, weights = fitted(development, names)
        lines.append(row(f"{group} numbers only", lambda one, b=bias, w=weights: scores(one, b, w)))
    for name in dict.fromkeys(name for names in CANDIDATES.values() for name in names):
        column = development.family(None)
        sign = 1 if area(column.matrix([name])[:, 0], column.hostile) >= 0.5 else -1
        label = f"`{name}`" if sign > 0 else f"−`{name}`"
        lines.append(row(label, lambda one, n=name, s=sign: s * one.matrix([n])[:, 0]))
    return [
        *lines,
        "",
        "Against the family's length-matched controls, unless a row says otherwise. A sign before a number is the one",
        "that the development half gives. No AQuA: against the controls of all families but few-shot AQuA, whatever",
        "their length. Everyday: against Alpaca and tldr_news prompts.",
        "",
    ]


def auc_cell(values: np.ndarray, hostile: np.ndarray) -> str:
    """The ROC-AUC with its interval, as a table shows it."""
    if not hostile.any() or hostile.all():
        return "–"
    low, high = interval(values, hostile)
    return f"{area(values, hostile):.2f} ({low:.2f}–{high:.2f})"


def other_defences(blind: Table) -> list[str]:
    """ROC-AUC of other papers' numbers beside the score, on the prompts that have them."""
    table = blind.with_rivals()
    families = [*table.families, None]
    if not families[:-1]:
        return []
    lines = ["### Other defences on the same prompts, blind half (95 % bootstrap interval)", ""]
    lines += ["| | " + " | ".join(family or "all" for family in families) + " |", "|---|" + "---|" * len(families)]
    ones = [table.family(family) for family in families]
    cells = [auc_cell(scores(one, BIAS, WEIGHTS), one.hostile) for one in ones]
    lines.append("| **score** | " + " | ".join(cells) + " |")
    for label, place in RIVALS.items():
        lines.append(f"| {label} | " + " | ".join(auc_cell(one.rival(*place), one.hostile) for one in ones) + " |")
    n = ", ".join(f"{family} {int(one.hostile.sum())}" for family, one in zip(families[:-1], ones, strict=False))
    return [*lines, "", f"Attacks, each with its control: {n}.", ""]


def against_other_sources(table: Table, family: str | None) -> Table:
    """A family's attacks, or all, and all families' controls that are no few-shot AQuA."""
    attacks = table.family(family)
    wanted = {record["id"] for record in attacks.records if record["hostile"]}
    return table.where(
        lambda record: record["id"] in wanted or (record["pair"] is not None and record["source"] != "aqua")
    )


def against_everyday(table: Table, family: str | None) -> Table:
    """A family's attacks, or all, and everyday prompts."""
    attacks = table.family(family)
    wanted = {record["id"] for record in attacks.records if record["hostile"]}
    return table.where(lambda record: record["id"] in wanted or record["family"] == EVERYDAY)


def random_units(table: Table) -> np.ndarray:
    """Surprisal, less the prompt's mean, of as many units as were attributed, drawn at random."""
    values = []
    for record, e in zip(table.records, table.evidence, strict=True):
        drawn = random.Random(f"{SEED} {record['id']}").sample(range(len(e.surprisals)), len(e.units))
        values.append(sum(e.surprisals[unit] for unit in drawn) / len(drawn) - sum(e.surprisals) / len(e.surprisals))
    return np.array(values)


def false_alarms(development: Table, blind: Table) -> list[str]:
    """False alarms at the threshold that finds 90 % of attacks; attacks found at thresholds from harmless prompts."""
    short, daily = blind.family(BENIGN), blind.family(EVERYDAY)
    lines = ["### False alarms at 90 % detection, blind half", ""]
    lines += [
        f"| family | length-matched | all controls | {BENIGN} | everyday | perplexity, length-matched |",
        "|---|---|---|---|---|---|",
    ]

    def rate(found: np.ndarray, alarms: np.ndarray) -> str:
        threshold = np.sort(found)[::-1][math.ceil(0.9 * len(found)) - 1]
        return f"{int((alarms >= threshold).sum())} of {len(alarms)}"

    def ours(one: Table) -> np.ndarray:
        return scores(one, BIAS, WEIGHTS)

    everyone = blind.family(None)
    for family in [*blind.families, None]:
        one = blind.family(family)
        found, perplexity = ours(one)[one.hostile], one.matrix(["surprisal"])[:, 0]
        harmless = [ours(one)[~one.hostile], ours(everyone)[~everyone.hostile], ours(short), ours(daily)]
        cells = [rate(found, values) for values in harmless]
        cells.append(rate(perplexity[one.hostile], perplexity[~one.hostile]))
        lines.append(f"| {family or 'all'} | " + " | ".join(cells) + " |")
    lines += ["", *_at_thresholds(development, blind)]
    return lines


def _at_thresholds(development: Table, blind: Table) -> list[str]:
    """What is flagged in the blind half at score 0.5 and at thresholds set as `jopa detect --calibrate` sets them."""
    everyday = scores(development.family(EVERYDAY), BIAS, WEIGHTS).tolist()
    thresholds = {"score 0.5": 0.0}
    with suppress(SettingError):  # too few everyday prompts were measured
        found = set_threshold(everyday, rate=0.1, model={}, config=DetectionConfig())
        thresholds[f"10 % of {len(everyday)} everyday prompts of the development half"] = found.threshold
    lines = ["| threshold | attacks found | length-matched | " + " | ".join(UNMATCHED) + " |", "|---|---|---|---|---|"]
    for label, threshold in thresholds.items():
        matched = blind.family(None)
        above = scores(matched, BIAS, WEIGHTS) > threshold
        parts = [above[matched.hostile], above[~matched.hostile]]
        parts += [scores(blind.family(name), BIAS, WEIGHTS) > threshold for name in UNMATCHED]
        cells = [f"{int(part.sum())} of {len(part)} ({_exact(part)})" for part in parts]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return [*lines, "", "In brackets the 95 % Clopper–Pearson interval.", ""]


def _exact(flags: np.ndarray) -> str:
    low, high = clopper_pearson(int(flags.sum()), len(flags)) if len(flags) else (0.0, 1.0)
    return f"{low:.0%}–{high:.0%}"


def median_and_range(values: Sequence[float] | np.ndarray) -> str:
    """Median and range."""
    if not len(values):
        return "–"
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    digits = 0 if middle >= 10 else 2
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"
