"""How good are the sets of three that methods find in long contexts, and at what work? See docs/long-contexts.md.

    python benchmarks/long_contexts.py --data ../shared/data --tokens 1000 --contexts 8 --out long.jsonl
    python benchmarks/long_contexts.py --out long.jsonl --table-only

Contexts are made of real texts by a seed (`jopa.datasets.long_contexts`): of eight, two have the source once, four
twice (in other words), and two ask about a real document. The bundled model, sentences as units, removal `delete`; the
answer is given where it is known, otherwise the model's own greedy one. `whole` is the plain forward, whose memory the
others' is compared with. `greedy` (any cost) is exact forward selection; it begins with each sentence removed alone, so
the three of leave-one-out are read off its first round. The joint effect of every chosen set is scored exactly.
`ablation` scores every sentence alone, which says which contexts have a source with the largest effect.

Deletion curve: the set's sentences are removed one after another, each time the one that lowers log p(y) most; the
value is the mean of the three effects over the best set's effect. Sufficiency is log p(y | only the three sentences are
kept, of all sentences) − log p(y | the whole prompt).

One JSON line is one (context, method); lines that are there are not made again. A table counts a context for a method
only if it has that method's line; "best" is the largest joint effect that any method found for it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import jopa
from jopa.datasets.long_contexts import ContextDocument, Kind, LongContext, make_long_contexts, read_texts
from jopa.method import Method
from jopa.model.generation import Generation
from jopa.ordering import NAT, ranked
from jopa.preparation import answer
from jopa.problem import Problem, joint_effects
from jopa.prompt.building import Prompt
from jopa.prompt.output import Output

MIX: tuple[tuple[Kind, int], ...] = (
    ("planted", 2),
    ("planted", 1),
    ("planted", 2),
    ("natural", 1),
    ("planted", 2),
    ("planted", 1),
    ("planted", 2),
    ("natural", 1),
)
"""Kinds of every eight contexts, and in how many documents the planted fact stands."""
BUDGETS = ("joint", "proxy-search", "context-cite", "interactions", "camab", "attn-trace")
"""Methods that are given the model work of `--budget`; others cost what they cost."""
MASK_FFE = {"context-cite": 0.5, "interactions": 0.75, "camab": 0.5, "attn-trace": 0.4}
"""What a mask costs by methods whose budget is a number of masks, in full-forward equivalents."""
K = 3


def methods(budget: int, names: list[str]) -> Iterator[tuple[str, Method]]:
    """Each method by its name; those whose budget counts masks get as many as the model work allows."""
    for name in names:
        plain, _, own = name.partition("@")
        limit = int(own) if own else budget
        if plain in MASK_FFE:
            limit = max(9, round((limit - 1) / MASK_FFE[plain]))
        if plain == "interactions":
            limit = max(24, limit)
        yield name, jopa.make_method(plain, budget=limit) if plain in BUDGETS else jopa.make_method(plain)


def contexts(
    model: jopa.LanguageModel, texts: list[ContextDocument], tokens: int, n: int, seed: int
) -> Iterator[LongContext]:
    """The first n contexts of this size, in the order of `MIX`."""

    def count(text: str) -> int:
        return len(model.tokenizer(text).input_ids)

    for number in range(n):
        kind, copies = MIX[number % len(MIX)]
        made = make_long_contexts(texts, number + 1, tokens=tokens, kind=kind, copies=copies, seed=seed, count=count)
        yield made[number]


def peak_memory() -> int:
    """The most memory that the process has had since `forget_peak`, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def forget_peak() -> None:
    """Measure peaks from now on, of memory in use: what earlier work has freed goes back first."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measure(
    model: jopa.LanguageModel, prompt: Prompt, output: Output, sources: list[int], name: str, method: Method | None
) -> dict[str, Any]:
    """What a method chose, its work, seconds and peak memory; None is the plain forward."""
    forget_peak()
    problem = Problem(jopa.ModelScorer(model, prompt, output, "delete"))
    began = time.perf_counter()
    if method is None:
        problem.log_prob()
        return {"seconds": time.perf_counter() - began, "peak": peak_memory(), "ffe": problem.ffe}
    selection = method.run(problem, K)
    line = {"seconds": time.perf_counter() - began, "peak": peak_memory(), "ffe": problem.ffe}
    chosen = sorted(selection.removed)
    line |= {"evaluations": problem.evaluations, "stop": selection.stop, "details": selection.details}
    if name in ("greedy", "ablation"):
        alone = joint_effects(problem, [[unit] for unit in range(problem.n_units)])
        line["alone"] = [round(effect, 4) for effect in alone]
        line["loo"] = sorted(ranked(alone, K, least_scale=NAT))
    every = set(range(problem.n_units))
    sets = [chosen, every - set(chosen), *([line["loo"]] if "loo" in line else [])]
    effects = joint_effects(problem, sets)
    whole = problem.log_prob()
    line |= {"removed": chosen, "effect": effects[0], "kept_only": whole - effects[1], "log_prob": whole}
    line["curve"] = deletion_curve(problem, chosen)
    line["singles"] = {
        unit: round(effect, 4)
        for unit, effect in zip(
            [*chosen, *sources], joint_effects(problem, [[unit] for unit in [*chosen, *sources]]), strict=True
        )
    }
    if "loo" in line:
        line["loo_effect"] = effects[2]
    return line


def deletion_curve(problem: Problem, chosen: list[int]) -> list[float]:
    """L of the strongest sentence of a set, of it and the next one, and so on; each next one lowers log p(y) most."""
    removed: list[int] = []
    curve = []
    while len(removed) < len(chosen):
        others = [unit for unit in chosen if unit not in removed]
        effects = joint_effects(problem, [[*removed, unit] for unit in others])
        best = ranked(effects, 1, least_scale=NAT)[0]
        removed.append(others[best])
        curve.append(round(effects[best], 4))
    return curve


def run(options: argparse.Namespace) -> None:
    """Make the lines that are not there yet."""
    done = {(line["id"], line["method"]) for line in read(options.out)}
    model = jopa.load(options.model)
    texts = [text for name in ("tldr_news", "counsel_chat") for text in read_texts(options.data / f"{name}.jsonl")]
    numbered = contexts(model, texts, options.tokens, options.contexts, options.seed)
    for context in islice(numbered, options.first, None):
        names = [name for name in ("whole", *options.methods) if (context.id, name) not in done]
        if not names:
            continue
        text = f"{context.text}\nAnswer:" if options.plain else context.text
        prompt = jopa.build_prompt(model.tokenizer, text, unit=context.sentence_spans(), plain=options.plain)
        output = answer(model, prompt, Generation(options.max_new_tokens), output=context.answer)
        sources = context.source_units([(unit.start, unit.end) for unit in prompt.units])
        head = {"id": context.id, "kind": context.kind, "copies": len(context.sources), "tokens": options.tokens,
                "prompt_tokens": len(prompt.ids), "units": len(prompt.units), "out": len(output.ids),
                "sources": sources, "budget": options.budget, "model": model.id, "commit": options.commit,
                "threads": torch.get_num_threads()}  # fmt: skip
        every = dict(methods(options.budget, [name for name in names if name != "whole"]))
        for name in names:
            line: dict[str, Any]
            try:
                line = measure(model, prompt, output, sources, name, every.get(name))
            except jopa.JopaError as error:
                line = {"refused": str(error)}
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**head, "method": name, **line}) + "\n")
            print(context.id, name, round(line.get("effect", math.nan), 2), round(line.get("ffe", math.nan), 1),
                  round(line.get("seconds", math.nan)), "s", flush=True)  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    """The lines made so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(lines: list[dict[str, Any]]) -> str:
    """Method × quality and work for each size, as Markdown."""
    lines = [line for line in lines if "refused" not in line]
    found = [line for line in lines if "effect" in line]
    best = {name: max(x["effect"] for x in found if x["id"] == name) for name in {x["id"] for x in found}}
    memory = {line["id"]: line["peak"] for line in lines if line["method"] == "whole"}
    strongest: dict[str, float] = {}
    for line in found:
        known = [*line["singles"].values(), *line.get("alone", [])]
        strongest[line["id"]] = max([*known, strongest.get(line["id"], -math.inf)])
    rows = [
        "| tokens | method | contexts | joint effect / best | ≥ 95 % of best | strongest source found "
        "| all copies found | deletion curve | sufficiency, nats | FFE | seconds | peak memory / plain forward |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for tokens in sorted({line["tokens"] for line in found}):
        own = [line for line in found if line["tokens"] == tokens]
        for method in sorted({line["method"] for line in own}, key=lambda name: -_mean_share(own, name, best)):
            rows.append(_row(tokens, method, [x for x in own if x["method"] == method], best, memory, strongest))
    return "\n".join(rows)


def _mean_share(lines: list[dict[str, Any]], method: str, best: dict[str, float]) -> float:
    return statistics.mean(line["effect"] / best[line["id"]] for line in lines if line["method"] == method)


def _strongest_source(line: dict[str, Any], strongest: dict[str, float]) -> bool | None:
    """Whether the strongest source is in the set; None where another sentence has a larger exact effect alone.

    The largest effect is that of all sentences if `ablation` ran, else of the sources and of what any method chose.
    """
    effects = {int(unit): float(effect) for unit, effect in line["singles"].items()}
    source = max(line["sources"], key=lambda unit: effects[unit])
    return source in line["removed"] if effects[source] >= strongest[line["id"]] - 1e-3 else None


def _row(
    tokens: int, method: str, own: list[dict[str, Any]], best: dict[str, float], memory: dict[str, int],
    strongest: dict[str, float],
) -> str:  # fmt: skip
    shares = [line["effect"] / best[line["id"]] for line in own]
    planted = [line for line in own if line["kind"] == "planted"]
    sources = [hit for line in planted if (hit := _strongest_source(line, strongest)) is not None]
    copies = [set(line["sources"]) <= set(line["removed"]) for line in planted]
    peaks = [line["peak"] / memory[line["id"]] for line in own if line["id"] in memory]
    cells = [
        f"{tokens}", f"`{method}`", f"{len(own)}", f"{statistics.mean(shares):.3f}",
        f"{sum(share >= 0.95 for share in shares)}/{len(shares)}", f"{sum(sources)}/{len(sources)}",
        f"{sum(copies)}/{len(copies)}",
        f"{statistics.mean(statistics.mean(line['curve']) / best[line['id']] for line in own):.3f}",
        f"{statistics.mean(float(line['kept_only']) - float(line['log_prob']) for line in own):.1f}",
        f"{statistics.mean(line['ffe'] for line in own):.1f}",
        f"{statistics.median(line['seconds'] for line in own):.0f}",
        f"{statistics.median(peaks):.2f}" if peaks else "–",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a benchmark over these contexts: which they are, the budget, and the file of its lines."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", help="hub id, folder or .gguf; by default the bundled model")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--contexts", type=int, default=len(MIX))
    parser.add_argument("--budget", type=int, default=8, help="full-forward equivalents")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", help="written into every line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table-only", action="store_true")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--methods", nargs="+", default=["proxy-search", "joint", "greedy"])
    parser.add_argument("--first", type=int, default=0, help="leave out this many contexts at the beginning")
    parser.add_argument("--plain", action="store_true", help="no chat template, as base models want it")
    options = parser.parse_args()
    if not options.table_only:
        run(options)
    print(table(read(options.out)))


if __name__ == "__main__":
    main()
