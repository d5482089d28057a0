"""Folders whose files hold no weights, weights of another format, or those of another model."""

import json

import pytest
import torch

import jopa


@pytest.fixture
def saved(tmp_path, llama):
    folder = tmp_path / "model"
    llama.model.save_pretrained(folder)
    llama.tokenizer.save_pretrained(folder)
    return folder


def refusal(source):
    with pytest.raises(jopa.ModelError) as caught:
        jopa.load(source, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
