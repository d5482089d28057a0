"""Folders whose files hold no weights, weights of another format, or those of another model."""

import json

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_loading_faults import refusal
from transformers import LlamaConfig, LlamaForSequenceClassification

import jopa
import tiny_models


def test_a_vocabulary_of_another_size_is_named(saved):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 20}))
    said = refusal(saved)
    assert "weights of other shapes than its config.json asks for: lm_head.weight, model.embed_tokens.weight" in said
    assert "32] and not [20, 32]" in said


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_a_file_that_was_not_downloaded(saved, name):
    (saved / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 269060552\n")
    said = refusal(saved if name == "model.safetensors" else saved / name)
    assert name in said
    assert "is a Git LFS pointer, not the file itself: run 'git lfs pull'" in said


def test_weights_in_a_format_that_is_not_read(saved, llama):
    (saved / "model.safetensors").unlink()
    torch.save(llama.model.state_dict(), saved / "pytorch_model.bin")
    said = refusal(saved)
    assert "its weights are in 'pytorch_model.bin'" in said
    assert "convert it to safetensors" in said


def configured(folder, name="config.json", **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_more_layers_than_the_configuration_asks_for(saved):
    configured(saved, num_hidden_layers=1)
    said = refusal(saved)
    assert "its files hold model.layers.1, model.layers.2, for which its config.json has no place" in said


def test_a_further_layer_of_another_kind_is_left_alone(saved):
    """As one that predicts several tokens at once, which has weights that no other layer has."""
    weights = load_file(saved / "model.safetensors")
    copied = {f"model.layers.3.{key.split('.', 3)[3]}": w.clone() for key, w in weights.items() if "layers.2." in key}
    further = {"model.layers.3.eh_proj.weight": torch.ones(4), "v_head.summary.weight": torch.ones(4)}
    save_file({**weights, **copied, **further}, saved / "model.safetensors", metadata={"format": "pt"})
    assert jopa.load(saved, device="cpu").model.config.num_hidden_layers == 3


@pytest.mark.parametrize("n_layers", [0, -1])
def test_a_configuration_without_layers(saved, n_layers):
    configured(saved, num_hidden_layers=n_layers)
    assert f"its configuration asks for {n_layers} layers" in refusal(saved)


def test_a_classifier_that_shares_its_weights_with_the_embeddings(saved):
    torch.manual_seed(0)
    LlamaForSequenceClassification(LlamaConfig(**tiny_models.SHAPE, tie_word_embeddings=True)).save_pretrained(saved)
    assert "is a LlamaForSequenceClassification, whose head gives classes and no words" in refusal(saved)


@pytest.mark.parametrize("declared", ["</s>", ["</s>"], [[2]], True, 2.5])
def test_stop_tokens_that_are_no_ids(saved, declared):
    configured(saved, "generation_config.json", eos_token_id=declared)
    with pytest.raises(jopa.ModelError, match=r"declares stop tokens that are no ids: .* mend eos_token_id"):
        jopa.explain("write a story", model=saved, output=jopa.Generation(2))


@pytest.mark.parametrize("content", ["[1]", '{"eos_token_id": [1,'])
def test_settings_of_generation_that_cannot_be_read(saved, content):
    (saved / "generation_config.json").write_text(content)
    assert "its generation_config.json" in refusal(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"base_model_name_or_path": 3}'])
def test_an_adapter_without_a_base(saved, content):
    (saved / "adapter_config.json").write_text(content)
    assert "its adapter_config.json names no base_model_name_or_path" in refusal(saved)


def test_an_error_that_says_little_is_told_with_its_type(saved):
    configured(saved, hidden_act="nope")
    assert refusal(saved) == f"cannot load the model '{saved}': KeyError: 'nope'"


@pytest.mark.parametrize(
    ("name", "damaged", "message"),
    [
        (b"llama.block_count", b"llama.block\xffcount", "a name in it is no text; it is damaged"),
        (b"general.architecture", b"heneral.architecture", "damaged.gguf has no"),
    ],
)
def test_a_gguf_file_with_a_damaged_name(tmp_path, monkeypatch, name, damaged, message):
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "damaged.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    path.write_bytes(path.read_bytes().replace(name, damaged))
    said = refusal(path)
    assert said.startswith(f"cannot unpack '{path}': ") and message in said
    assert list((tmp_path / "cache" / "models").iterdir()) == []
