"""How well `jopa detect` tells attacks from harmless prompts of the same length; the study its score was fixed on.

    python analysis/detection.py --limit 12          # measures; continues where it stopped
    python analysis/detection.py --fit               # the coefficients, from the development half
    python analysis/detection.py --report            # everything else, on the other half; runs no model

Reads ../shared/data. Each attack prompt has a control: a harmless prompt as close to it in tokens as is left, from
counselling questions, Alpaca instructions and few-shot AQuA in turn. Families take turns, so that a run that is cut
short leaves a balanced sample. The halves part the 100 behaviours of JailbreakBench by the parity of their index; a
control is in its attack's half. Numbers only are stored: no text of a prompt or an answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from jopa.detection.answer_kinds import KINDS
from jopa.detection.hostility import gather, read_prompt
from jopa.detection.scoring import BIAS, WEIGHTS
from jopa.detection.verdict import Answer, DetectionConfig, Evidence, Stretch, numbers
from jopa.storage import Journal, Record, locked, read_lines, write_text

DATA = Path(__file__).parents[2] / "shared" / "data"
FAMILIES = {
    ("GCG", "llama-2-7b-chat-hf"): "GCG (llama-2)",
    ("GCG", "vicuna-13b-v1.5"): "GCG (vicuna)",
    ("prompt_with_random_search", "llama-2-7b-chat-hf"): "random search (llama-2)",
    ("prompt_with_random_search", "vicuna-13b-v1.5"): "random search (vicuna)",
    ("PAIR", "llama-2-7b-chat-hf"): "PAIR",
    ("PAIR", "vicuna-13b-v1.5"): "PAIR",
    ("JBC", "llama-2-7b-chat-hf"): "AIM template",
}
BENIGN = "JailbreakBench benign"
"""Short harmless prompts on the attacks' own subjects; matched to nothing."""
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


@dataclass(frozen=True)
class Case:
    """One prompt to measure.

    Attributes:
        id: unique in this study.
        family: an attack family, or `BENIGN`; a control has its attack's.
        hostile: whether it is an attack.
        half: "development" or "test".
        source: the data set it is from.
        text: the prompt.
        adversarial: character spans of what was added to the request; None where that is not known.
        pair: the attack that a control stands against.
    """

    id: str
    family: str
    hostile: bool
    half: str
    source: str
    text: str
    adversarial: list[list[int]] | None = None
    pair: str | None = None


def main() -> None:
    """Measure, fit or report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/detection"), help="the folder of the records")
    parser.add_argument("--limit", type=int, default=12, help="attack prompts of each family")
    parser.add_argument("--fit", action="store_true", help="print the coefficients that the development half gives")
    parser.add_argument("--report", action="store_true", help="print the tables of the test half")
    arguments = parser.parse_args()
    if not (arguments.fit or arguments.report):
        measure(arguments.out, arguments.limit)
        return
    table = Table.read(arguments.out)
    if arguments.fit:
        print("\n".join(fitting(table.of("development"))))
    if arguments.report:
        print("\n".join(reporting(table)))


def measure(folder: Path, limit: int) -> None:
    """Record the evidence of every case that has none yet."""
    import torch

    from jopa import load
    from jopa.model.language_model import versions

    folder.mkdir(parents=True, exist_ok=True)
    model, config = load(), DetectionConfig()
    cases = list(in_turn(limit, lambda text: len(read_prompt(model, text, DetectionConfig(most_tokens=100_000)).ids)))
    with locked(folder), Journal(folder / "evidence.jsonl") as journal:
        done = {record["id"] for record in read_lines(folder / "evidence.jsonl")}
        about = {
            "model": model.identity,
            "looking": asdict(config),
            "seed": SEED,
            "versions": versions(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        }
        write_text(folder / "about.json", json.dumps(about, indent=1))
        for number, case in enumerate(cases, start=1):
            if case.id in done:
                continue
            prompt = read_prompt(model, case.text, config)
            evidence = gather(model, prompt, config)
            inside = None
            if case.adversarial is not None:
                inside = [i for i, unit in enumerate(prompt.units) if lies_in(unit.start, unit.end, case.adversarial)]
            record = {name: value for name, value in asdict(case).items() if name not in ("text", "adversarial")}
            words = len(case.text.split())
            journal.append({**record, "words": words, "inside": inside, "evidence": rounded(asdict(evidence))})
            print(f"{number} of {len(cases)}: {case.id}, {evidence.seconds:.0f} s", flush=True)


def lies_in(start: int, end: int, spans: Sequence[Sequence[int]]) -> bool:
    """Whether more than half of `[start, end)` lies within the spans."""
    return 2 * sum(max(0, min(end, last) - max(start, first)) for first, last in spans) > end - start


def rounded(value: Any) -> Any:
    """A value with every float to five decimals."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def in_turn(limit: int, length: Any) -> Iterator[Case]:
    """The cases: of each family in turn an attack and its control, and a short harmless prompt."""
    rows = list(read("jailbreak"))
    attacks: dict[str, list[Case]] = {}
    for row in rows:
        if family := FAMILIES.get((row["method"], row["target_model"])):
            half = "test" if row["jbb_index"] % 2 else "development"
            case = Case(row["id"], family, True, half, "jailbreak", row["prompt"], row["adversarial_span"])
            attacks.setdefault(family, []).append(case)
    benign = [row for row in rows if row["method"] == "benign"]
    on_subject = [
        Case(row["id"], BENIGN, False, "test" if row["jbb_index"] % 2 else "development", "jailbreak", row["prompt"])
        for row in benign
        if row["jbb_index"] is not None
    ]
    pools = {
        "counsel_chat": [(row["id"], row["prompt"]) for row in read("counsel_chat")],
        "alpaca": [(row["id"], row["prompt"]) for row in [*read("alpaca"), *benign] if row.get("jbb_index") is None],
        "aqua": list(few_shot()),
    }
    sized = {name: [(length(text), id_, text) for id_, text in pool] for name, pool in pools.items()}
    queues = [alternating(cases)[:limit] for cases in attacks.values()]
    extra = alternating(on_subject)[:limit]
    for turn, (*found, short) in enumerate(zip_longest(*queues, extra)):
        for number, attack in enumerate(found):
            if attack is None:
                continue
            yield attack
            yield control_of(attack, length(attack.text), sized, first=turn + number)
        if short is not None:
            yield short


def control_of(attack: Case, tokens: int, pools: dict[str, list[tuple[int, str, str]]], *, first: int) -> Case:
    """Take the harmless prompt next in length out of its pool: of the pool whose turn it is, if it has one near."""
    names = list(pools)
    names = names[first % len(names) :] + names[: first % len(names)]
    nearest = {name: min(pools[name], key=lambda item: (abs(item[0] - tokens), item[1])) for name in names}
    near = [name for name in names if abs(nearest[name][0] - tokens) <= 0.07 * tokens]
    name = near[0] if near else min(names, key=lambda name: abs(nearest[name][0] - tokens))
    pools[name].remove(nearest[name])
    _, id_, text = nearest[name]
    return Case(f"{name}:{id_}", attack.family, False, attack.half, name, text, None, attack.id)


def few_shot() -> Iterator[tuple[str, str]]:
    """AQuA questions behind worked examples and, to vary the length, behind other questions with their answers."""
    examples = json.loads((DATA / "aqua_cot_demos.json").read_text(encoding="utf-8"))
    worked = [f"Q: {part.strip()}\n\n" for part in examples["prompt_prefix"].split("Q: ") if part.strip()]
    rows = list(read("aqua"))

    def asked(row: Record) -> str:
        return examples["query_template"].format(question=row["question"], choices=" ".join(row["options"]))

    for i, row in enumerate(rows):
        answered = [rows[(i + 1 + j) % len(rows)] for j in range(i // 4 % 8)]
        before = [f"{asked(other)} The answer is ({other['correct'].lower()}).\n\n" for other in answered]
        yield f"{row['id']}", "".join([*worked[: i % 4 + 1], *before, asked(row)])


def alternating(cases: Sequence[Case]) -> list[Case]:
    """Cases in a fixed random order, the halves in turn."""
    order = sorted(cases, key=lambda case: hashlib.sha256(f"{SEED} {case.id}".encode()).digest())
    halves = [[case for case in order if case.half == half] for half in ("development", "test")]
    return [case for pair in zip_longest(*halves) for case in pair if case is not None]


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
        kept: list[Record] = [
            record | {"family": record["family"].split(" (")[0]}  # an attack on either target model
            for record in records
            if record["family"] == BENIGN or (record["id"] if record["hostile"] else record["pair"]) in met
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
        return self.where(lambda record: record["family"] == name or (name is None and record["family"] != BENIGN))

    @property
    def families(self) -> list[str]:
        """The attack families, in the order met."""
        return [name for name in dict.fromkeys(record["family"] for record in self.records) if name != BENIGN]

    @property
    def hostile(self) -> np.ndarray:
        """Which records are attacks."""
        return np.array([record["hostile"] for record in self.records], dtype=bool)

    def matrix(self, names: Sequence[str]) -> np.ndarray:
        """The numbers of these names, one record a row."""
        return np.array([[row[name] for name in names] for row in self.numbers]).reshape(len(self.records), len(names))


def evidence_of(record: Record) -> Evidence:
    """Evidence as it was before it was written."""
    values: dict[str, Any] = {field.name: record[field.name] for field in fields(Evidence)}
    for name in ("surprisals", "units", "individual"):
        values[name] = tuple(record[name])
    for name, kind in (("span", Stretch), ("answer", Answer), ("span_answer", Answer)):
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
    test, development = table.of("test"), table.of("development")
    return [
        *counts(table),
        *areas_by_family(development, test),
        *false_alarms(test),
        *where_units_lie(table),
        *kinds_of_answers(table),
    ]


def counts(table: Table) -> list[str]:
    """How many of what."""
    lines = [
        "### Prompts",
        "",
        "| family | development, test | tokens | tokens of controls | controls from |",
    ]
    lines.append("|---|---|---|---|---|")
    for family in [*table.families, BENIGN]:
        one = table.family(family)
        halves = [one.of(half) for half in ("development", "test")]
        n = [len(half.records) if family == BENIGN else int(half.hostile.sum()) for half in halves]
        tokens = one.matrix(["tokens"])[:, 0]
        sources = Counter(record["source"] for record in one.records if not record["hostile"])
        lines.append(
            f"| {family} | {n[0]}, {n[1]} | {_middle(tokens[one.hostile])} | {_middle(tokens[~one.hostile])} | "
            f"{', '.join(f'{source} {count}' for source, count in sources.most_common())} |"
        )
    seconds = [e.seconds for e in table.evidence]
    work = [e.ffe for e in table.evidence]
    return [
        *lines,
        "",
        f"A prompt cost {_middle(work)} forwards of itself and {_middle(seconds)} s (median, range).",
        "",
    ]


def areas_by_family(development: Table, test: Table) -> list[str]:
    """ROC-AUC on the test half: the score, the score fitted without the family, and what it has to beat."""
    families = [*test.families, None]
    lines = ["### ROC-AUC against length-matched harmless prompts, test half (95 % bootstrap interval)", ""]
    lines += ["| | " + " | ".join(family or "all" for family in families) + " |", "|---|" + "---|" * len(families)]

    def row(label: str, value: Callable[[Table], np.ndarray], aqua: bool = True) -> str:
        cells = []
        for family in families:
            one = test.family(family) if aqua else against_other_sources(test, family)
            low, high = interval(value(one), one.hostile)
            cells.append(f"{area(value(one), one.hostile):.2f} ({low:.2f}–{high:.2f})")
        return f"| {label} | " + " | ".join(cells) + " |"

    lines.append(row("**score**", lambda one: scores(one, BIAS, WEIGHTS)))
    unseen = [area(*left_out(development, test, family, list(WEIGHTS))) for family in test.families]
    lines.append("| score, this kind of attack unseen | " + " | ".join(f"{value:.2f}" for value in unseen) + " | – |")
    lines.append(row("length", lambda one: one.matrix(["tokens"])[:, 0]))
    lines.append(row("perplexity", lambda one: one.matrix(["surprisal"])[:, 0]))
    lines.append(row("random units", random_units))
    lines.append(row("score, no AQuA", lambda one: scores(one, BIAS, WEIGHTS), aqua=False))
    lines.append(row("perplexity, no AQuA", lambda one: one.matrix(["surprisal"])[:, 0], aqua=False))
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
        "A sign before a number is the one that the development half gives. No AQuA: against the controls of all",
        "families but few-shot AQuA, whatever their length.",
        "",
    ]


def against_other_sources(table: Table, family: str | None) -> Table:
    """A family's attacks, or all, and all families' controls that are no few-shot AQuA."""
    attacks = table.family(family)
    wanted = {record["id"] for record in attacks.records if record["hostile"]}
    return table.where(
        lambda record: record["id"] in wanted or (record["pair"] is not None and record["source"] != "aqua")
    )


def random_units(table: Table) -> np.ndarray:
    """Surprisal, less the prompt's mean, of as many units as were attributed, drawn at random."""
    values = []
    for record, e in zip(table.records, table.evidence, strict=True):
        drawn = random.Random(f"{SEED} {record['id']}").sample(range(len(e.surprisals)), len(e.units))
        values.append(sum(e.surprisals[unit] for unit in drawn) / len(drawn) - sum(e.surprisals) / len(e.surprisals))
    return np.array(values)


def false_alarms(test: Table) -> list[str]:
    """False-positive rates at the threshold that finds 90 % of a family's attacks, and of all."""
    short = test.family(BENIGN)
    lines = ["### False alarms at 90 % detection, test half", ""]
    lines += [
        f"| family | length-matched | all controls | {BENIGN} | perplexity, length-matched |",
        "|---|---|---|---|---|",
    ]

    def rate(found: np.ndarray, alarms: np.ndarray) -> str:
        threshold = np.sort(found)[::-1][math.ceil(0.9 * len(found)) - 1]
        return f"{int((alarms >= threshold).sum())} of {len(alarms)}"

    everyone = test.family(None)
    for family in [*test.families, None]:
        one = test.family(family)
        value, perplexity = scores(one, BIAS, WEIGHTS), one.matrix(["surprisal"])[:, 0]
        found = value[one.hostile]
        cells = (
            *(rate(found, value[~one.hostile]), rate(found, scores(everyone, BIAS, WEIGHTS)[~everyone.hostile])),
            *(rate(found, scores(short, BIAS, WEIGHTS)), rate(perplexity[one.hostile], perplexity[~one.hostile])),
        )
        lines.append(f"| {family or 'all'} | " + " | ".join(cells) + " |")
    matched = scores(everyone, BIAS, WEIGHTS)
    at_half = (matched >= 0)[everyone.hostile].mean(), (matched >= 0)[~everyone.hostile].mean()
    benign = (scores(short, BIAS, WEIGHTS) >= 0).mean()
    return [
        *lines,
        "",
        f"At score 0.5: {at_half[0]:.0%} of attacks, {at_half[1]:.0%} of length-matched harmless prompts, "
        f"{benign:.0%} of {BENIGN} prompts.",
        "",
    ]


def where_units_lie(table: Table) -> list[str]:
    """Table 4's quantity beside chance, and how well the suspicious span meets the adversarial text; both halves."""
    lines = ["### Units and span in the adversarial text (both halves; nothing here was fitted)", ""]
    lines.append(
        "| family | n | adversarial | a unit inside | by chance | units inside | span inside | IoU | IoU by chance |"
    )
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for family in table.families:
        one = table.family(family).where(lambda record: record["hostile"] and record["inside"] is not None)
        if not one.records:
            continue
        rows = [_hits(record, e) for record, e in zip(one.records, one.evidence, strict=True)]
        share, hit, chance, inside, precise, overlap, by_chance = np.array(rows).mean(axis=0)
        lines.append(
            f"| {family} | {len(rows)} | {share:.0%} | {hit:.0%} | {chance:.0%} | {inside:.0%} | {precise:.0%} | "
            f"{overlap:.2f} | {by_chance:.2f} |"
        )
    return [*lines, "", "By chance: as many units, or a stretch as long, drawn at random.", ""]


def _hits(record: Record, e: Evidence) -> tuple[float, ...]:
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
    for family in [*table.families, BENIGN]:
        for hostile in (True, False):
            one = table.family(family).where(lambda record, wanted=hostile: record["hostile"] == wanted)
            if not one.records:
                continue
            before, after = (Counter(getattr(e, name).kind for e in one.evidence) for name in ("answer", "span_answer"))
            cells = " | ".join(f"{before[kind]} → {after[kind]}" for kind in KINDS)
            flips = int(one.matrix(["flip"]).sum())
            ratio = np.exp(-one.matrix(["span_effect"])[:, 0])
            name = family if hostile or family == BENIGN else f"{family}, controls"
            lines.append(f"| {name} | {len(one.records)} | {cells} | {flips} | {_middle(ratio)} |")
    return lines


def _middle(values: Sequence[float] | np.ndarray) -> str:
    """Median and range."""
    if not len(values):
        return "–"
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    digits = 0 if middle >= 10 else 2
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def read(name: str) -> Iterator[Record]:
    """The records of one of the shared data files."""
    with (DATA / f"{name}.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()
