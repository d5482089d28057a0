"""Many prompts on one machine: what is there to gain by working on several at once? Run by hand, on an idle machine:

    python benchmarks/throughput.py

Two ways, on the same prompts, output 30 tokens, k = 3:

    processes    several processes of one thread each, against one process with all threads
    together     several searches in turns in one process, whose rows share forwards (`jopa.scoring.batched_runner`),
    against one after another
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

from measuring import machine, table
from speed import PROMPT

import jopa
from jopa.model.generation import Generation
from jopa.preparation import answer
from jopa.scoring.batch_input import Runner
from jopa.scoring.batched_runner import BatchedRunner

PROMPTS = (
    PROMPT,
    "Explain to a child of eight years why the sea is salty although rivers bring nothing but fresh water to it.",
    "Give me a plan for a small garden in the shade where I want to grow herbs, salad and a few red flowers.",
    "My daughter refuses to go to school since her best friend moved away last month; how can I help her?",
)
METHODS = {"joint": "delete", "jopa": "zero", "ablation": "delete"}
"""Each with the removal it is made for."""


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
    print(throughput_of_several(model, options))


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


def throughput_of_several(model: jopa.LanguageModel, options: argparse.Namespace) -> str:
    """Seconds until all prompts are explained, one after another, and by two and all of them in turns."""
    sizes = (1, 2, len(PROMPTS))
    built = [jopa.build_prompt(model.tokenizer, prompt) for prompt in PROMPTS]
    cases = [(prompt, answer(model, prompt, Generation(30))) for prompt in built]
    rows = []
    for method, removal in METHODS.items():
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(options.repeats):
            for size in sizes:
                runner = BatchedRunner(size) if size > 1 else Runner()
                start = time.perf_counter()
                list(runner.work(search(model, *case, method, removal, runner) for case in cases))
                seconds[size].append(time.perf_counter() - start)
        for size in sizes[1:]:
            ratio = statistics.median(a / b for a, b in zip(seconds[1], seconds[size], strict=True))
            medians = [f"{statistics.median(seconds[it]):.2f}" for it in (1, size)]
            rows.append([f"`{method}`", size, *medians, f"{ratio:.2f}×"])
    return table(["method", "at a time", "one after another, s", "together, s", "gain"], rows)


def search(
    model: jopa.LanguageModel, prompt: jopa.Prompt, output: jopa.Output, method: str, removal: str, runner: Runner
) -> Iterator[jopa.Selection]:
    """One search, as a piece of work."""
    problem = jopa.Problem(jopa.ModelScorer(model, prompt, output, removal, runner=runner))
    yield jopa.make_method(method).run(problem, 3)


if __name__ == "__main__":
    main()
