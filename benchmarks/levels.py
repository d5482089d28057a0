"""From documents to sentences against all sentences at once, at the same budget. See docs/long-contexts.md.

    python benchmarks/levels.py --data ../shared/data --tokens 1000 --contexts 8 --out levels.jsonl
    python benchmarks/levels.py --out levels.jsonl --table-only

The contexts are those of `long_contexts.py`, given as documents; `proxy-search` looks for three sentences whose removal
makes the given answer least likely: among all of them, or level by level. The joint effect is scored exactly by both.
One JSON line is one (context, way); lines that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from long_contexts import add_options, contexts, read, read_texts
from measuring import machine, table

import jopa
from jopa.datasets.long_contexts import LongContext
from jopa.prompt.segmentation import sentences

K = 3
WAYS: dict[str, dict[str, Any]] = {
    "all sentences": {"unit": "sentence", "refine": ()},
    "documents, then sentences": {"unit": "document", "refine": ("sentence",)},
}


def search(
    model: jopa.LanguageModel, context: LongContext, way: str, budget: int, max_new_tokens: int
) -> dict[str, Any]:
    """What one way finds in a context, and at what cost."""
    settings = WAYS[way]
    documents = [{"id": it.id, "title": it.title, "text": it.text} for it in context.documents]
    began = time.perf_counter()
    found = jopa.explain(
        context.question,
        documents=documents,
        model=model,
        k=K,
        method=jopa.make_method("proxy-search", budget=budget),
        removal="delete",
        unit=settings["unit"],
        search=jopa.SearchOptions(refine=settings["refine"], counterfactual=jopa.Generation(1)),
        output=jopa.Generation(max_new_tokens) if context.answer is None else context.answer,
    )
    sources = {(name, sentence) for name, span in context.sources for sentence in overlapping(context, name, span)}
    chosen = {(unit.document, unit.text.strip()) for unit in found.chosen}
    return {
        "id": context.id,
        "kind": context.kind,
        "copies": len(context.sources),
        "prompt_tokens": len(found.input_ids),
        "way": way,
        "budget": budget,
        "effect": found.log_prob - found.log_prob_removed,
        "ffe": found.ffe if not found.levels else sum(level.ffe for level in found.levels),
        "seconds": time.perf_counter() - began,
        "sources": len(sources),
        "sources_found": len(sources & chosen),
    }


def overlapping(context: LongContext, name: str, span: tuple[int, int]) -> Iterator[str]:
    """The sentences of a document that hold a part of a source."""
    (text,) = (it.text for it in context.documents if it.id == name)
    yield from (text[a:b].strip() for a, b in sentences(text, "en") if a < span[1] and span[0] < b)


def run(options: argparse.Namespace) -> None:
    """Make the lines that are not there yet."""
    done = {(line["id"], line["way"]) for line in read(options.out)}
    model = jopa.load(options.model)
    texts = [text for name in ("tldr_news", "counsel_chat") for text in read_texts(options.data / f"{name}.jsonl")]
    for context in contexts(model, texts, options.tokens, options.contexts, options.seed):
        for way in WAYS:
            if (context.id, way) not in done:
                line = search(model, context, way, options.budget, options.max_new_tokens)
                line |= {"tokens": options.tokens, "threads": torch.get_num_threads(), "commit": options.commit}
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(context.id, way, round(line["effect"], 2), round(line["ffe"], 1), flush=True)


def rows(lines: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each size and way, over the contexts that both have."""
    for tokens in sorted({line["tokens"] for line in lines}):
        of_size = [line for line in lines if line["tokens"] == tokens]
        both = set.intersection(*({line["id"] for line in of_size if line["way"] == way} for way in WAYS))
        best = {name: max(line["effect"] for line in of_size if line["id"] == name) for name in both}
        for way in WAYS:
            own = [line for line in of_size if line["way"] == way and line["id"] in both]
            shares = [line["effect"] / best[line["id"]] for line in own]
            planted = [line for line in own if line["kind"] == "planted"]
            yield [
                str(tokens),
                way,
                str(len(own)),
                f"{statistics.mean(shares):.3f}",
                f"{sum(share >= 0.95 for share in shares)}/{len(own)}",
                f"{sum(line['sources_found'] == line['sources'] for line in planted)}/{len(planted)}",
                f"{statistics.mean(line['ffe'] for line in own):.1f}",
                f"{statistics.median(line['seconds'] for line in own):.0f}",
            ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args()
    if not options.table_only:
        run(options)
    print(machine() + "\n")
    measures = ["joint effect / best", "≥ 95 % of best", "all sources found", "FFE", "seconds"]
    print(table(["tokens", "search", "contexts", *measures], list(rows(read(options.out)))))


if __name__ == "__main__":
    main()
