"""A real vLLM server against the same model in this process; and the same server as a chat API.

    compare_with_vllm.py PYTHON      PYTHON: the interpreter that has vLLM

Log-probabilities, sets of all black-box methods, a wrong key, ten searches at once, a server that is killed in the
middle of a search and started again. Ends with status 1 at the first difference.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from compare_chat import compare_chat

import jopa
from servers import KEY, RunningServer, note, vllm

PROMPTS = [
    ("Write a story about the doctor and his patient.", {"k": 3}, 40),
    ("What is the capital of France?", {"k": 2, "unit": "word"}, 30),
]
MAX_DIFFERENCE = 1e-3  # nats a token
BLACK_BOX = [name for name, kind in jopa.METHODS.items() if kind.requires == "scores" and name != "proxyspex"]


def compare(local: jopa.LanguageModel, remote: jopa.RemoteModel) -> None:
    """Log-probabilities and sets."""
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
        note(f"{text!r}: {difference:.1e} nats a token; removed {here.removed} here, {there.removed} there")
        assert difference < MAX_DIFFERENCE
        assert here.removed == there.removed
        assert here.certificate == there.certificate
        assert here.counterfactual_output == there.counterfactual_output


def compare_methods(local: jopa.LanguageModel, remote: jopa.RemoteModel) -> None:
    """What every black-box method finds, and what a run sends against what was said before."""
    text = "Name a river in Egypt and a city."
    for name in BLACK_BOX:
        options = {"k": 2, "unit": "word", "method": name, "removal": "delete", "output": jopa.Generation(10)}
        cost = jopa.cost_at_most(text, [name], k=2, model=remote, unit="word", output=jopa.Generation(10))
        before = remote.tokens_sent
        here, there = (jopa.explain(text, model=model, **options) for model in (local, remote))
        note(
            f"{name}: {here.removed} here, {there.removed} there; {remote.tokens_sent - before} of {cost.tokens} tokens"
        )
        assert here.output_ids == there.output_ids
        assert here.removed == there.removed
        assert here.certificate == there.certificate
        assert remote.tokens_sent - before <= cost.tokens


def refuse_a_wrong_key(server: RunningServer) -> None:
    """A wrong key is one line, without the key."""
    os.environ["WRONG_KEY"] = "sk-wrong-0123456789"
    try:
        jopa.connect(server.url, model="smol", key_variable="WRONG_KEY")
        raise AssertionError("a wrong key was taken")
    except jopa.ModelError as error:
        note(str(error))
        assert "sk-wrong" not in str(error)
        assert "WRONG_KEY" in str(error)


def ten_at_once(local: jopa.LanguageModel, remote: jopa.RemoteModel) -> None:
    """Ten searches over one connection find what each finds here."""
    texts = [f"Tell me one thing about {name}." for name in "cats dogs rain snow tea art ice sand wood salt".split()]

    def explain(text: str, model: jopa.LanguageModel | jopa.RemoteModel) -> jopa.Attribution:
        return jopa.explain(text, k=2, model=model, unit="word", output=jopa.Generation(8))

    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda text: explain(text, remote), texts))
    assert [each.removed for each in found] == [explain(text, local).removed for text in texts]
    note("ten searches at once: the same sets")


def survive(server: RunningServer, remote: jopa.RemoteModel) -> None:
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
        note(str(error))
    killer.join()
    server.start()
    found = jopa.explain(text, model=remote, **options)
    again = jopa.explain(text, model=remote, **options)
    first, second = (each.details["server"] for each in (found, again))
    note(f"after the restart: removed {found.removed}, {first}; once more: {second}")
    assert first["tokens_cached"] > 0, "what was scored before the server died was paid for again"
    # What is on disk costs nothing, so the second search may send further sets within its budget.
    assert second["tokens_cached"] >= first["tokens_cached"] + first["tokens_sent"]
    assert again.removed == found.removed


def main() -> None:
    local = jopa.load()
    folder = tempfile.mkdtemp()
    local.model.save_pretrained(folder)
    local.tokenizer.save_pretrained(folder)
    cache = Path(folder) / "cache"
    cache.mkdir()
    os.environ["JOPA_CACHE"] = str(cache)
    os.environ["OPENAI_API_KEY"] = KEY
    server = vllm(sys.argv[1], folder)
    try:
        server.start()
        refuse_a_wrong_key(server)
        remote = jopa.connect(server.url, model="smol", timeout=300, attempts=3)
        assert isinstance(remote, jopa.RemoteModel)
        compare(local, remote)
        compare_methods(local, remote)
        ten_at_once(local, remote)
        compare_chat(server.url, "smol")
        survive(server, remote)
    finally:
        server.stop()
    assert not [path for path in cache.glob("scores*") if KEY.encode() in path.read_bytes()], "the key is in a file"
    note("same")


if __name__ == "__main__":
    main()
