"""What the timing scripts share: medians of interleaved runs, peak memory, the machine in words, Markdown tables."""

from __future__ import annotations

import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jopa


@dataclass(frozen=True)
class Timing:
    """One thing timed several times.

    Attributes:
        seconds: wall-clock time of each run.
        processor: this process's time on the processors in each run, which other work on the machine disturbs less.
        peak: the largest growth of memory during a run, in MiB.
        result: what the last run gave.
    """

    seconds: tuple[float, ...]
    processor: tuple[float, ...]
    peak: float
    result: Any

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    @property
    def median_processor(self) -> float:
        """Of the processor time, in seconds."""
        return statistics.median(self.processor)


def timed(
    tasks: Mapping[str, Callable[[], Any]], repeats: int, most_seconds: float = float("inf")
) -> dict[str, Timing]:
    """Run every task `repeats` times, in turns, so that a busy moment of the machine meets all of them alike.

    A task that has taken `most_seconds` in all is not run again; `Timing.seconds` tells how often it was.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    processor: dict[str, list[float]] = {name: [] for name in tasks}
    peaks: dict[str, float] = dict.fromkeys(tasks, 0.0)
    results: dict[str, Any] = {}
    for turn in range(repeats):
        for name, task in tasks.items():
            if sum(seconds[name]) >= most_seconds:
                continue
            before = _reset_peak()
            start, start_processor = time.perf_counter(), time.process_time()
            results[name] = task()
            _synchronize()
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - start_processor)
            peaks[name] = max(peaks[name], _peak() - before)
            print(f"  {name}: {seconds[name][-1]:.3f} s (run {turn + 1} of {repeats})", file=sys.stderr, flush=True)
    return {name: Timing(tuple(seconds[name]), tuple(processor[name]), peaks[name], results[name]) for name in tasks}


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _reset_peak() -> float:
    """Forget the peak so far; memory in use now, in MiB."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _status("VmRSS")
    return _status("VmRSS")


def _peak() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else _status("VmHWM")


def _status(field: str) -> float:
    """A line of /proc/self/status in MiB; NaN where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def machine() -> str:
    """Processor, threads, accelerator, versions, date and command, in one paragraph."""
    import torch

    from jopa.model.machine import processor_name

    names = ("torch", "transformers", "captum", "scikit-learn")
    versions = ", ".join(f"{name} {found}" for name in names if (found := _version(name)))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{processor_name()}, {torch.get_num_threads()} threads, {device}; Python {platform.python_version()}, "
        f"{versions}; {datetime.datetime.now(datetime.UTC).date()}; `python {' '.join(sys.argv)}`"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])


def matrix_rate(n: int = 0) -> float:
    """Floating-point operations a second of a square matrix product, the best of several.

    On a CPU that is the fastest of the products that this machine has in float32, weights packed beforehand.

    Args:
        n: side of the square matrices; by default 1024 on a CPU and 8192 (bfloat16) on a GPU.
    """
    import torch

    cuda = torch.cuda.is_available()
    n = n or (8192 if cuda else 1024)
    a = torch.randn(n, n, device="cuda" if cuda else "cpu", dtype=torch.bfloat16 if cuda else torch.float32)
    if cuda:
        tasks = [lambda: torch.mm(a, a)]
    else:
        from jopa.model.products import available

        tasks = [
            partial(product.multiply, a, product.pack(a) if product.pack else None, a, None)
            for product in available(a.dtype)
        ]
    best = float("inf")
    with torch.no_grad():
        for _ in range(10):
            for task in tasks:
                start = time.perf_counter()
                for _ in range(5):
                    task()
                _synchronize()
                best = min(best, (time.perf_counter() - start) / 5)
    return 2 * n**3 / best


def memory_rate() -> float:
    """Bytes a second that all threads read from memory, the best of several passes over 512 MiB."""
    import torch

    numbers = torch.ones(2**27)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - start)
    return numbers.nbytes / best


def model_flops(model: Any, tokens: float, n_logits: float) -> float:
    """Floating-point operations of a forward, by its weights: the body for every token, the head for those read."""
    head = model.get_output_embeddings().weight.numel()
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    body = sum(p.numel() for p in model.parameters() if id(p) not in embeddings)
    return 2 * (body * tokens + head * n_logits)


def random_llama(shape: Mapping[str, int], seed: int, *, device: str, dtype: str) -> jopa.LanguageModel:
    """A Llama with random weights, made on the device, and a tokenizer that is never asked for text.

    Args:
        shape: fields of `transformers.LlamaConfig`.
        seed: of the weights.
        device: as torch names it.
        dtype: as torch names it.
    """
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            config = LlamaConfig.from_dict({**shape, "max_position_embeddings": 4096})
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)
    words = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")
    return jopa.LanguageModel(model, tokenizer, f"random Llama, {shape['hidden_size']} wide")
