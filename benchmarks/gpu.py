"""A 7B Llama shape in bfloat16 on a GPU: seconds an explanation, and share of the card's matrix rate. By hand:

    python benchmarks/gpu.py

Random weights: time does not depend on them. A prompt of 300 tokens, 150 of them template in front, 100 output tokens,
k = 3: `jopa` (N = 200), `joint`, and Algorithm 1 as it is written down, a full forward a proposal, all logits. The
paper (Table 2) gives 15.2 s for its own on an A6000. With random weights few proposals are accepted late, as with real
ones, but gradients may point elsewhere: the number of different masks is printed beside the seconds.

A second table: explanations a second where the rows of several searches share forwards (`jopa bench --together`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from measuring import machine, matrix_rate, model_flops, random_llama, table, timed
from speed import plain_algorithm_1

import jopa
from jopa.scoring.batch_input import Runner
from jopa.scoring.batched_runner import BatchedRunner

SEARCHES = {"jopa": "zero", "joint": "delete"}
"""Each with the removal it is made for."""
LLAMA_7B = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
"""The shape of Llama-2-7B, but for its layers."""
SEARCHES_AT_A_TIME = (1, 4, 16)
"""Searches at a time; the first is one after another."""


def main() -> None:
    """Measure and print the table, or say that there is no GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=32, help="32 for 7B; fewer for a trial")
    parser.add_argument("--prompt", type=int, default=300)
    parser.add_argument("--template", type=int, default=150)
    parser.add_argument("--output", type=int, default=100)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py: there is no GPU here; not measured")
    model = random_llama(
        LLAMA_7B | {"num_hidden_layers": options.layers}, options.seed, device="cuda", dtype="bfloat16"
    )
    prompt, output = random_case(options, options.seed)
    print(f"Llama shape of {options.layers} layers, bfloat16; {machine()}; seed {options.seed}\n")

    def explain(name: str) -> jopa.ModelScorer:
        (scorer,) = search(model, prompt, output, name, options, Runner())
        return scorer

    tasks: dict[str, Callable[[], Any]] = {name: partial(explain, name) for name in SEARCHES}
    tasks["plain"] = lambda: plain_algorithm_1(model, prompt, output, options.k, options.steps, options.seed)
    timed(tasks, 1)  # kernels are chosen in the first run
    done = timed(tasks, options.repeats)
    rate = matrix_rate()
    rows = []
    for name, timing in done.items():
        seconds = timing.median
        if name == "plain":
            length = options.prompt + options.output
            tokens, masks, n_logits = (options.steps + 4) * length, options.steps + 1, (options.steps + 4) * length
        else:
            work = timing.result.work
            tokens, masks = work.tokens, work.evaluations
            n_logits = (masks + 3 * work.backwards) * options.output
        flops = model_flops(model.model, tokens, n_logits) / seconds
        rows.append(
            (
                name,
                f"{seconds:.2f}",
                f"{seconds / done['plain'].median:.3f}×",
                masks,
                f"{tokens / seconds:.0f}",
                f"{100 * flops / rate:.0f} %",
                f"{timing.peak:.0f}",
            )
        )
    header = (
        "",
        "seconds, median",
        "against plain",
        "masks",
        "tokens/s",
        "of the matrix rate",
        "peak memory, MiB more",
    )
    print(table(header, rows))
    print(f"\nMatrix product, bfloat16: {rate / 1e12:.0f} TFLOP/s.\n")
    print(throughput_of_several(model, options))


def throughput_of_several(model: jopa.LanguageModel, options: argparse.Namespace) -> str:
    """Seconds for each of several random prompts, with more and more of their searches at a time."""
    cases = [random_case(options, options.seed + number) for number in range(max(SEARCHES_AT_A_TIME))]
    rows = []
    for name in SEARCHES:
        first = 0.0
        for size in SEARCHES_AT_A_TIME:
            runner = BatchedRunner(size) if size > 1 else Runner()
            start = time.perf_counter()
            list(runner.work(search(model, *case, name, options, runner) for case in cases))
            seconds = (time.perf_counter() - start) / len(cases)
            first = first or seconds
            rows.append([f"`{name}`", size, f"{seconds:.2f}", f"{first / seconds:.2f}×"])
    return table(["", "at a time", "seconds an explanation", "gain"], rows)


def search(
    model: jopa.LanguageModel,
    prompt: jopa.Prompt,
    output: jopa.Output,
    name: str,
    options: argparse.Namespace,
    runner: Runner,
) -> Iterator[jopa.ModelScorer]:
    """One search, as a piece of work; gives its scorer, which counted."""
    scorer = jopa.ModelScorer(model, prompt, output, SEARCHES[name], runner=runner)
    settings = {"steps": options.steps} if name == "jopa" else {}
    jopa.make_method(name, **settings).run(jopa.Problem(scorer), options.k, seed=options.seed)
    yield scorer


def random_case(options: argparse.Namespace, seed: int) -> tuple[jopa.Prompt, jopa.Output]:
    """Random ids; the units are everything after the template but the last five tokens."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 30000, (options.prompt + options.output,), generator=generator).tolist()
    positions = range(options.template, options.prompt - 5)
    units = tuple(jopa.Unit("x", i, i + 1, (position,)) for i, position in enumerate(positions))
    prompt = jopa.Prompt("x" * len(units), tuple(ids[: options.prompt]), units)
    return prompt, jopa.Output(tuple(ids[options.prompt :]), "", (0, options.output))


if __name__ == "__main__":
    main()
