"""Seconds and work against T, output length, k and batch size; fitted exponents; share of the matrix rate. By hand:

    python benchmarks/scaling.py                              # T up to 300: some minutes on two cores
    python benchmarks/scaling.py --units 10 30 100 300 1000 2000 --outputs 10 30 100
    python benchmarks/scaling.py --width 2048                 # random weights; the share of the matrix rate alone

Prompts are random ids: time does not depend on what they say. Leave-one-out is what is timed against T, output length
and batch size, and `joint` against k. Then the engine's floating-point operations a second (two a weight and token,
attention itself left out) stand beside those of the fastest square matrix product on the same machine; on a CPU also
what kinds of operation its time goes into, and one forward by plain products beside one by those that were chosen.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from measuring import machine, matrix_rate, model_flops, random_llama, table, timed

import jopa


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id, folder or .gguf; by default the bundled model")
    parser.add_argument("--units", nargs="+", type=int, default=[10, 30, 100, 300])
    parser.add_argument("--outputs", nargs="+", type=int, default=[10, 30, 100])
    parser.add_argument("--ks", nargs="+", type=int, default=[1, 3, 10])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--most", type=int, default=64, help="leave-one-out of at most this many units, evenly spaced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="what took so long in all is not run again")
    parser.add_argument("--threads", type=int, help="torch's threads")
    parser.add_argument("--width", type=int, help="four random Llama layers of this width, in place of a model")
    options = parser.parse_args()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    model = jopa.load(options.model) if options.width is None else wide(options.width, options.seed)
    print(f"{model.id}, {model.dtype}; {machine()}; seed {options.seed}, median of {options.repeats}\n")
    if options.width is not None:
        throughput(model, options)
        operations(model, options)
        return

    rows, points = [], []
    for n_units in options.units:
        seconds, ffe = leave_one_out(model, n_units, 30, options)
        points.append((n_units, seconds))
        rows.append((n_units, f"{1e3 * seconds:.1f}", f"{ffe:.2f}"))
    print(table(("T (output 30)", "milliseconds a mask", "FFE a mask"), rows))
    print(f"\nFitted: seconds a mask ~ T^{exponent(points):.2f}.\n" if len(points) > 1 else "")

    rows, points = [], []
    for n_output in options.outputs:
        seconds, ffe = leave_one_out(model, 30, n_output, options)
        points.append((n_output, seconds))
        rows.append((n_output, f"{1e3 * seconds:.1f}", f"{ffe:.2f}"))
    print(table(("output (T = 30)", "milliseconds a mask", "FFE a mask"), rows))
    print(f"\nFitted: seconds a mask ~ output^{exponent(points):.2f}.\n" if len(points) > 1 else "")

    if "joint" in jopa.METHODS:
        rows = []
        for k in options.ks:
            prompt, output = random_case(model, 30, 30, options.seed)

            def search(k: int = k, prompt: jopa.Prompt = prompt, output: jopa.Output = output) -> float:
                problem = jopa.Problem(jopa.ModelScorer(model, prompt, output, "delete"))
                jopa.make_method("joint").run(problem, k, seed=options.seed)
                return problem.ffe

            done = timed({f"k={k}": search}, options.repeats, options.seconds)[f"k={k}"]
            rows.append((k, f"{done.median:.2f}", f"{done.result:.1f}"))
        print(table(("k (joint, T = 30, output 30)", "seconds", "FFE"), rows) + "\n")

    throughput(model, options)
    if model.device.type == "cpu" and model.dtype == "float32":
        operations(model, options)
        packed_weights(model, options)


def wide(width: int, seed: int) -> jopa.LanguageModel:
    """Four layers in the proportions of Llama 3.2 1B, which is 2,048 wide, with a small vocabulary."""
    heads = width // 64
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 4, "vocab_size": 32000}
    shape |= {"num_attention_heads": heads, "num_key_value_heads": max(1, heads // 4)}
    return random_llama(shape, seed, device="cpu", dtype="float32")


def random_case(model: jopa.LanguageModel, n_units: int, n_output: int, seed: int) -> tuple[jopa.Prompt, jopa.Output]:
    """A prompt of `n_units` one-token units after 30 tokens of template, with five after them, and an output."""
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

    done = timed({f"T={n_units}, output {n_output}": score}, options.repeats, options.seconds)
    timing = next(iter(done.values()))
    return timing.median / len(units), timing.result / len(units)


def random_sets(seed: int) -> Any:
    """Keep masks without three of 90 units: no two alike, and beginnings as different as a search's."""
    import torch

    keep = torch.ones(32, 90, dtype=torch.bool)
    random = torch.Generator().manual_seed(seed)
    for row in keep:
        row[torch.randperm(90, generator=random)[:3]] = False
    return keep


def throughput(model: jopa.LanguageModel, options: argparse.Namespace) -> None:
    """Floating-point operations a second against the matrix product's, by batch size, measured in turns.

    Beside the engine: the same rows as transformers computes them, whole and with the head at every position, which is
    more work at a better rate.
    """
    import torch

    prompt, output = random_case(model, 90, 30, options.seed)
    keep = random_sets(options.seed)

    def by_engine(batch_size: int | None) -> float:
        scorer = jopa.ModelScorer(model, prompt, output, "delete", batch_size=batch_size)
        scorer.log_probs(keep)
        return model_flops(model.model, scorer.work.tokens, len(keep) * 30)

    def by_transformers() -> float:
        ids = torch.tensor([*prompt.ids[:-3], *output.ids], device=model.device).expand(4, -1)
        with torch.inference_mode():
            for _ in range(len(keep) // 4):
                model.model(input_ids=ids, use_cache=False)
        return model_flops(model.model, len(keep) * ids.shape[1], len(keep) * ids.shape[1])

    tasks: dict[str, Callable[[], float]] = {str(n): partial(by_engine, n) for n in options.batch_sizes}
    tasks |= {"default": partial(by_engine, None), "transformers alone, 4 whole rows, all logits": by_transformers}
    rows = []
    for name, task in tasks.items():
        shares, rates = [], []
        for _ in range(options.repeats):
            matrix = matrix_rate()
            start = time.perf_counter()
            operations = task()
            rates.append(operations / (time.perf_counter() - start))
            shares.append(rates[-1] / matrix)
        shares.sort()
        rates.sort()
        middle = len(shares) // 2
        rows.append((name, f"{rates[middle] / 1e9:.0f}", f"{100 * shares[middle]:.0f} %"))
    print(table(("batch size (T = 90, output 30)", "GFLOP/s", "of the matrix product's"), rows) + "\n")


def operations(model: jopa.LanguageModel, options: argparse.Namespace) -> None:
    """Where the engine's time goes at the largest batch size, by kind of operation, as torch's profiler sees it."""
    from torch.profiler import ProfilerActivity, profile

    prompt, output = random_case(model, 90, 30, options.seed)
    keep = random_sets(options.seed)
    shares: dict[str, list[float]] = {"matrix products": [], "attention": [], "all else": []}
    rates = []
    for _ in range(options.repeats):
        scorer = jopa.ModelScorer(model, prompt, output, "delete", batch_size=max(options.batch_sizes))
        matrix = matrix_rate()
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            scorer.log_probs(keep)
        seconds = dict.fromkeys(shares, 0.0)
        for event in recorded.key_averages():
            seconds[kind(event.key)] += event.self_cpu_time_total / 1e6
        for name, values in shares.items():
            values.append(seconds[name] / sum(seconds.values()))
        flops = model_flops(model.model, scorer.work.tokens, len(keep) * 30)
        rates.append(flops / seconds["matrix products"] / matrix)
    rows = [(name, f"{100 * statistics.median(values):.0f} %") for name, values in shares.items()]
    print(table((f"operations (batch size {max(options.batch_sizes)})", "of the engine's time"), rows))
    print(f"\nThe model's matrix products run at {100 * statistics.median(rates):.0f} % of the square one's rate.\n")


def kind(operation: str) -> str:
    """The kind of a torch operation."""
    if operation in {"aten::mm", "aten::addmm", "mkl::_mkl_linear", "mkldnn::_linear_pointwise"}:
        return "matrix products"
    return "attention" if "scaled_dot_product" in operation else "all else"


def packed_weights(model: jopa.LanguageModel, options: argparse.Namespace) -> None:
    """A forward by plain products and one by those that were chosen, in turns; then one token after a cache."""
    import torch

    print(f"Products, by rows: {model.packed.description}.\n")
    rows = []
    for n_rows, n_tokens in ((1, 25), (1, 50), (2, 50), (4, 50), (8, 50), (4, 125)):
        ids = torch.randint(1000, (n_rows, n_tokens))

        def forward(ids: Any = ids) -> None:
            with torch.inference_mode():
                model.model.base_model(input_ids=ids, use_cache=False)

        def forward_packed(ids: Any = ids) -> None:
            with torch.inference_mode(), model.packed.active():
                model.model.base_model(input_ids=ids, use_cache=False)

        done = timed({"plain": forward, "chosen": forward_packed}, options.repeats + 1, options.seconds)
        first, second = (1e3 * timing.median for timing in done.values())
        rows.append((f"{n_rows} × {n_tokens}", f"{first:.0f}", f"{second:.0f}", f"{first / second:.2f}×"))
    print(table(("rows × tokens", "plain products, ms a forward", "chosen", "gain"), rows) + "\n")


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Slope of log y by log x, by least squares; of two points at least."""
    xs, ys = ([math.log(point[i]) for point in points] for i in (0, 1))
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - x_mean) ** 2 for x in xs)


if __name__ == "__main__":
    main()
