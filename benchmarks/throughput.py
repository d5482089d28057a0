"""Many prompts on one machine: what is there to gain by working on several at once? Run by hand, on an idle machine:

    python benchmarks/throughput.py

Two ways, on the same prompts, output 30 tokens, k = 3:

    processes    several processes of one thread each, against one process with all threads
    batches      the rows of several prompts in one forward, against a forward for each prompt: the shapes that each
                 search asks for are recorded, and played back both ways
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
from speed import PROMPT

import jopa
from jopa.answering import Generation, answer
from jopa.prefixes import Prefix, cache_behind

PROMPTS = (
    PROMPT,
    "Explain to a child of eight years why the sea is salty although rivers bring nothing but fresh water to it.",
    "Give me a plan for a small garden in the shade where I want to grow herbs, salad and a few red flowers.",
    "My daughter refuses to go to school since her best friend moved away last month; how can I help her?",
)
METHODS = {"jopa": "delete", "jopa-paper": "zero", "ablation": "delete"}
"""Each with the removal it is made for."""


class Rows(NamedTuple):
    """Rows of one forward."""

    n: int
    begin: int
    """Tokens of the cached beginning that they share."""
    own: int
    """Tokens of each behind it."""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id, folder or .gguf; by default the bundled model")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each; the other has as many threads")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.processes)
    model = jopa.load(options.model)
    print(f"{model.id}, {model.dtype}; {machine()}; seed 0, median of {options.repeats}\n")
    print(processes(options), end="\n\n")
    print(batches(model, options))


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
    barrier = context.Barrier(len(jobs), timeout=600)  # seconds; if one process fails, the others are not to wait
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


def batches(model: jopa.LanguageModel, options: argparse.Namespace) -> str:
    """Seconds of the forwards that searches of two and of all prompts ask for: each by itself, and those that come at
    the same place in each search as one."""
    rows = []
    for method in METHODS:
        asked = [forwards(model, prompt, method) for prompt in PROMPTS]
        for n in (2, len(PROMPTS)):
            rounds = list(zip(*asked[:n], strict=False))
            apart, together = [], []
            for _ in range(options.repeats):
                start = time.perf_counter()
                for parts in rounds:
                    for part in parts:
                        forward(model, [part])
                middle = time.perf_counter()
                for parts in rounds:
                    forward(model, parts)
                together.append(time.perf_counter() - middle)
                apart.append(middle - start)
            size = statistics.mean(part.n for parts in rounds for part in parts)
            ratio = statistics.median(a / b for a, b in zip(apart, together, strict=True))
            seconds = [f"{statistics.median(apart):.2f}", f"{statistics.median(together):.2f}"]
            rows.append([f"`{method}`", n, n * len(rounds), f"{size:.1f}", *seconds, f"{ratio:.2f}×"])
    return table(["method", "prompts", "forwards", "rows in each", "apart, s", "together, s", "gain"], rows)


def forwards(model: jopa.LanguageModel, text: str, method: str) -> list[Rows]:
    """The forwards without gradients that a search asks for, in their order."""
    import torch

    seen: list[Rows] = []

    def look(_module: object, _arguments: object, options: dict[str, Any]) -> None:
        if torch.is_inference_mode_enabled():
            given = options.get("input_ids")
            given = options["inputs_embeds"] if given is None else given
            cache = options.get("past_key_values")
            seen.append(Rows(len(given), 0 if cache is None else cache.get_seq_length(), given.shape[1]))

    prompt = jopa.build_prompt(model.tokenizer, text)
    problem = jopa.Problem(jopa.ModelScorer(model, prompt, answer(model, prompt, Generation(30)), METHODS[method]))
    hook = model.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        jopa.make_method(method).run(problem, 3)
    finally:
        hook.remove()
    return seen


def forward(model: jopa.LanguageModel, parts: Sequence[Rows]) -> None:
    """One forward of all these rows, of whatever tokens: with one shared beginning as the engine does it; for several
    beginnings with a cache for each row, filled up to the longest, and a mask for what was filled up."""
    import torch
    from transformers import DynamicCache

    config = model.model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    n_rows, begin, own = (
        sum(part.n for part in parts),
        max(part.begin for part in parts),
        max(part.own for part in parts),
    )
    alone = len(parts) == 1

    def cached() -> tuple[Any, Any]:
        shape = (1 if alone else n_rows, config.num_key_value_heads, begin, size)
        return torch.zeros(shape), torch.zeros(shape)

    layers = tuple(cached() for _ in range(config.num_hidden_layers))
    begins = torch.tensor([part.begin for part in parts for _ in range(part.n)])[:, None]
    arguments: dict[str, Any] = {"position_ids": begins + torch.arange(own)}
    arguments["past_key_values"] = cache_behind([Prefix(begin, layers)] * n_rows) if alone else DynamicCache(layers)
    if not alone:
        places = torch.arange(begin + own)
        arguments["attention_mask"] = ((places < begins) | (places >= begin)).long()
    with torch.inference_mode():
        ids = torch.zeros(n_rows, own, dtype=torch.long)
        model.model(input_ids=ids, **arguments, use_cache=True, logits_to_keep=30)


if __name__ == "__main__":
    main()
