"""What the choice of the linear product is worth: milliseconds a generated token and a scored forward, by product.

    python benchmarks/products.py --rounds 6

The products take turns in one process, so that what else the machine does meets all of them alike. "measured" is what
`jopa` takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from measuring import machine, table

import jopa
from jopa.model.packing import PackedWeights
from jopa.model.products import ROWS, available, time_products

PROMPT = "Write a story about the doctor and his patient."
NEW_TOKENS = 30
SCORED_TOKENS = 400


def forced(model: torch.nn.Module, name: str) -> PackedWeights:
    """As if one product were the fastest for every shape and number of rows."""
    names = ("plain", name)
    seconds = {each: (0.5 if each == name else 1.0,) * len(ROWS) for each in names}
    return PackedWeights(model, lambda shapes, _dtype: dict.fromkeys(shapes, seconds))


def milliseconds(work: Callable[[], object]) -> float:
    """How long a piece of work takes."""
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    """Let the products take turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    model = jopa.load()
    ids = jopa.build_prompt(model.tokenizer, PROMPT).ids
    rows = torch.tensor([list(ids) * (SCORED_TOKENS // len(ids))])
    shapes = {(m.weight.shape[0], m.weight.shape[1]) for m in model.model.modules() if type(m) is torch.nn.Linear}
    timing = milliseconds(lambda: time_products(sorted(shapes), torch.float32))
    variants = {"measured": model.packed}
    variants |= {product.name: forced(model.model, product.name) for product in available(torch.float32)}
    generated: dict[str, list[float]] = {name: [] for name in variants}
    scored: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds + 1):
        for name, packed in variants.items():
            vars(model)["packed"] = packed
            a = milliseconds(lambda: model.generate_ids(ids, jopa.Generation(NEW_TOKENS))) / NEW_TOKENS
            with packed.active(), torch.no_grad():
                b = milliseconds(lambda: model.model(rows, use_cache=False))
            if i:  # the first round packs the weights
                generated[name].append(a)
                scored[name].append(b)
    print(machine())
    print(f"choosing takes {timing / 1e3:.1f} s once; measured: {variants['measured'].description}\n")
    medians = [(n, f"{statistics.median(generated[n]):.0f}", f"{statistics.median(scored[n]):.0f}") for n in variants]
    print(table(["product", "ms a generated token", f"ms a forward of {rows.shape[1]} tokens"], medians))


if __name__ == "__main__":
    main()
