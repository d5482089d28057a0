"""What the choice of the linear product is worth: milliseconds a generated token and a scored forward, by product.

    python benchmarks/products.py --rounds 6

The products take turns in one process, so that what else the machine does meets all of them alike. "measured" is what
`jopa` takes. A generated token counts its part of the prompt's forward. Beside it stands a forward of one token behind
fifty, as the share of the memory's rate at which it reads the weights, each time measured right before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from measuring import machine, memory_rate, model_flops, table

import jopa
from jopa.model.packing import PackedWeights
from jopa.model.products import ROWS, available, time_products

PROMPT = "Write a story about the doctor and his patient."
NEW_TOKENS = 30
SCORED_TOKENS = 400
TOKENS_BEFORE = 50


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


def one_token(model: torch.nn.Module) -> float:
    """Milliseconds of a forward of one token after others that are cached, the mean of eight."""
    cache = model(torch.arange(TOKENS_BEFORE)[None], use_cache=True).past_key_values
    token = torch.zeros(1, 1, dtype=torch.long)
    return milliseconds(lambda: [model(token, past_key_values=cache, use_cache=True) for _ in range(8)]) / 8


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
    single: dict[str, list[float]] = {name: [] for name in variants}
    shares: dict[str, list[float]] = {name: [] for name in variants}
    scored: dict[str, list[float]] = {name: [] for name in variants}
    n_bytes = model_flops(model.model, 1, 1) / 2 * model.model.dtype.itemsize  # each weight is read once a token
    for i in range(rounds + 1):
        for name, packed in variants.items():
            vars(model)["packed"] = packed
            a = milliseconds(lambda: model.generate_ids(ids, jopa.Generation(NEW_TOKENS))) / NEW_TOKENS
            rate = memory_rate()
            with packed.active(), torch.inference_mode():
                b, c = one_token(model.model), milliseconds(lambda: model.model(rows, use_cache=False))
            if i:  # the first round packs the weights
                generated[name].append(a)
                single[name].append(b)
                shares[name].append(100 * n_bytes / (1e-3 * b) / rate)
                scored[name].append(c)
    print(machine())
    print(f"choosing takes {timing / 1e3:.1f} s once; measured: {variants['measured'].description}\n")
    columns = {
        "ms a generated token": generated,
        "ms a forward of one token": single,
        "% of the memory's rate": shares,
        f"ms a forward of {rows.shape[1]} tokens": scored,
    }
    medians = [(name, *(f"{statistics.median(found[name]):.0f}" for found in columns.values())) for name in variants]
    print(table(["product", *columns], medians))


if __name__ == "__main__":
    main()
