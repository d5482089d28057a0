"""How well `jopa detect` tells attacks from harmless prompts of the same length; the study its score was fixed on.

    python analysis/detection.py --limit 12          # measures; continues where it stopped
    python analysis/detection.py --model MODEL --plain --out OTHER       # another model; a base model is plain
    python analysis/detection.py --limit 12 --rivals # measures what other defences see in the same prompts
    python analysis/detection.py --fit               # the coefficients, from the development half
    python analysis/detection.py --report            # everything else, on the blind half; runs no model

Reads ../shared/data. Each attack prompt has a control: a harmless prompt as close to it in tokens as is left, from
counselling questions, Alpaca instructions and few-shot AQuA in turn. Beside them stand short harmless prompts on the
attacks' own subjects and everyday prompts (Alpaca, tldr_news) of any length. A run that is cut short leaves a balanced
sample.

The halves part the 100 behaviours of JailbreakBench by a seeded draw; a control is in its attack's half. What an
earlier version of this study measured is left out of the blind half, because its numbers were looked at. Numbers only
are stored: no text of a prompt or an answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from detection_places import kinds_of_answers, where_units_lie
from detection_tables import BENIGN, EVERYDAY, SEED, UNMATCHED, Table, fitting, reporting

from jopa.detection.hostility import gather, read_prompt
from jopa.detection.rivals import highlighted, perturbed
from jopa.detection.settings import DetectionConfig
from jopa.json_values import Record
from jopa.storage import Journal, locked, read_lines, write_text

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
SHARES = {"random search (llama-2)": 0.5, "random search (vicuna)": 0.5, "PAIR": 2.0}
"""Of the limit, where a family takes another number of prompts: most of the attacks in fluent language."""
EARLIER = 12
"""Attack prompts of each family that an earlier version of this study measured."""


@dataclass(frozen=True)
class Case:
    """One prompt to measure.

    Attributes:
        id: unique in this study.
        family: an attack family, `BENIGN` or `EVERYDAY`; a control has its attack's.
        hostile: whether it is an attack.
        half: "development" or "blind".
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
    parser.add_argument("--model", default=None, help="what jopa.load takes; the bundled model unless given")
    parser.add_argument("--plain", action="store_true", help="no chat template, as base models want it")
    parser.add_argument("--rivals", action="store_true", help="measure other defences' numbers of the same prompts")
    parser.add_argument("--fit", action="store_true", help="print the coefficients that the development half gives")
    parser.add_argument("--report", action="store_true", help="print the tables of the blind half")
    arguments = parser.parse_args()
    if not (arguments.fit or arguments.report):
        config = DetectionConfig(plain=arguments.plain)
        measure(arguments.out, arguments.limit, arguments.model, config, rivals=arguments.rivals)
        return
    table = Table.read(arguments.out)
    if arguments.fit:
        print("\n".join(fitting(table.of("development"))))
    if arguments.report:
        print("\n".join([*reporting(table), *where_units_lie(table), *kinds_of_answers(table)]))


def measure(folder: Path, limit: int, model_name: str | None, config: DetectionConfig, *, rivals: bool) -> None:
    """Record the evidence, or what other defences see, of every case that has none yet."""
    import torch

    from jopa import load
    from jopa.model.language_model import versions

    folder.mkdir(parents=True, exist_ok=True)
    model, any_length = load(model_name), replace(config, most_tokens=100_000)
    cases = list(in_turn(limit, lambda text: len(read_prompt(model, text, any_length).ids)))
    path = folder / ("rivals.jsonl" if rivals else "evidence.jsonl")
    with locked(folder), Journal(path) as journal:
        done = {record["id"] for record in read_lines(path)}
        if rivals:  # what was measured of the blind half's pairs
            there = {record["id"] for record in read_lines(folder / "evidence.jsonl")}
            cases = [c for c in cases if c.id in there and c.half == "blind" and c.family not in UNMATCHED]
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
            started = time.perf_counter()
            prompt = read_prompt(model, case.text, config)
            if rivals:
                found = asdict(highlighted(model, prompt))
                copies = asdict(perturbed(model, prompt, max_new_tokens=config.max_new_tokens, seed=SEED))
                journal.append({"id": case.id, "highlighted": rounded(found), "perturbed": rounded(copies)})
            else:
                inside = None
                if case.adversarial is not None:
                    units = enumerate(prompt.units)
                    inside = [i for i, unit in units if lies_in(unit.start, unit.end, case.adversarial)]
                record = {name: value for name, value in asdict(case).items() if name not in ("text", "adversarial")}
                evidence = rounded(asdict(gather(model, prompt, config)))
                journal.append({**record, "words": len(case.text.split()), "inside": inside, "evidence": evidence})
            print(f"{number} of {len(cases)}: {case.id}, {time.perf_counter() - started:.0f} s", flush=True)


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


def half_of(behaviour: int) -> str:
    """The half of a JailbreakBench behaviour: 50 of the 100 are in each, drawn with the seed."""
    order = sorted(range(100), key=lambda index: digest(f"half {index}"))
    return "development" if order.index(behaviour) < 50 else "blind"


def digest(text: str) -> bytes:
    """What puts things in a fixed random order."""
    return hashlib.sha256(f"{SEED} {text}".encode()).digest()


def in_turn(limit: int, length: Any) -> Iterator[Case]:
    """The cases, families mixed evenly: attacks, each followed by its control, and harmless prompts without a pair."""
    rows = list(read("jailbreak"))
    attacks: dict[str, list[Case]] = {}
    for row in rows:
        if family := FAMILIES.get((row["method"], row["target_model"])):
            half = half_of(row["jbb_index"])
            case = Case(row["id"], family, True, half, "jailbreak", row["prompt"], row["adversarial_span"])
            attacks.setdefault(family, []).append(case)
    seen = {id_ for family in attacks for id_ in measured_earlier(rows, family)}
    benign = [row for row in rows if row["method"] == "benign"]
    on_subject = [
        Case(row["id"], BENIGN, False, half_of(row["jbb_index"]), "jailbreak", row["prompt"])
        for row in benign
        if row["jbb_index"] is not None
    ]
    daily = zip(*(everyday_of(name, limit) for name in ("alpaca", "tldr_news")), strict=True)
    everyday = [case for both in daily for case in both]
    taken = {case.id for case in everyday}
    pools = {
        "counsel_chat": [(row["id"], row["prompt"]) for row in read("counsel_chat")],
        "alpaca": [(row["id"], row["prompt"]) for row in [*read("alpaca"), *benign] if row.get("jbb_index") is None],
        "aqua": list(few_shot()),
    }
    sized = {
        name: [(length(text), id_, text) for id_, text in pool if f"{name}:{id_}" not in taken]
        for name, pool in pools.items()
    }
    queues = [
        alternating([case for case in cases if case.half == "development" or case.id not in seen])[
            : round(limit * SHARES.get(family, 1.0))
        ]
        for family, cases in attacks.items()
    ]
    queues += [alternating(on_subject)[:limit], everyday]
    placed = [((i + 0.5) / len(queue), n, case) for n, queue in enumerate(queues) for i, case in enumerate(queue)]
    for turn, (_, _, case) in enumerate(sorted(placed, key=lambda item: item[:2])):
        yield case
        if case.hostile:
            yield control_of(case, length(case.text), sized, first=turn)


def measured_earlier(rows: Sequence[Record], family: str) -> list[str]:
    """The attacks of a family that the earlier version measured: of either parity of the behaviour, half of them."""
    mine = [row for row in rows if FAMILIES.get((row["method"], row["target_model"])) == family]
    order = sorted(mine, key=lambda row: digest(row["id"]))
    halves = ([row["id"] for row in order if row["jbb_index"] % 2 == parity] for parity in (0, 1))
    return [id_ for half in halves for id_ in half[: EARLIER // 2]]


def everyday_of(name: str, limit: int) -> list[Case]:
    """Prompts of everyday use, twice the limit, the halves in turn."""
    order = sorted(read(name), key=lambda row: digest(row["id"]))[: 2 * limit]
    halves = ("development", "blind")
    return [
        Case(f"{name}:{row['id']}", EVERYDAY, False, halves[i % 2], name, row["prompt"]) for i, row in enumerate(order)
    ]


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
    """AQuA questions after worked examples and, to vary the length, after other questions with their answers."""
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
    order = sorted(cases, key=lambda case: digest(case.id))
    halves = [[case for case in order if case.half == half] for half in ("development", "blind")]
    return [case for pair in zip_longest(*halves) for case in pair if case is not None]


def read(name: str) -> Iterator[Record]:
    """The records of one of the shared data files."""
    with (DATA / f"{name}.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()
