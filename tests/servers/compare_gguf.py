"""GGUF files here against llama.cpp itself: the tokens of texts, and the log-probabilities of the next token.

    compare_gguf.py PYTHON      PYTHON: the interpreter that has xllamacpp

Tiny Llamas, one for each kind of rotary scaling, and the bundled model. llama.cpp keeps its cache in float16, so
log-probabilities agree to about 1e-3 nats; with weights of four bits it rounds activations to eight, so those of the
bundled model agree roughly. Ends with status 1 at the first difference.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
import torch
from tokenizers.pre_tokenizers import ByteLevel

sys.path.insert(0, str(Path(__file__).parents[1]))

import jopa
from jopa.model.gguf_files import WAYS_TO_SPLIT
from servers import bundled_file, llama_cpp, note
from tiny_gguf import llama3_factors, write_gguf

MAX_DIFFERENCE = 2e-3  # nats, with a cache in float16
MAX_DIFFERENCE_ROUNDED = 0.5  # nats, with activations in eight bits, too
MIN_LOG_PROB = -20.0  # less likely tokens are rounded too coarsely
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}
TINY: dict[str, dict[str, Any]] = {
    "no scaling": {},
    "Llama 3 factors": {"tensors": {"rope_freqs.weight": llama3_factors()}},
    "linear scaling": {"numbers": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}},
    "YaRN": {"numbers": YARN},
}
ALPHABET = "abSt  \n\r\t12.,'$+(-éÄǅ中文ع।가_"
TEXTS = [
    "12345 apples cost $67.89 in 2024.",
    "Hello   world\n\n\n  tabs\t\tand   spaces",
    "naïve café – “quotes” … 日本語 \N{SLIGHTLY SMILING FACE}",
    "It's we'll they're I'd DON'T",
    "def f(x):\n    return x**2  # comment\n",
    "one\n\n12 two\n\n\n345 three",
    "   leading and trailing   ",
    "\r\nwindows\r\n",
    "<|im_start|>user",
]


def next_log_probs(url: str, ids: list[int], n: int) -> dict[int, float]:
    """llama.cpp's log-probabilities of the n likeliest tokens after these ids."""
    body = {"prompt": ids, "n_predict": 1, "n_probs": n, "temperature": 0.0, "cache_prompt": False}
    answer = httpx.post(f"{url}/completion", json=body, timeout=300).raise_for_status().json()
    return {entry["id"]: entry["logprob"] for entry in answer["completion_probabilities"][0]["top_logprobs"]}


def compare_scores(
    model: jopa.LanguageModel, url: str, ids: list[int], name: str, most: float = MAX_DIFFERENCE
) -> None:
    """The next token's log-probabilities here and there."""
    n = 50 if model.model.config.vocab_size > 1000 else 39
    with torch.no_grad():
        here = model.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    there = {token: value for token, value in next_log_probs(url, ids, n).items() if value > MIN_LOG_PROB}
    difference = max(abs(value - float(here[token])) for token, value in there.items())
    note(f"{name}: {len(there)} tokens within {difference:.1e} nats")
    assert len(there) > 5
    assert difference < most
    assert max(there, key=there.__getitem__) == int(here.argmax())


def compare_tokens(model: jopa.LanguageModel, url: str, texts: list[str], name: str) -> None:
    """The ids of texts; marks of the chat template in a text are text."""
    for text in texts:
        body = {"content": text, "add_special": False, "parse_special": False}
        there = httpx.post(f"{url}/tokenize", json=body).raise_for_status().json()["tokens"]
        here = model.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert here == there, (name, text, here, there)
    note(f"{name}: {len(texts)} texts, the same tokens")


def compare_splits(python: str, folder: Path) -> None:
    """Random texts, with a vocabulary in which every pair of their symbols is a token: so each split shows."""
    symbols = ByteLevel(add_prefix_space=False).pre_tokenize_str(ALPHABET)
    letters = sorted({letter for piece, _ in symbols for letter in piece})
    random_ = random.Random(0)
    texts = ["".join(random_.choices(ALPHABET, k=random_.randint(1, 12))) for _ in range(300)]
    for way in sorted(WAYS_TO_SPLIT):
        file = folder / f"{way}.gguf"
        write_gguf(file, splits=way, merges=[f"{a} {b}" for a in letters for b in letters])
        server = llama_cpp(python, file)
        try:
            server.start()
            compare_tokens(jopa.load(file, device="cpu"), server.url, texts, way)
        finally:
            server.stop()


def main() -> None:
    os.environ["JOPA_CACHE"] = folder = tempfile.mkdtemp()
    python = sys.argv[1]
    for number, (name, extra) in enumerate(TINY.items()):
        file = Path(folder) / f"{number}.gguf"
        write_gguf(file, **extra)
        server = llama_cpp(python, file)
        try:
            server.start()
            compare_scores(jopa.load(file, device="cpu"), server.url, [1, *range(5, 35)], name)
        finally:
            server.stop()
    server = llama_cpp(python)
    try:
        server.start()
        model = jopa.load(bundled_file(), device="cpu")
        ids = list(jopa.build_prompt(model.tokenizer, TEXTS[0]).ids)
        compare_scores(model, server.url, ids, "the bundled model", MAX_DIFFERENCE_ROUNDED)
        compare_tokens(model, server.url, TEXTS, "the bundled model")
    finally:
        server.stop()
    compare_splits(python, Path(folder))
    note("redone")


if __name__ == "__main__":
    main()
