"""A real vLLM server against the same model in this process: log-probabilities, sets, and a server that dies.

    compare_with_vllm.py PYTHON      PYTHON: the interpreter that has vLLM

Ends with status 1 at the first difference.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import torch

import jopa

PROMPTS = [
    ("Write a story about the doctor and his patient.", {"k": 3}, 40),
    ("What is the capital of France?", {"k": 2, "unit": "word"}, 30),
]
MAX_DIFFERENCE = 1e-3  # nats a token
START_SECONDS = 600


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Vllm:
    """The server of one model folder; started and stopped by hand."""

    def __init__(self, python: str, folder: str, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.command = [
            *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "smol"),
            *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "2048"),
            "--enforce-eager",
        ]

    def start(self) -> None:
        quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **quiet, "VLLM_CPU_KVCACHE_SPACE": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, "the server ended by itself"
            try:
                if httpx.get(f"{self.url}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(1)
        raise AssertionError("the server did not start")

    def stop(self, signal: int = 15) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal)
            self.process.wait(60)


def compare(local: jopa.LanguageModel, remote: jopa.RemoteModel) -> None:
    for text, options, max_new_tokens in PROMPTS:
        generation = jopa.Generation(max_new_tokens)
        there = jopa.explain(text, model=remote, output=generation, **options)
        output = jopa.Output(there.output_ids, there.output, there.target)
        search = jopa.SearchOptions(counterfactual=generation)
        here = jopa.explain(text, model=local, output=output, search=search, **options)
        prompt = jopa.build_prompt(local.tokenizer, text)
        keep = torch.rand(20, len(prompt.units), generator=torch.Generator().manual_seed(0)) > 0.3
        one, other = (model.scorer(prompt, output, "delete").log_probs(keep).double() for model in (local, remote))
        difference = float((one - other).abs().max())
        print(
            f"{text!r}: {difference:.1e} nats a token; removed {here.removed} here, {there.removed} there", flush=True
        )
        assert difference < MAX_DIFFERENCE
        assert here.removed == there.removed
        assert here.certificate == there.certificate
        assert here.counterfactual_output == there.counterfactual_output


def survive(server: Vllm, remote: jopa.RemoteModel) -> None:
    """Kill the server in the middle of a search, start it, and go on without paying twice."""
    text, options = "Tell me why the sea is salty and who found it out.", {"k": 3, "output": jopa.Generation(20)}
    killer = threading.Timer(0.0, server.stop, [9])
    begun = threading.Event()

    def kill(best: object) -> None:
        if not begun.is_set():
            begun.set()
            killer.start()

    try:
        jopa.explain(text, model=remote, callbacks=jopa.Callbacks(on_best=kill), **options)
        raise AssertionError("the search ended before the server did")
    except jopa.ModelError as error:
        print(error, flush=True)
    killer.join()
    server.start()
    before = remote.tokens_sent
    found = jopa.explain(text, model=remote, **options)
    print(f"after the restart: removed {found.removed}, {remote.tokens_sent - before} more tokens sent", flush=True)


def main() -> None:
    local = jopa.load()
    folder = tempfile.mkdtemp()
    local.model.save_pretrained(folder)
    local.tokenizer.save_pretrained(folder)
    os.environ["JOPA_CACHE"] = str(Path(folder) / "cache")
    server = Vllm(sys.argv[1], folder, free_port())
    try:
        server.start()
        remote = jopa.connect(server.url, model="smol", timeout=300, attempts=3)
        compare(local, remote)
        survive(server, remote)
    finally:
        server.stop()
    print("same", flush=True)


if __name__ == "__main__":
    main()
