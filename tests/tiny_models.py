"""Tiny randomly initialised models of real architectures, and a word tokenizer for them."""

from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

import jopa
from small_tokenizers import small_tokenizer

WORDS = (
    "write a story about the doctor and his patient in rain please tell me what you think of green birds "
    "once upon time there was who said that one day two people met"
).split()
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
CHAT_TEMPLATE = (
    "<s>{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} "
    "{% if m['role'] != 'user' or not loop.last %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SHAPE = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # large enough that scores differ much more than rounding does
    "initializer_range": 0.3,
}
WINDOW = 6
"""Sliding window in tokens: shorter than any test prompt, so that it matters."""

BUILDERS = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "gpt2": lambda: GPT2Config(
        vocab_size=len(VOCABULARY),
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
        resid_pdrop=0.1,
    ),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE,
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=8,
    ),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=WINDOW),
    "moe": lambda: Qwen3MoeConfig(
        **SHAPE,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        decoder_sparse_step=1,
    ),
}


@cache
def tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """One token a word; with or without a chat template."""
    model = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=model,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
    )
    wrapped.chat_template = CHAT_TEMPLATE if chat else None
    return wrapped


@cache
def sentence_model(kind: str = "byte-level", template: str | None = "chatml", **shape: int) -> jopa.LanguageModel:
    """A tiny random model that reads any text, full stops and line breaks too, and has room for documents."""
    reader = small_tokenizer(kind, template)
    sizes = {**SHAPE, "vocab_size": len(reader), "max_position_embeddings": 8192, **shape}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes))
    return jopa.LanguageModel(model.eval(), reader, "tiny")


@cache
def language_model(architecture: str, chat: bool = True) -> jopa.LanguageModel:
    """A tiny random model, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(BUILDERS[architecture]())
    return jopa.LanguageModel(model.eval(), tokenizer(chat), f"tiny-{architecture}")
