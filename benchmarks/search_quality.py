"""How good are the sets that methods find, and at what work? Run by hand; see docs/research/search-notebook.md.

    python benchmarks/search_quality.py --data ../shared/data --lengths short long --ks 2 3 --out quality.jsonl
    python benchmarks/search_quality.py --out quality.jsonl --table-only

Real prompts of each set, the bundled model, removal `delete`, its own greedy answer. Every method is given the same
model work (`--budget` full-forward equivalents, counted as the tokens that enter the model) and answers with the best
set of k units that it has scored by then; `ablation` ranks all units and costs what it costs. `jopa` scores
nothing ahead here, its cheapest in work, and is told twice: at the budget, and at its end (N = 200, "full").
`joint-twice`, on request, is `jopa` with twice the budget. The optimum is enumerated on short prompts for k ≤ 3;
elsewhere "best" is the lowest score that any method met, at any cost. Regret = log p(y|x without the found set) − that
of the best, in nats per output token.

The second half of each data file is used here, the first was for development. One JSON line is one (prompt, method, k);
lines that are there are not made again, and several processes may add to one file, each for `--sets` of its own. A
prompt counts once it has a line of every method and k that prompts of its length have. With --table-only nothing is
measured.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import jopa
from jopa.method import Method, RankingMethod, top_units
from jopa.methods.context_cite import ContextCite
from jopa.methods.interactions import Interactions
from jopa.methods.joint.search import JointSearch
from jopa.methods.paper_search import PaperSearch
from jopa.methods.perturbation import Ablation, Greedy
from jopa.model.generation import Generation
from jopa.preparation import answer
from jopa.problem import Problem
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output

LENGTHS = {"short": (14, 20), "long": (80, 150), "xlong": (400, 700)}
"""Units of a prompt."""
DATA = ("alpaca", "tldr_news", "counsel_chat")
METHODS = ("joint", "jopa-full", "greedy", "ablation", "context-cite", "interactions")
_CHUNK = 8
PICTURED = ("short", "long")
"""Lengths on which all methods run."""
SHOWN = {
    "joint": ("joint", "#D55E00", ""),
    "jopa-full": ("jopa", "#0072B2", ""),
    "greedy": ("greedy", "#E69F00", ""),
    "ablation": ("ablation", "#009E73", "s"),
    "context-cite": ("context-cite", "#CC79A7", "D"),
    "interactions": ("interactions", "#000000", "^"),
}
"""In the picture: the name, the colour (Okabe and Ito's), and the marker of a method that has no curve."""
SAME = 1e-4
"""Nats per output token that count as no difference."""


class SpentError(Exception):
    """The work allowed is done."""


class Meter(Problem):
    """A problem that stops at a limit of model work, and remembers which set of at most k units was best when."""

    def __init__(self, scorer: jopa.Scorer, k: int, limit: float = math.inf) -> None:
        super().__init__(scorer)
        self.k, self.limit = k, limit
        self.curve: list[tuple[float, float, int]] = []
        """FFE, the lowest log-probability so far, evaluations."""
        self.best: tuple[float, frozenset[int]] = (math.inf, frozenset())

    def token_log_probs(self, removals: Iterable[Iterable[int]]) -> Any:
        """As the problem's own; in small chunks if there is a limit, so that it is met to within one."""
        sets = [frozenset(removed) for removed in removals]
        step = len(sets) if self.limit == math.inf else _CHUNK
        for start in range(0, len(sets), max(1, step)):
            part = sets[start : start + step]
            if self.ffe >= self.limit and any(removed not in self._memo for removed in part):
                raise SpentError
            values = super().token_log_probs(part).double().sum(dim=1).tolist()
            lowest = min(((v, s) for v, s in zip(values, part, strict=True) if len(s) <= self.k), default=None)
            if lowest and lowest[0] < self.best[0]:
                self.best = lowest
                self.curve.append((round(self.ffe, 2), lowest[0], self.evaluations))
        return super().token_log_probs(sets)


def make(name: str, budget: int, k: int, prompt: Prompt, output: Output) -> tuple[Method, float]:
    """A method by its name here, and its limit of model work."""
    if name == "joint":
        return JointSearch(budget=budget), math.inf
    if name == "joint-twice":
        return JointSearch(budget=2 * budget), math.inf
    if name == "jopa-full":
        return PaperSearch(lookahead=1), math.inf
    if name in ("context-cite", "interactions"):
        share = 0.5 if name == "context-cite" else max(0.25, min(0.5, k / len(prompt.units)))
        n_masks = round((budget - 1) / mask_cost(prompt, output, share))
        return (ContextCite(n_masks) if name == "context-cite" else Interactions().with_budget(n_masks)), math.inf
    return (Ablation(), math.inf) if name == "ablation" else (Greedy(), budget)


def mask_cost(prompt: Prompt, output: Output, share: float) -> float:
    """Full-forward equivalents of a mask that deletes this share of the units."""
    positions = [position for unit in prompt.units for position in unit.positions]
    total = len(prompt.ids) + len(output.ids)
    return (total - 1 - min(positions) - share * len(positions)) / total


def measure(
    model: jopa.LanguageModel, prompt: Prompt, output: Output, name: str, ks: list[int], budget: int
) -> Iterator[dict]:
    """One method on one prompt: what it found for each k, its work, and its way there. A ranking is made once."""
    if isinstance(make(name, budget, 1, prompt, output)[0], RankingMethod):
        method, limit = make(name, budget, 1, prompt, output)
        assert isinstance(method, RankingMethod)
        meter = Meter(jopa.ModelScorer(model, prompt, output, "delete"), 1, limit)
        began = time.perf_counter()
        ranking = method.rank(meter)
        seconds, work = time.perf_counter() - began, (meter.evaluations, meter.ffe)
        for k in ks:
            chosen = top_units(ranking, k).removed
            yield {"k": k, "removed": sorted(chosen), "log_prob": meter.log_prob(chosen), "evaluations": work[0],
                   "ffe": work[1], "seconds": seconds, "certificate": "none",
                   "curve": [(round(work[1], 2), meter.log_prob(chosen), work[0])]}  # fmt: skip
        return
    for k in ks:
        method, limit = make(name, budget, k, prompt, output)
        meter = Meter(jopa.ModelScorer(model, prompt, output, "delete"), k, limit)
        began = time.perf_counter()
        try:
            found: Iterable[int] = method.run(meter, k).removed
        except SpentError:
            found = meter.best[1]
        seconds, work = time.perf_counter() - began, (meter.evaluations, meter.ffe)
        meter.limit = math.inf
        yield {"k": k, "removed": sorted(found), "log_prob": meter.log_prob(found), "evaluations": work[0],
               "ffe": work[1], "seconds": seconds, "curve": meter.curve,
               "certificate": meter.certificate(found) if found else "none"}  # fmt: skip


def enumerate_all(model: jopa.LanguageModel, prompt: Prompt, output: Output, ks: Iterable[int]) -> Iterator[dict]:
    """The optimum of each k."""
    problem = Problem(jopa.ModelScorer(model, prompt, output, "delete"))
    for k in ks:
        sets = list(combinations(range(problem.n_units), k))
        best = min(sets, key=dict(zip(sets, problem.log_probs(sets), strict=True)).__getitem__)
        yield {"k": k, "removed": list(best), "log_prob": problem.log_prob(best), "ffe": problem.ffe}


def prompts(
    model: jopa.LanguageModel, folder: Path, sets: Iterable[str], length: str, n: int, seed: int
) -> Iterator[tuple[str, str, Prompt]]:
    """The first n prompts of each set whose number of units is in the range, in random order."""
    low, high = LENGTHS[length]
    for name in sets:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        held_out = [json.loads(line) for line in lines[len(lines) // 2 :]]
        random.Random(seed).shuffle(held_out)
        found = 0
        for record in held_out:
            if found == n:
                break
            prompt = jopa.build_prompt(model.tokenizer, record["prompt"])
            if low <= len(prompt.units) <= high:
                found += 1
                yield name, record["id"], prompt


def run(options: argparse.Namespace) -> None:
    """Make the lines that are not there yet."""
    done = {(line["id"], line["method"], line["k"]) for line in read(options.out)}
    model = jopa.load(options.model)
    for length in options.lengths:
        ks = options.ks or ([2, 3] if length == "short" else [3, 5, 10])
        for name, prompt_id, prompt in prompts(
            model, options.data, options.sets, length, options.prompts, options.seed
        ):
            wanted = [(method, k) for k in ks for method in options.methods if (prompt_id, method, k) not in done]
            exact = [k for k in ks if length == "short" and k <= 3 and (prompt_id, "exhaustive", k) not in done]
            if not wanted and not exact:
                continue
            output = answer(model, prompt, Generation(options.max_new_tokens))
            head = {"data": name, "id": prompt_id, "length": length, "units": len(prompt.units), "out": len(output.ids)}
            head |= {"budget": options.budget}
            for found in enumerate_all(model, prompt, output, exact):
                append(options.out, {**head, "method": "exhaustive", **found})
            for method in dict.fromkeys(method for method, _ in wanted):
                sizes = [k for name, k in wanted if name == method]
                for found in measure(model, prompt, output, method, sizes, options.budget):
                    append(options.out, {**head, "method": method, **found})
                    print(f"{prompt_id} T={len(prompt.units)} k={found['k']} {method}:"
                          f" {found['log_prob'] / len(output.ids):.4f} at {found['ffe']:.1f} FFE,"
                          f" {found['seconds']:.0f} s", flush=True)  # fmt: skip


def read(path: Path) -> list[dict]:
    """The lines made so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def finished(lines: list[dict]) -> list[dict]:
    """The lines of prompts that have been asked everything that others of their length have been asked."""
    asked: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for line in lines:
        asked.setdefault((line["length"], line["id"]), set()).add((line["method"], line["k"]))
    everything = {
        length: set().union(*(pairs for (other, _), pairs in asked.items() if other == length)) for length, _ in asked
    }
    return [line for line in lines if asked[line["length"], line["id"]] == everything[line["length"]]]


def append(path: Path, record: dict) -> None:
    """Add one line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def stopped_at_budget(lines: list[dict]) -> list[dict]:
    """Where `jopa` stood when the budget was spent."""
    stopped = []
    for line in lines:
        if line["method"] == "jopa-full":
            _, log_prob, evaluations = [step for step in line["curve"] if step[0] <= line["budget"]][-1]
            found = {"log_prob": log_prob, "ffe": min(line["ffe"], line["budget"]), "evaluations": evaluations}
            stopped.append({**line, **found, "method": "jopa", "curve": []})
    return stopped


def best_known(lines: list[dict]) -> dict[tuple[str, int], float]:
    """The lowest log-probability that any method met, for each prompt and k."""
    best: dict[tuple[str, int], float] = {}
    for line in lines:
        values = [line["log_prob"], *(value for _, value, _ in line.get("curve", ()))]
        key = line["id"], line["k"]
        best[key] = min([*values, best.get(key, math.inf)])
    return best


def table(lines: list[dict]) -> str:
    """Method × quality and work, as Markdown."""
    best = best_known(lines)
    paper = {(x["id"], x["k"]): x["log_prob"] / x["out"] for x in lines if x["method"] == "jopa-full"}
    rows = [
        "| prompts | k | method | n | at best | mean regret | worst | ≤ jopa N=200 | evaluations | FFE |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells = sorted({(line["length"], line["k"]) for line in lines}, key=lambda x: (list(LENGTHS).index(x[0]), x[1]))
    for length, k in cells:
        for method in (*METHODS, "jopa", "joint-twice"):
            own = [x for x in lines if (x["length"], x["k"], x["method"]) == (length, k, method)]
            if not own:
                continue
            regret = [(x["log_prob"] - best[x["id"], k]) / x["out"] for x in own]
            pairs = [(x["log_prob"] / x["out"], paper[x["id"], k]) for x in own if (x["id"], k) in paper]
            beside = f"{sum(a <= b + SAME for a, b in pairs)}/{len(pairs)}"
            rows.append(
                f"| {length} | {k} | {method} | {len(own)} | {sum(r <= SAME for r in regret) / len(own):.0%} "
                f"| {statistics.mean(regret):.4f} | {max(regret):.3f} | {beside} "
                f"| {statistics.mean(x['evaluations'] for x in own):.0f} "
                f"| {statistics.mean(x['ffe'] for x in own):.1f} |"
            )
    return "\n".join(rows)


def beside_paper(lines: list[dict]) -> str:
    """`jopa`, and with twice the budget, against the end of `jopa` on long prompts, in nats per output token."""
    long = [line for line in lines if line["length"] == "long"]
    by_method = {name: [x for x in long if x["method"] == name] for name in ("jopa-full", "joint", "joint-twice")}
    ends = {name: {(x["id"], x["k"]): x["log_prob"] / x["out"] for x in own} for name, own in by_method.items()}
    told = []
    for name, other in (("joint", "jopa-full"), ("joint-twice", "jopa-full"), ("joint-twice", "joint")):
        for k in sorted({k for _, k in ends[name]}):
            gaps = [value - ends[other][key] for key, value in ends[name].items() if key[1] == k and key in ends[other]]
            better, worse = [-gap for gap in gaps if gap < -SAME], [gap for gap in gaps if gap > SAME]
            sides = [
                f"{len(side)} {word}"
                + (f" (median {statistics.median(side):.3f}, most {max(side):.3f})" if side else "")
                for word, side in (("better", better), ("worse", worse))
            ]
            told.append(f"{name} than {other}, k = {k}: {', '.join(sides)}, of {len(gaps)}")
    best, paper, own = best_known(lines), by_method["jopa-full"], by_method["joint"]
    if paper and own:
        end = mean_regret(paper, math.inf, best)
        places = sorted({ffe for x in own for ffe, _, _ in x["curve"]})
        ahead = max((ffe for ffe in places if mean_regret(own, ffe, best) > mean_regret(paper, ffe, best)), default=0.0)
        level = min((ffe for ffe in places if mean_regret(own, ffe, best) <= end), default=math.nan)
        told.append(f"jopa is ahead of jopa from {ahead:.1f} FFE on, and at its end after {level:.1f}")
    return "\n".join(told)


def picture(lines: list[dict], path: Path) -> None:
    """Mean regret against model work, one panel for each length; a point for a method that answers once."""
    from matplotlib.figure import Figure

    best = best_known(lines)
    lengths = [length for length in PICTURED if any(line["length"] == length for line in lines)]
    figure = Figure(figsize=(4.4 * len(lengths), 3.9), layout="constrained")
    for axes, length in zip(figure.subplots(1, len(lengths), squeeze=False)[0], lengths, strict=True):
        for method, (label, colour, marker) in SHOWN.items():
            own = [x for x in lines if x["length"] == length and x["method"] == method]
            if not own:
                continue

            if marker:
                work, ends = statistics.mean(x["ffe"] for x in own), mean_regret(own, math.inf, best)
                axes.plot([work], [ends], marker, color=colour, label=label)
            else:
                places = sorted({ffe for x in own for ffe, _, _ in x["curve"]})
                means = [mean_regret(own, ffe, best) for ffe in places]
                axes.step(places, means, where="post", color=colour, label=label, lw=2.4 if method == "joint" else 1.4)
        axes.set(title=f"{length} prompts", xlabel="model work, full forwards", xscale="log", ylim=(0, None))
        axes.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e4e4")
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("mean regret, nats per output token")
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=150)


def mean_regret(lines: list[dict], ffe: float, best: dict[tuple[str, int], float]) -> float:
    """Of the best set that each line had met by then."""
    return statistics.mean(regret_at(line, ffe, best[line["id"], line["k"]]) for line in lines)


def regret_at(line: dict, ffe: float, best: float) -> float:
    """Regret of the best set met by then; of removing nothing before the first."""
    values = [value for at, value, _ in line["curve"] if at <= ffe] or [line["curve"][0][1]]
    return (min(values) - best) / line["out"]


def main() -> None:
    """Parse, run, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of JSONL files")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, continued if there")
    parser.add_argument("--sets", nargs="+", choices=DATA, default=list(DATA), help="data sets")
    parser.add_argument("--prompts", type=int, default=10, help="of each data set and length")
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=["short", "long"])
    parser.add_argument("--ks", nargs="+", type=int, help="default: 2 3 for short prompts, 3 5 10 for others")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, "joint-twice"], default=list(METHODS))
    parser.add_argument("--budget", type=int, default=50, help="full-forward equivalents a method may use")
    parser.add_argument("--max-new-tokens", type=int, default=30)
    parser.add_argument("--model", help="as `jopa.load` takes it; default: the bundled one")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of prompts")
    parser.add_argument("--table-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.table_only:
        run(options)
    lines = finished(read(options.out))
    print(table([*lines, *stopped_at_budget(lines)]) + "\n\n" + beside_paper(lines))
    picture(lines, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
