"""A GGUF file of a tiny Llama."""

import gguf
import numpy as np
import torch
from transformers import LlamaConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import tiny_models

LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}
MERGES = ("1 2", "Ċ Ċ")


def writer_of(path, architecture="llama"):
    """A writer that has the metadata of the tiny shape."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    return writer


def write_gguf(path, leave_out=(), split=0, template=None, numbers=None, tensors=None, splits=None, merges=MERGES):
    """A tiny Llama as llama.cpp writes one, with further metadata (under "llama.") and tensors.

    With `splits` it has a byte-level vocabulary of bytes and pairs of symbols, that splits text as that name says.
    """
    random = np.random.default_rng(0)
    writer = writer_of(path)
    if split:
        writer.add_uint16("split.count", split)
    tokens = list(tiny_models.VOCABULARY)
    if splits:
        tokens = [*tiny_models.SPECIAL, *bytes_to_unicode().values(), *(pair.replace(" ", "") for pair in merges)]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splits)
        writer.add_token_merges(list(merges))
    else:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0] * len(tokens))
    writer.add_vocab_size(len(tokens))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tiny_models.SPECIAL else 1 for token in tokens])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if template:
        writer.add_chat_template(template)
    size = {"token_embd": (39, 32), "output": (39, 32), "output_norm": (32,)}
    size = {name: (len(tokens), 32) if dims[0] == 39 else dims for name, dims in size.items()}
    block = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    block |= {"ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48), "attn_norm": (32,), "ffn_norm": (32,)}
    for name, dims in {**size, **{f"blk.0.{part}": dims for part, dims in block.items()}}.items():
        if name not in leave_out:
            writer.add_tensor(f"{name}.weight", random.normal(0, 0.3, dims).astype(np.float32))
    for key, value in (numbers or {}).items():
        add = {bool: writer.add_bool, str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        add[type(value)](f"llama.{key}", value)
    for name, tensor in (tensors or {}).items():
        writer.add_tensor(name, np.asarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama3_factors():
    """By what the frequencies of Llama 3 are divided, as its GGUF files hold them."""
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, head_dim=8, max_position_embeddings=128)
    config.rope_parameters = {"rope_theta": 10000.0} | LLAMA3
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    return ((1 / 10000.0 ** (torch.arange(0, 8, 2) / 8)) / scaled).tolist()
