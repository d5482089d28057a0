"""Seconds and work against T, output length, k and batch size; fitted exponents; share of the matrix rate. By hand:

    python benchmarks/scaling.py                              # T up to 300: some minutes on two cores
    python benchmarks/scaling.py --units 10 30 100 300 1000 2000 --outputs 10 30 100

Prompts are random ids: time does not depend on what they say. Leave-one-out is what is timed against T, output length
and batch size, and `jopa` against k. The last table sets the engine's floating-point operations a second (two a weight
and token, attention itself left out) beside those of a plain matrix product on the same machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

from measuring import machine, matrix_rate, model_flops, table, timed

import jopa


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id, folder or .gguf; by default the bundled model")
    parser.add_argument("--units", nargs="+", type=int, default=[10, 30, 100, 300])
    parser.add_argument("--outputs", nargs="+", type=int, default=[10, 30, 100])
    parser.add_argument("--ks", nargs="+", type=int, default=[1, 3, 10])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--most", type=int, default=64, help="leave-one-out of at most so many units, evenly spaced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    model = jopa.load(options.model)
    print(f"{model.id}, {model.dtype}; {machine()}; seed {options.seed}, median of {options.repeats}\n")

    rows, points = [], []
    for n_units in options.units:
        seconds, ffe = leave_one_out(model, n_units, 30, options)
        points.append((n_units, seconds))
        rows.append((n_units, f"{1e3 * seconds:.1f}", f"{ffe:.2f}"))
    print(table(("T (output 30)", "milliseconds a mask", "FFE a mask"), rows))
    print(f"\nFitted: seconds a mask ~ T^{exponent(points):.2f}.\n")

    rows, points = [], []
    for n_output in options.outputs:
        seconds, ffe = leave_one_out(model, 30, n_output, options)
        points.append((n_output, seconds))
        rows.append((n_output, f"{1e3 * seconds:.1f}", f"{ffe:.2f}"))
    print(table(("output (T = 30)", "milliseconds a mask", "FFE a mask"), rows))
    print(f"\nFitted: seconds a mask ~ output^{exponent(points):.2f}.\n")

    if "jopa" in jopa.METHODS:
        rows = []
        for k in options.ks:
            prompt, output = random_case(model, 30, 30, options.seed)

            def search(k: int = k, prompt: jopa.Prompt = prompt, output: jopa.Output = output) -> float:
                problem = jopa.Problem(jopa.ModelScorer(model, prompt, output, "delete"))
                jopa.make_method("jopa").run(problem, k, seed=options.seed)
                return problem.ffe

            done = timed({f"k={k}": search}, options.repeats)[f"k={k}"]
            rows.append((k, f"{done.median:.2f}", f"{done.result:.1f}"))
        print(table(("k (jopa, T = 30, output 30)", "seconds", "FFE"), rows) + "\n")

    throughput(model, options)


def random_case(model: jopa.LanguageModel, n_units: int, n_output: int, seed: int) -> tuple[jopa.Prompt, jopa.Output]:
    """A prompt of so many one-token units behind 30 tokens of template, with five behind them, and an output."""
    import torch

    vocabulary = model.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary // 10, vocabulary // 2, (35 + n_units + n_output,), generator=generator).tolist()
    units = tuple(jopa.Unit("x", i, i + 1, (30 + i,)) for i in range(n_units))
    prompt = jopa.Prompt("x" * n_units, tuple(ids[: 35 + n_units]), units)
    return prompt, jopa.Output(tuple(ids[35 + n_units :]), "", (0, n_output))


def leave_one_out(
    model: jopa.LanguageModel,
    n_units: int,
    n_output: int,
    options: argparse.Namespace,
    batch_size: int | None = None,
) -> tuple[float, float]:
    """Median seconds and FFE a mask."""
    import torch

    prompt, output = random_case(model, n_units, n_output, options.seed)
    step = max(1, n_units // options.most)
    units = list(range(0, n_units, step))
    keep = torch.ones(len(units), n_units, dtype=torch.bool)
    keep[range(len(units)), units] = False

    def score() -> float:
        scorer = jopa.ModelScorer(model, prompt, output, "delete", batch_size=batch_size)
        scorer.log_probs(keep)
        return scorer.ffe

    done = timed({f"T={n_units}, output {n_output}": score}, options.repeats)
    timing = next(iter(done.values()))
    return timing.median / len(units), timing.result / len(units)


def throughput(model: jopa.LanguageModel, options: argparse.Namespace) -> None:
    """Floating-point operations a second against the matrix product's, by batch size, measured in turns."""
    import torch

    prompt, output = random_case(model, 90, 30, options.seed)
    keep = torch.ones(32, 90, dtype=torch.bool)
    keep[torch.arange(32)[:, None], torch.arange(32)[:, None] // 8 + torch.arange(3)] = False
    rows = []
    for batch_size in [*options.batch_sizes, None]:
        shares, rates = [], []
        for _ in range(options.repeats):
            matrix = matrix_rate()
            scorer = jopa.ModelScorer(model, prompt, output, "delete", batch_size=batch_size)
            start = time.perf_counter()
            scorer.log_probs(keep)
            seconds = time.perf_counter() - start
            rates.append(model_flops(model.model, scorer.work.tokens, len(keep) * 30) / seconds)
            shares.append(rates[-1] / matrix)
        shares.sort()
        rates.sort()
        middle = len(shares) // 2
        name = "default" if batch_size is None else batch_size
        rows.append((name, f"{rates[middle] / 1e9:.0f}", f"{100 * shares[middle]:.0f} %"))
    print(table(("batch size (T = 90, output 30)", "GFLOP/s", "of the matrix product's"), rows) + "\n")


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Slope of log y by log x, by least squares; NaN for a single point."""
    if len(points) < 2:
        return math.nan
    xs, ys = ([math.log(point[i]) for point in points] for i in (0, 1))
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - x_mean) ** 2 for x in xs)


if __name__ == "__main__":
    main()
