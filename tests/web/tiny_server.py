"""A tiny model for long inputs; run as a script, it serves the page from a process whose memory can be measured.

The script writes its address, then runs until it is ended.
"""

import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import jopa
from tiny_models import SHAPE, tokenizer


@cache
def language_model_with_context(n_tokens: int) -> jopa.LanguageModel:
    """The tiny random Llama of `tiny_models`, with a longer context."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SHAPE, "max_position_embeddings": n_tokens}))
    return jopa.LanguageModel(model.eval(), tokenizer(chat=True), "tiny-llama")


if __name__ == "__main__":
    from jopa.web.limits import RequestLimits
    from jopa.web.server import serve

    torch.set_num_threads(1)
    limits = RequestLimits(tokens=2000)
    serve(lambda: language_model_with_context(4096), port=0, limits=limits, on_ready=lambda url: print(url, flush=True))
