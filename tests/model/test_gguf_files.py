"""GGUF files that say more than transformers reads: the right number, or one line."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, LlamaConfig

import jopa
from jopa.model.gguf_files import complete, set_attention_scale
from tiny_gguf import LLAMA3, llama3_factors, write_gguf

IDS = torch.tensor([[1, *range(5, 35)]])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path / "cache"))


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def with_rotary(loaded, **rotary):
    """The same weights in plain transformers, with other rotary positions."""
    config = LlamaConfig.from_dict(loaded.config.to_dict() | {"rope_parameters": {"rope_theta": 10000.0} | rotary})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.load_state_dict(loaded.state_dict())
    return model


@pytest.mark.parametrize(
    ("numbers", "tensors", "rotary"),
    [
        ({}, {"rope_freqs.weight": llama3_factors()}, LLAMA3),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 2.0}, {}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 32,
            },
            {},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
        (
            {
                "rope.scaling.type": "longrope",
                "rope.scaling.original_context_length": 64,
                "rope.scaling.attn_factor": 1.25,
            },
            {"rope_factors_short.weight": [1.0, 1.5, 2, 3], "rope_factors_long.weight": [2.0, 3, 4, 5]},
            {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.5, 2.0, 3.0],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
                "original_max_position_embeddings": 64,
                "attention_factor": 1.25,
            },
        ),
    ],
    ids=["llama3", "linear", "older linear", "yarn", "longrope"],
)
def test_rotary_positions_are_scaled_as_the_file_says(tmp_path, numbers, tensors, rotary):
    write_gguf(tmp_path / "m.gguf", numbers=numbers, tensors=tensors)
    loaded = jopa.load(tmp_path / "m.gguf", device="cpu").model
    expected = logits(with_rotary(loaded, **rotary))
    assert torch.allclose(logits(loaded), expected, atol=1e-4)
    assert not torch.allclose(logits(with_rotary(loaded, rope_type="default")), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("numbers", "tensors"),
    [
        ({"rope.scaling.type": "none"}, {}),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, {}),
        ({"attention.key_length": 8, "logit_scale": 1.0}, {"rope_freqs.weight": [1.0] * 4}),
        ({"attention.causal": True}, {}),
    ],
)
def test_what_changes_nothing_is_let_through(tmp_path, numbers, tensors):
    write_gguf(tmp_path / "m.gguf", numbers=numbers, tensors=tensors)
    loaded = jopa.load(tmp_path / "m.gguf", device="cpu").model
    assert loaded.config.rope_parameters["rope_type"] == "default"


@pytest.mark.parametrize(
    ("numbers", "tensors", "words"),
    [
        ({}, {"blk.0.attn_q.bias": [0.5] * 32}, "has no place for blk.0.attn_q.bias, and"),
        ({}, {"blk.1.attn_norm.weight": [1.0] * 32}, "has no place for blk.1.attn_norm.weight, and"),
        ({}, {f"blk.{i}.new.weight": [1.0] for i in range(5)}, "blk.2.new.weight and 2 more, and"),
        ({"rope.scaling.type": "other", "rope.scaling.factor": 2.0}, {}, "rope.scaling.type, other"),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_log_multiplier": 0.1},
            {},
            "rope.scaling.type, yarn",
        ),
        ({"attention.key_length": 16}, {}, r"attention.key_length \(not 8\), 16"),
        ({"residual_scale": 0.5}, {}, "residual_scale, 0.5"),
        ({"attention.causal": False}, {}, "whose tokens attend to later ones"),
    ],
)
def test_what_would_be_another_model_is_refused_in_one_line(tmp_path, numbers, tensors, words):
    write_gguf(tmp_path / "m.gguf", numbers=numbers, tensors=tensors)
    with pytest.raises(jopa.ModelError, match=words) as refused:
        jopa.load(tmp_path / "m.gguf", device="cpu")
    assert "\n" not in str(refused.value)
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_a_window_of_attention_that_only_the_file_says(tmp_path):
    """As in Phi-3, whose configuration has none where transformers makes it of a GGUF file."""
    write_gguf(tmp_path / "m.gguf", numbers={"attention.sliding_window": 8})
    model = jopa.load(tmp_path / "m.gguf", device="cpu")
    loaded = model.model
    loaded.config.sliding_window = None
    complete(tmp_path / "m.gguf", loaded, model.tokenizer)
    assert loaded.config.sliding_window == 8
    loaded.config.layer_types = ["full_attention"]
    loaded.config.sliding_window = None
    with pytest.raises(jopa.ModelError, match="sliding_window"):
        complete(tmp_path / "m.gguf", loaded, model.tokenizer)


@pytest.mark.parametrize(
    ("splits", "tokens"),
    [
        ("smollm", ["a", "ĊĊ", "1", "2"]),  # each digit alone, and the line ends before them are one piece
        ("starcoder", ["a", "ĊĊ", "1", "2"]),
        ("gpt-2", ["a", "Ċ", "Ċ", "12"]),
        ("llama-bpe", ["a", "ĊĊ", "12"]),  # known to transformers
        ("stablelm2", ["a", "ĊĊ", "1", "2"]),
        ("glm4", ["a", "ĊĊ", "12"]),
        ("deepseek-llm", ["a", "Ċ", "Ċ", "12"]),
        ("deepseek-coder", ["a", "Ċ", "Ċ", "1", "2"]),
        ("falcon", ["a", "Ċ", "Ċ", "12"]),
        ("bloom", ["a", "ĊĊ", "12"]),
    ],
)
def test_text_is_split_as_the_file_says(tmp_path, splits, tokens):
    write_gguf(tmp_path / "m.gguf", splits=splits)
    tokenizer = jopa.load(tmp_path / "m.gguf", device="cpu").tokenizer
    assert tokenizer.tokenize("a\n\n12") == tokens


def test_an_unknown_way_to_split_text_is_refused(tmp_path):
    write_gguf(tmp_path / "m.gguf", splits="of-tomorrow")
    with pytest.raises(jopa.ModelError, match="splits text as 'of-tomorrow' does, which transformers does not know"):
        jopa.load(tmp_path / "m.gguf", device="cpu")


def test_a_model_unpacked_in_an_older_way_is_unpacked_again(tmp_path):
    write_gguf(tmp_path / "m.gguf", splits="smollm")
    jopa.load(tmp_path / "m.gguf", device="cpu")
    (manifest,) = (tmp_path / "cache" / "models").glob("*/jopa.json")
    written = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({name: value for name, value in written.items() if name != "layout"}))
    jopa.load(tmp_path / "m.gguf", device="cpu")
    assert json.loads(manifest.read_text())["layout"] == written["layout"]


@pytest.mark.parametrize(
    ("config", "width"),
    [  # as in the config.json of each
        (Gemma2Config(num_hidden_layers=26, hidden_size=2304, num_attention_heads=8), 256),
        (Gemma2Config(num_hidden_layers=46, hidden_size=4608, num_attention_heads=32), 144),
        (Gemma3TextConfig(num_hidden_layers=48, hidden_size=3840, num_attention_heads=16), 256),
        (Gemma3TextConfig(num_hidden_layers=62, hidden_size=5376, num_attention_heads=32), 168),
    ],
    ids=["gemma-2-2b", "gemma-2-27b", "gemma-3-12b", "gemma-3-27b"],
)
def test_the_largest_gemmas_scale_their_attention_by_another_width(config, width):
    set_attention_scale(config)
    assert config.query_pre_attn_scalar == width


def test_the_factors_of_llama_3_slow_nothing_down(tmp_path):
    write_gguf(tmp_path / "m.gguf", tensors={"rope_freqs.weight": llama3_factors()})
    model = jopa.load(tmp_path / "m.gguf", device="cpu")
    found = jopa.explain("write a story about the doctor", model=model, k=1, output=jopa.Generation(3))
    assert "slow_paths" not in found.details
