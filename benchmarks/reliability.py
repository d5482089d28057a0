"""Does anything get lost? Many visitors of one page, and a long benchmark that is killed again and again. Run by hand:

    python benchmarks/reliability.py visitors --visitors 50 --each 4
    python benchmarks/reliability.py soak --cells 2000 --seconds 4

Both use a tiny random model, so that they try the queue and the journals and not the arithmetic. `visitors` needs
Linux: each visitor comes from a loopback address of its own. Ends with status 1 where something was lost or changed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from measuring import machine

import jopa
from jopa.benchmark.records import cell_key, read_run

REQUEST = {"prompt": "Write a story about the doctor and his patient.", "k": 2, "unit": "word", "budget": 8}
BUSY = (429, 503)
TEXT = "write a story about old doctors and their patients who met again in rain after many long years"
METHODS = ("random", "ablation", "greedy", "joint")


def tiny_model() -> jopa.LanguageModel:
    """A random model of one small layer that reads as the bundled one does."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = jopa.load().tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    return jopa.LanguageModel(AutoModelForCausalLM.from_config(config).eval(), tokenizer, "tiny")


# The page -------------------------------------------------------------------------------------------------------------


def visit(port: int, number: int, each: int) -> Counter[str]:
    """One visitor: asks, waits where the page is busy, and reads every answer to its end."""
    seen: Counter[str] = Counter()
    address = (f"127.0.{number // 250}.{2 + number % 250}", 0)
    for turn in range(each):
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600, source_address=address)
            request = REQUEST | {"max_new_tokens": 4 + turn, "prompt": f"{REQUEST['prompt']} Say {number}."}
            connection.request("POST", "/jobs", json.dumps(request))
            response = connection.getresponse()
            text = response.read()
            connection.close()
            if response.status not in BUSY:
                break
            seen["asked to wait"] += 1
            time.sleep(0.2)
        if response.status != 201:
            seen[f"status {response.status}"] += 1
            continue
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600, source_address=address)
        connection.request("GET", f"/jobs/{json.loads(text)['id']}/events")
        last = "nothing"
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                last = json.loads(line[6:])["kind"]
        connection.close()
        seen[last] += 1
    return seen


def visitors(options: argparse.Namespace) -> bool:
    """Whether every request of every visitor ended with a result."""
    from jopa.web import server

    model = tiny_model()
    ready: queue.Queue[str] = queue.Queue()
    settings = {"port": 0, "on_ready": ready.put}
    Thread(target=server.serve, args=(lambda: model,), kwargs=settings, daemon=True).start()
    port = urlsplit(ready.get(timeout=60)).port
    assert port is not None
    started = time.monotonic()
    with ThreadPoolExecutor(options.visitors) as pool:
        parts = list(pool.map(lambda number: visit(port, number, options.each), range(options.visitors)))
    seen = sum(parts, Counter())
    seconds = time.monotonic() - started
    asked = options.visitors * options.each
    others = {name: count for name, count in seen.items() if name not in ("result", "asked to wait")}
    print(f"{machine()}\n{options.visitors} visitors, {asked} requests in {seconds:.0f} s: {seen['result']} results, ")
    print(f"asked to wait {seen['asked to wait']} times; anything else: {others or 'none'}")
    return seen["result"] == asked and not others


# The benchmark --------------------------------------------------------------------------------------------------------


def soak(options: argparse.Namespace) -> bool:
    """Whether a run that is killed again and again has every cell once, with the values of a run that is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny_model()
        model.model.save_pretrained(folder / "model")
        model.tokenizer.save_pretrained(folder / "model")
        n_prompts = -(-options.cells // (2 * len(METHODS)))
        draw = random.Random(0)
        lines = [{"id": str(i), "prompt": " ".join(draw.sample(TEXT.split(), 10))} for i in range(n_prompts)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "soak.toml").write_text(experiment(folder))
        run(folder, "whole", None)
        kills = 0
        while not run(folder, "killed", draw.uniform(0.5, 1.5) * options.seconds):
            kills += 1
        whole, killed = (read_run(folder / each) for each in ("whole", "killed"))
        values = [{cell_key(c): (c.removed, c.log_prob_removed) for c in each.done} for each in (whole, killed)]
        counted = Counter(cell_key(cell) for cell in killed.cells)
        twice = [key for key, count in counted.items() if count > 1]
        print(f"{machine()}\n{len(whole.done)} cells, {kills} kills: {len(killed.done)} cells on record, ")
        print(
            f"{len(twice)} twice, {sum(values[0][key] != values[1].get(key) for key in values[0])} other than without"
        )
        return values[0] == values[1] and not twice and kills > 0


def experiment(folder: Path) -> str:
    """The experiment's file."""
    methods = "".join(f'[[methods]]\nname = "{method}"\n' for method in METHODS)
    return (
        'title = "soak"\nks = [1, 2]\nunit = "word"\nmax_new_tokens = 4\nsentence_bert = false\n'
        f'[[models]]\nname = "tiny"\nid = "{folder / "model"}"\n'
        f'[[data]]\nname = "mine"\npath = "{folder / "prompts.jsonl"}"\n{methods}'
    )


def run(folder: Path, out: str, seconds: float | None) -> bool:
    """Start the command, and kill it after `seconds` of work; whether it came to its end."""
    jopa_bench = [sys.executable, "-c", "from jopa.cli import main; main()", "bench"]
    words = [*jopa_bench, str(folder / "soak.toml"), "--out", str(folder / out)]
    cells = folder / out / "cells.jsonl"
    before = cells.stat().st_size if cells.exists() else 0
    with subprocess.Popen([*words, "--threads", "1"], stderr=subprocess.PIPE, text=True) as process:
        if seconds is not None:
            while process.poll() is None and (not cells.exists() or cells.stat().st_size == before):
                time.sleep(0.01)  # it loads
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
        error = process.communicate()[1]
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the command failed: {error[-500:]}")
    return process.returncode == 0


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    page = commands.add_parser("visitors")
    page.add_argument("--visitors", type=int, default=50)
    page.add_argument("--each", type=int, default=4, help="requests of each visitor, one after the other")
    page.set_defaults(work=visitors)
    long = commands.add_parser("soak")
    long.add_argument("--cells", type=int, default=2000)
    long.add_argument("--seconds", type=float, default=4.0, help="of work before a kill, on average")
    long.set_defaults(work=soak)
    options = parser.parse_args()
    sys.exit(0 if options.work(options) else 1)


if __name__ == "__main__":
    main()
