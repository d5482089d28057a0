"""The cases of docs/case-studies.md: picked by a rule from the records of a run, and every removal made again.

    python analysis/case_studies.py --write DATA FOLDER      # the prompts, from jailbreak.jsonl and aqua.jsonl
    OMP_NUM_THREADS=1 python analysis/case_studies.py RUN > cases.md

RUN is a folder of `jopa bench experiments/case-studies.toml`. The rule, which is older than the numbers:

    of each data set the prompts whose set by `joint` has the largest, the median and the smallest synergy, and
    the first prompt in the order of the file on which leave-one-out's set does at least as much

The records hold the answer without all chosen units; the answer without one of them alone is asked for here. Joint
effects are redone on the way: if one differs from its record by more than rounding, nothing is printed.

Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from jopa.benchmark.records import ExampleRecord, ExperimentRecord, FinishedCell, Run, read_run
from jopa.evaluation.regeneration import Evaluation, Evaluator
from jopa.json_lines import json_lines
from jopa.json_values import parse_json
from jopa.model.language_model import LanguageModel
from jopa.model.loading import load
from jopa.prompt.building import build_prompt
from jopa.prompt.output import Output
from jopa.prompt.records import PromptRecord
from jopa.reports.gallery import escaped, extremes, quote
from jopa.reports.wording import nats, unit_name
from jopa.storage import write_text

JOINT, ALONE, PAPER = "joint", "ablation", "jopa"
NAMES = {JOINT: "joint", ALONE: "leave-one-out", PAPER: "jopa"}
ROUNDING = 1e-3
"""Nats by which a joint effect may differ from its record: the same batch is not scored twice."""

WEAK = 0.1
"""The share of the joint effect below which a word alone counts as weak."""


class Case(NamedTuple):
    """A prompt, why it was picked, and the cell of each method."""

    data: str
    name: str
    reason: str
    example: ExampleRecord
    cells: Mapping[str, FinishedCell]


def main() -> None:
    """Read the run, pick, remove again, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="a folder of `jopa bench experiments/case-studies.toml`")
    parser.add_argument("--write", nargs=2, type=Path, metavar=("DATA", "FOLDER"), help="write the prompts")
    arguments = parser.parse_args()
    if arguments.write is not None:
        write_prompts(*arguments.write)
        return
    if arguments.run is None:
        parser.error("give a run, or --write DATA FOLDER")
    run = read_run(arguments.run)
    data = by_data(run)
    print("\n".join(summary(data)), end="\n\n")
    spec = run.plan["models"][0]
    model = load(spec["id"], revision=spec["revision"], device=spec["device"], dtype=spec["dtype"])
    for number, case in enumerate(picked(run, data), start=1):
        print(f"{number}. {case.data}, {case.name}", file=sys.stderr, flush=True)
        print("\n\n".join(section(number, case, redone(model, run.experiment, case))), end="\n\n")


def write_prompts(data: Path, folder: Path) -> None:
    """Write jbb-benign.jsonl (30 benign behaviours of JailbreakBench) and aqua-questions.jsonl (10 questions).

    Args:
        data: the folder of jailbreak.jsonl and aqua.jsonl; the first of each file are taken.
        folder: where the two files are written.

    Raises:
        InputFileError: a file cannot be read.
    """
    jailbreak = (parse_json(line) for _, line in json_lines(data / "jailbreak.jsonl"))
    aqua = (parse_json(line) for _, line in json_lines(data / "aqua.jsonl"))
    benign = (
        {"id": row["id"], "prompt": row["prompt"]}
        for row in jailbreak
        if row["method"] == "benign" and row["jbb_index"] is not None
    )
    questions = (
        {"id": row["id"], "prompt": f"{row['question']}\nAnswer Choices: {choices(row['options'])}"} for row in aqua
    )
    for name, rows in (("jbb-benign", islice(benign, 30)), ("aqua-questions", islice(questions, 10))):
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def choices(options: Sequence[str]) -> str:
    """AQuA's options, `A)5`, as the paper writes them: `(a) 5`."""
    return " ".join(f"({option[0].lower()}) {option[2:].strip()}" for option in options)


def by_data(run: Run) -> dict[str, dict[str, dict[str, FinishedCell]]]:
    """The cells of each prompt that jopa and leave-one-out finished, by data set, prompt and method."""
    found: dict[str, dict[str, dict[str, FinishedCell]]] = {}
    for cell in run.done:
        key = cell.key
        found.setdefault(key.data, {}).setdefault(key.example, {})[key.method] = cell
    return {
        data: {name: cells for name, cells in prompts.items() if {JOINT, ALONE} <= cells.keys()}
        for data, prompts in found.items()
    }


def picked(run: Run, data: Mapping[str, Mapping[str, Mapping[str, FinishedCell]]]) -> Iterator[Case]:
    """What the rule picks; a prompt that it picks twice comes once, with both reasons."""
    model = run.experiment.models[0].name
    for name_of_data, prompts in data.items():
        reasons = {
            name: [f"{what} synergy" for what in found]
            for name, found in extremes({name: cells[JOINT].synergy for name, cells in prompts.items()}).items()
        }
        no_better = [name for name, cells in prompts.items() if cells[ALONE].joint >= cells[JOINT].joint]
        for name in no_better[:1]:
            reasons.setdefault(name, []).append("first on which leave-one-out's set does at least as much")
        for name, found in reasons.items():
            example = run.examples[model, name_of_data, name]
            yield Case(name_of_data, name, "; ".join(found), example, prompts[name])


def redone(model: LanguageModel, experiment: ExperimentRecord, case: Case) -> dict[tuple[int, ...], Evaluation]:
    """Every chosen set and every chosen unit alone, evaluated anew, by the units in rising order.

    Raises:
        SystemExit: a joint effect is not the one on record.
    """
    recorded = case.example.output
    built = build_prompt(model.tokenizer, case.example.prompt.text, unit=experiment.unit)
    output = Output(recorded.ids, recorded.text, recorded.target)
    length = experiment.generation["max_new_tokens"]
    evaluator = Evaluator(model, built, output, experiment.removal, max_new_tokens=length, similarity=None)
    chosen = {label: units_of(cell) for label, cell in case.cells.items()}
    singles = [(unit,) for label in (JOINT, ALONE) for unit in chosen[label]]
    sets = list(dict.fromkeys([*chosen.values(), *singles]))
    found = dict(zip(sets, evaluator.evaluate(sets), strict=True))
    for label, cell in case.cells.items():
        again = found[chosen[label]]
        if abs(again.log_prob - again.log_prob_removed - cell.joint) > ROUNDING:
            sys.exit(f"{case.name}: the joint effect of {label} is not the one on record")
    return found


def units_of(cell: FinishedCell) -> tuple[int, ...]:
    """The units that a cell removed, in rising order."""
    return tuple(sorted(cell.removed))


def summary(data: Mapping[str, Mapping[str, Mapping[str, FinishedCell]]]) -> Iterator[str]:
    """How often jopa's set does more than another's, and what each method's sets do on average, as two tables."""
    yield "| data | prompts | joint's set against | does more | as much | less | median lead, nats |"
    yield "|---|--:|---|--:|--:|--:|--:|"
    for name, prompts in data.items():
        for other in (ALONE, PAPER):
            leads = [cells[JOINT].joint - cells[other].joint for cells in prompts.values() if other in cells]
            if leads:
                more, same, less = signs(leads)
                lead = nats(statistics.median(leads), signed=True)
                yield f"| {name} | {len(leads)} | {NAMES[other]} | {more} | {same} | {less} | {lead} |"
    yield ""
    yield "| data | method | prompts | PR | ROUGE-L | synergy: least, median, most | synergy above 0 | weak word |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for name, prompts in data.items():
        for label, title in NAMES.items():
            if cells := [cells[label] for cells in prompts.values() if label in cells]:
                synergies = sorted(cell.synergy for cell in cells)
                shown = (synergies[0], statistics.median(synergies), synergies[-1])
                ratio, text = (statistics.mean(measured(cells, metric)) for metric in ("pr", "rouge_l_f1"))
                spread = ", ".join(nats(value, signed=True) for value in shown)
                above, _, _ = signs(synergies)
                weak = sum(min(cell.individual) < WEAK * cell.joint for cell in cells)
                yield f"| {name} | {title} | {len(cells)} | {ratio:.2f} | {text:.2f} | {spread} | {above} | {weak} |"


def measured(cells: Sequence[FinishedCell], metric: str) -> list[float]:
    """The values of a metric, of the cells that have it."""
    return [value for cell in cells if (value := cell.metrics[metric]) is not None]


def signs(values: Sequence[float]) -> tuple[int, int, int]:
    """How many are above zero, zero and below. Equal sets are evaluated once, so their difference is exactly zero."""
    return sum(v > 0 for v in values), sum(v == 0 for v in values), sum(v < 0 for v in values)


def section(number: int, case: Case, found: Mapping[tuple[int, ...], Evaluation]) -> list[str]:
    """A case as blocks of Markdown."""
    first, second = case.cells[JOINT], case.cells[ALONE]
    same = units_of(first) == units_of(second)
    blocks = [f"## {number}. {case.data}, {case.name}", f"Picked as: {escaped(case.reason)}."]
    for label in [JOINT] if same else [JOINT, ALONE]:
        who = f"{NAMES[JOINT]} and {NAMES[ALONE]} take" if same else f"{NAMES[label]} takes"
        blocks += [f"**{who}**", marked_prompt(case.example.prompt, case.cells[label])]
    blocks += ["\n".join(table(case, found, same=same)), about_synergy(first, NAMES[JOINT])]
    if same:
        blocks.append(f"{NAMES[ALONE]} found it with {second.ffe:.0f} FFE.")
    else:
        blocks.append(about_synergy(second, NAMES[ALONE]))
    return [*blocks, about_paper(case)] if PAPER in case.cells else blocks


def marked_prompt(prompt: PromptRecord, cell: FinishedCell) -> str:
    """The prompt as a quotation, the chosen units bold and in brackets."""
    text, parts, done = prompt.text, [], 0
    for index in units_of(cell):
        unit = prompt.units[index]
        core = unit.text.strip()
        start = unit.start + unit.text.index(core)
        parts += [escaped(text[done:start]), f"**\\[{escaped(core)}\\]**"]
        done = start + len(core)
    return quote("".join([*parts, escaped(text[done:])]))


def table(case: Case, found: Mapping[tuple[int, ...], Evaluation], *, same: bool) -> Iterator[str]:
    """The answer with everything, without single units, and without each method's set."""
    prompt, output = case.example.prompt, case.example.output
    first, second = case.cells[JOINT], case.cells[ALONE]
    yield "| without | nats | PR | ROUGE-L | what the model says |"
    yield "|---|--:|--:|--:|---|"
    yield f"| nothing | 0 | 1 | 1 | {in_a_cell(output.text, '')} |"

    def row(label: str, units: tuple[int, ...]) -> str:
        e = found[units]
        effect = e.log_prob - e.log_prob_removed
        ratio = math.exp(-effect / len(output.ids))
        said = in_a_cell(e.counterfactual_output, output.text)
        return f"| {label} | {nats(effect, signed=True)} | {ratio:.2f} | {e.metrics['rouge_l_f1']:.2f} | {said} |"

    def single(index: int) -> str:
        return row(f"“{escaped(unit_name(prompt.units[index].text))}” alone", (index,))

    yield from (single(index) for index in first.removed)
    both = f"{NAMES[JOINT]} and {NAMES[ALONE]}" if same else NAMES[JOINT]
    yield row(f"**all {len(first.removed)}: {both}**", units_of(first))
    if not same:
        yield from (single(index) for index in second.removed if index not in first.removed)
        yield row(f"**all {len(second.removed)}: {NAMES[ALONE]}**", units_of(second))


def in_a_cell(text: str, original: str) -> str:
    """An answer on one line of a table."""
    if text == original:
        return "*(the same)*"
    return escaped(" ⏎ ".join(line.strip() for line in text.splitlines() if line.strip())) or "*(nothing)*"


def about_synergy(cell: FinishedCell, name: str) -> str:
    """The joint effect of a set beside the sum of its single effects, and what the search cost and proved."""
    return (
        f"{name}: {nats(math.fsum(cell.individual), signed=True)} nats as the sum of each alone, "
        f"{nats(cell.joint, signed=True)} together; synergy {nats(cell.synergy, signed=True)}. "
        f"Found with {cell.ffe:.0f} FFE; proved: {cell.certificate}."
    )


def about_paper(case: Case) -> str:
    """What the paper's own search chose."""
    cell = case.cells[PAPER]
    for label in (JOINT, ALONE):
        if units_of(cell) == units_of(case.cells[label]):
            return f"{NAMES[PAPER]} chose the same three as {NAMES[label]}."
    units = case.example.prompt.units
    names = ", ".join(f"“{escaped(unit_name(units[index].text))}”" for index in cell.removed)
    return f"{NAMES[PAPER]} chose {names}: {nats(cell.joint, signed=True)} nats together."


if __name__ == "__main__":
    main()
