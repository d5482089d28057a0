"""Many prompts on one machine: what is there to gain by working on several at once? Run by hand, on an idle machine:

    python benchmarks/throughput.py

Two ways, on the same prompts, output 30 tokens, k = 3:

    processes    several processes of one thread each, against one process with all threads
    batches      the rows of several prompts in one forward, against a forward for each prompt; rows that begin with
                 caches of different lengths need a mask for what fills up the shorter ones
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

from measuring import machine, table

import jopa
from jopa.explanation import Generation, answer
from jopa.prefixes import Prefix

PROMPTS = (
    "Write a short story about an old doctor and his youngest patient, who meet again in the rain after many years.",
    "Explain to a child of eight years why the sea is salty although rivers bring nothing but fresh water to it.",
    "Give me a plan for a small garden in the shade where I want to grow herbs, salad and a few red flowers.",
    "My daughter refuses to go to school since her best friend moved away last month; how can I help her?",
)
METHODS = {"jopa": "delete", "jopa-paper": "zero", "ablation": "delete"}
"""Each with the removal it is made for."""


class Rows(NamedTuple):
    """Rows of one prompt that share a beginning."""

    n: int
    begin: int
    """Tokens of the beginning, whose cache is there."""
    own: int
    """Tokens of each row behind it."""


BATCHES = {
    "`jopa`, long prompts": [Rows(4, 60, 90), Rows(4, 50, 80)],
    "`jopa`, shorter ones": [Rows(4, 60, 60), Rows(4, 80, 55)],
    "`jopa-paper`, a few proposals ahead": [Rows(2, 30, 45), Rows(2, 32, 40)],
    "`jopa-paper`, one proposal each": [Rows(1, 30, 45), Rows(1, 30, 40), Rows(1, 33, 50), Rows(1, 30, 45)],
}
"""Shapes as those searches ask for them."""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id, folder or .gguf; by default the bundled model")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each; the other has as many threads")
    parser.add_argument(
        "--repeats", type=int, default=3, help="of the processes; forwards are repeated three times as often"
    )
    options = parser.parse_args()
    print(f"{machine()}; median of {options.repeats}\n")
    print(processes(options), end="\n\n")
    print(batches(options))


def processes(options: argparse.Namespace) -> str:
    """Seconds until all prompts are explained, one way and the other in turns."""
    n = options.processes
    split = [list(PROMPTS[i::n]) for i in range(n)]
    ways = {"one": [(n, list(PROMPTS))], "several": [(1, share) for share in split]}
    seconds: dict[tuple[str, str], list[float]] = {(way, method): [] for way in ways for method in METHODS}
    for _ in range(options.repeats):
        for way, jobs in ways.items():
            for method, value in at_once(jobs, options.model).items():
                seconds[way, method].append(value)
    rows = []
    for method in METHODS:
        one, several = (statistics.median(seconds[way, method]) for way in ways)
        rows.append([f"`{method}`", f"{one:.2f}", f"{several:.2f}", f"{one / several:.2f}×"])
    return table(["method", f"one process, {n} threads, s", f"{n} processes, one thread each, s", "gain"], rows)


def at_once(jobs: Sequence[tuple[int, list[str]]], model: str | None) -> dict[str, float]:
    """Seconds of each method from the common start to the end of the slowest process."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(jobs))
    with context.Manager() as manager:
        told = manager.list()
        workers = [
            context.Process(target=explain_all, args=(threads, prompts, model, barrier, told))
            for threads, prompts in jobs
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        return {method: max(seconds[method] for seconds in told) for method in METHODS}


def explain_all(threads: int, prompts: Sequence[str], model_id: str | None, barrier: Barrier, told: Any) -> None:
    """Explain these prompts by every method, beginning each method together with the other processes."""
    import torch

    torch.set_num_threads(threads)
    model = jopa.load(model_id)
    built = [jopa.build_prompt(model.tokenizer, prompt) for prompt in prompts]
    outputs = [answer(model, prompt, Generation(30)) for prompt in built]
    seconds = {}
    for method, removal in METHODS.items():
        barrier.wait()
        start = time.perf_counter()
        for prompt, output in zip(built, outputs, strict=True):
            problem = jopa.Problem(jopa.ModelScorer(model, prompt, output, removal))
            jopa.make_method(method).run(problem, 3)
        seconds[method] = time.perf_counter() - start
    told.append(seconds)


def batches(options: argparse.Namespace) -> str:
    """Seconds of the same rows, a forward for each prompt and one for all."""
    import torch

    torch.set_num_threads(options.processes)
    torch.manual_seed(0)
    model = jopa.load(options.model)
    rows = []
    for name, parts in BATCHES.items():
        apart, together = [], []
        for _ in range(3 * options.repeats):
            start = time.perf_counter()
            for part in parts:
                forward(model, [part])
            middle = time.perf_counter()
            forward(model, parts)
            together.append(time.perf_counter() - middle)
            apart.append(middle - start)
        ratio = statistics.median(a / b for a, b in zip(apart, together, strict=True))
        shape = ", ".join(f"{part.n} × {part.own} on {part.begin}" for part in parts)
        rows.append(
            [name, shape, f"{statistics.median(apart):.3f}", f"{statistics.median(together):.3f}", f"{ratio:.2f}×"]
        )
    return table(["batches", "rows × own tokens on cached ones", "apart, s", "together, s", "gain"], rows)


def forward(model: jopa.LanguageModel, parts: Sequence[Rows]) -> None:
    """One forward of random tokens behind random caches: the engine's way for one prompt, filled up for several."""
    import torch
    from transformers import DynamicCache

    config = model.model.config.get_text_config()
    n_rows, begin = sum(part.n for part in parts), max(part.begin for part in parts)
    own = max(part.own for part in parts)
    prefixes = [random_prefix(config, part.begin) for part in parts]
    positions = torch.cat([torch.arange(part.begin, part.begin + own).expand(part.n, -1) for part in parts])
    arguments: dict[str, Any] = {"input_ids": torch.randint(0, config.vocab_size, (n_rows, own))}
    if len(parts) == 1:
        arguments["past_key_values"] = prefixes[0].for_rows(n_rows)
    else:
        filled = [
            torch.nn.functional.pad(torch.ones(part.n, part.begin, dtype=torch.long), (0, begin - part.begin))
            for part in parts
        ]
        arguments["attention_mask"] = torch.cat([torch.cat(filled), torch.ones(n_rows, own, dtype=torch.long)], dim=1)
        arguments["past_key_values"] = DynamicCache(
            [
                tuple(
                    torch.cat(
                        [
                            torch.nn.functional.pad(
                                prefix.layers[layer][which], (0, 0, 0, begin - prefix.length)
                            ).expand(part.n, -1, -1, -1)
                            for part, prefix in zip(parts, prefixes, strict=True)
                        ]
                    )
                    for which in (0, 1)
                )
                for layer in range(config.num_hidden_layers)
            ]
        )
    with torch.inference_mode():
        model.model(**arguments, position_ids=positions, use_cache=True, logits_to_keep=30)


def random_prefix(config: Any, length: int) -> Prefix:
    """A cache of so many tokens."""
    import torch

    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (1, config.num_key_value_heads, length, size)
    return Prefix(length, tuple((torch.randn(shape), torch.randn(shape)) for _ in range(config.num_hidden_layers)))


if __name__ == "__main__":
    main()
