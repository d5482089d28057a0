"""What a GGUF file says of its vocabulary: whole words, the BOS, the blank before the first word."""

import numpy as np
import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

import jopa
from tiny_gguf import writer_of

MARKS = ("<unk>", "<s>", "</s>", "<|user|>")
SENTENCEPIECE = (*MARKS, *(f"<0x{byte:02X}>" for byte in range(256)))
PIECES = {
    "▁": -20,
    "h": -21,
    "i": -22,
    "▁h": -4,
    "hi": -3,
    "▁hi": -1,
    "o": -23,
    "y": -24,
    "▁y": -6,
    "yo": -5,
    "▁yo": -2,
}
BYTE_LEVEL = (*MARKS, *bytes_to_unicode().values(), "hi", "Ġy", "Ġyo", "qqq", "Ġqqq")
"""No merge makes the last two."""
MERGES = ("h i", "Ġ y", "Ġy o")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path / "cache"))


def written(path, *, splits=None, architecture="llama", **said):
    """A tiny model with a SentencePiece vocabulary; a byte-level one where `splits` says how it splits text.

    Args:
        path: the file.
        splits: a value of "tokenizer.ggml.pre".
        architecture: "llama", or "phi3", whose file has joined weights.
        said: further metadata, under "tokenizer.ggml.".
    """
    random = np.random.default_rng(0)
    writer = writer_of(path, architecture)
    tokens = BYTE_LEVEL if splits else (*SENTENCEPIECE, *PIECES)
    writer.add_vocab_size(len(tokens))
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(MARKS) + [1] * (len(tokens) - len(MARKS)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if splits:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splits)
        writer.add_token_merges(MERGES)
    else:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0] * len(SENTENCEPIECE) + [float(score) for score in PIECES.values()])
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(0)  # Phi-3's own is beyond so few words
    for key, value in said.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    size = {"token_embd": (len(tokens), 32), "output": (len(tokens), 32), "output_norm": (32,)}
    block = {"attn_output": (32, 32), "ffn_down": (32, 48), "attn_norm": (32,), "ffn_norm": (32,)}
    if architecture == "phi3":
        block |= {"attn_qkv": (64, 32), "ffn_up": (96, 32)}
    else:
        block |= {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "ffn_gate": (48, 32), "ffn_up": (48, 32)}
    for name, shape in {**size, **{f"blk.0.{part}": shape for part, shape in block.items()}}.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.3, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens_of(model, text):
    """The prompt's tokens as jopa makes them."""
    return model.tokenizer.convert_ids_to_tokens(jopa.build_prompt(model.tokenizer, text).ids)


@pytest.mark.parametrize(
    "splits",
    [
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        "tekken",
    ],
)
def test_vocabularies_that_take_a_word_whole_and_start_with_the_bos(tmp_path, splits):
    model = jopa.load(written(tmp_path / "m.gguf", splits=splits), device="cpu")
    assert tokens_of(model, "qqq yo qqq") == ["<s>", "qqq", "Ġyo", "Ġqqq"]
    assert tokens_of(model, "qqqhi") == ["<s>", "q", "q", "q", "hi"]  # no word, so that merges make it


@pytest.mark.parametrize("adds_bos", [False, True])
def test_what_the_file_says_of_the_bos_comes_first(tmp_path, adds_bos):
    path = written(tmp_path / "m.gguf", splits="llama-bpe", add_bos_token=adds_bos)
    assert tokens_of(jopa.load(path, device="cpu"), "qqq yo") == ["<s>"] * adds_bos + ["qqq", "Ġyo"]


@pytest.mark.parametrize("splits", ["qwen2", "gpt-4o", "smaug-bpe", "glm4", "gpt-2"])
def test_other_vocabularies_have_their_merges_alone(tmp_path, splits):
    model = jopa.load(written(tmp_path / "m.gguf", splits=splits), device="cpu")
    assert tokens_of(model, "qqq yo") == ["q", "q", "q", "Ġyo"]


@pytest.mark.parametrize("architecture", ["llama", "phi3"])
@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({}, ["<s>", "▁hi", "▁yo"]),
        ({"add_space_prefix": True}, ["<s>", "▁hi", "▁yo"]),
        ({"add_space_prefix": False}, ["<s>", "hi", "▁yo"]),
    ],
    ids=["nothing", "true", "false"],
)
def test_the_blank_before_the_first_word(tmp_path, architecture, said, tokens):
    model = jopa.load(written(tmp_path / "m.gguf", architecture=architecture, **said), device="cpu")
    assert tokens_of(model, "hi yo") == tokens
    ids = model.tokenizer.encode("hi yo", add_special_tokens=False)
    assert model.decode(ids) == "hi yo"
    if said == {"add_space_prefix": False}:
        assert tokens_of(model, " hi yo") == ["<s>", "▁hi", "▁yo"]
        blank = model.tokenizer.encode(" hi yo", add_special_tokens=False)
        assert model.decode(blank) == " hi yo"
