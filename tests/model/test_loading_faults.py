"""Models that cannot be loaded as they were: one line, and nothing kept."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

import jopa
import tiny_models
from jopa import cli
from jopa.model import loading
from jopa.model.requirements import context_length
from small_tokenizers import small_tokenizer
from tiny_gguf import write_gguf


def refusal(source) -> str:
    with pytest.raises(jopa.ModelError) as caught:
        jopa.load(source, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_classifier_has_no_head_for_words(saved):
    torch.manual_seed(0)
    LlamaForSequenceClassification(LlamaConfig(**tiny_models.SHAPE)).save_pretrained(saved)
    assert f"cannot load the model '{saved}': its files lack the weights lm_head.weight" in refusal(saved)


def test_a_layer_that_is_missing_is_named(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "lack the weights model.layers.1.mlp.up_proj.weight" in refusal(saved)


def test_tied_weights_may_be_missing(tmp_path, llama):
    tied = LlamaForCausalLM(LlamaConfig(**tiny_models.SHAPE, tie_word_embeddings=True))
    tied.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert jopa.load(tmp_path, device="cpu").model.config.tie_word_embeddings


def test_half_a_file(saved):
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert refusal(saved).startswith(f"cannot load the model '{saved}'")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "32"},
        {"hidden_size": 64},
        {"num_attention_heads": 0},
        {"model_type": "no-such-model", "architectures": None},
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
        {"quantization_config": {"quant_method": "awq", "bits": 4}},
    ],
)
def test_configurations_that_no_model_can_have(saved, change):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | change))
    assert refusal(saved).startswith(f"cannot load the model '{saved}'")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("JOPA_CACHE", str(folder))
    return folder / "models"


def test_a_gguf_file_is_known_by_its_first_bytes(tmp_path, cache):
    write_gguf(tmp_path / "sha256-0123")
    loaded = jopa.load(tmp_path / "sha256-0123", device="cpu")
    assert loaded.model.config.num_hidden_layers == 1
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_others_can_write_to_is_not_trusted(tmp_path, cache):
    write_gguf(tmp_path / "a.gguf")
    folder, checksum = loading.unpack_gguf(tmp_path / "a.gguf")
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns  # a number of a deleted file (st_ino) may be given again
    assert loading.unpack_gguf(tmp_path / "a.gguf") == (folder, checksum)
    assert weights.stat().st_mtime_ns == before
    folder.chmod(0o755)
    weights.chmod(0o666)  # somebody else may have replaced the weights, checksums and all
    loading.unpack_gguf(tmp_path / "a.gguf")
    assert weights.stat().st_mtime_ns != before
    for place in (cache, cache.parent):
        mode = place.stat().st_mode
        place.chmod(0o777)
        with pytest.raises(jopa.ModelError, match=r"can be written by others.*chmod go-w.*JOPA_CACHE"):
            jopa.load(tmp_path / "a.gguf", device="cpu")
        place.chmod(mode)


def test_a_gguf_file_is_unpacked_where_nobody_may_make_links(tmp_path, cache, monkeypatch):
    path = tmp_path / "model.gguf"
    write_gguf(path)

    def refused(*_):
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refused)
    assert jopa.load(path, device="cpu").model.config.num_hidden_layers == 1


def test_a_gguf_file_without_a_tensor(tmp_path, cache):
    write_gguf(tmp_path / "holey.gguf", leave_out=("blk.0.ffn_up",))
    assert "lack the weights model.layers.0.mlp.up_proj.weight" in refusal(tmp_path / "holey.gguf")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["big-00001-of-00002.gguf", "renamed.gguf"])
def test_a_part_of_a_split_gguf_file(tmp_path, cache, name):
    write_gguf(tmp_path / name, split=2)
    message = refusal(tmp_path / name)
    assert "it is one of 2 parts of a split GGUF file; merge them first: llama-gguf-split --merge" in message
    assert not cache.exists()


def test_a_file_that_is_called_gguf_and_is_none(tmp_path, cache):
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    assert "is a file but no GGUF file" in refusal(tmp_path / "page.gguf")


def test_models_of_other_kinds_wrapped_by_hand(llama):
    shape = {"vocab_size": 39, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = BertForMaskedLM(BertConfig(**shape, intermediate_size=48))
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=39, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0)
    )
    with torch.device("meta"):
        empty = LlamaForCausalLM(LlamaConfig(**tiny_models.SHAPE))
    for model, message in (
        (bert, "in both directions"),
        (bert.bert, "no language-model head"),
        (t5, "encoder-decoder model"),
        (empty, "on the meta device"),
    ):
        with pytest.raises(jopa.ModelError, match=message):
            jopa.LanguageModel(model, llama.tokenizer)


def test_a_token_that_the_model_has_no_embedding_for(monkeypatch):
    llama = tiny_models.language_model("llama")
    tokenizer = tiny_models.tokenizer.__wrapped__(True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    model = jopa.LanguageModel(llama.model, tokenizer)
    size, new = model.vocabulary_size, tokenizer.convert_tokens_to_ids("<extra>")
    assert new >= size
    assert model.capabilities  # found by trying: the tests' type checker asks for them whenever a model is handed on
    monkeypatch.setattr(model.model, "forward", lambda **_: pytest.fail("a forward was run"))
    message = rf"token {new} \('<extra>'\) is unknown to the model, whose vocabulary has {size} tokens"
    for explain in (jopa.explain, jopa.detect):
        with pytest.raises(jopa.PromptError, match=message):
            explain("write a <extra> story", model=model)
    with pytest.raises(jopa.PromptError, match=message):
        jopa.explain("write a story", model=model, output=jopa.Output((6, new), "a", (0, 2)))


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (LlamaConfig(max_position_embeddings=64), 64),
        (GPT2Config(n_positions=48), 48),
        (LlamaConfig(max_position_embeddings=64, rope_scaling={"rope_type": "linear", "factor": 4.0}), 256),
        (
            LlamaConfig(
                max_position_embeddings=64,
                rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            ),
            256,
        ),
        (
            LlamaConfig(
                max_position_embeddings=256,
                rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            ),
            256,
        ),
        (
            LlamaConfig(
                max_position_embeddings=256,
                rope_scaling={
                    **{"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64},
                    **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
                },
            ),
            256,
        ),
    ],
)
def test_the_true_length_of_a_model(config, length):
    assert context_length(config) == length


def test_mpt_names_its_length_otherwise():
    from transformers import MptConfig

    assert context_length(MptConfig(max_seq_len=40)) == 40


@pytest.fixture
def adapted(saved, tmp_path, llama):
    peft = pytest.importorskip("peft")
    base = LlamaForCausalLM.from_pretrained(saved)
    torch.manual_seed(3)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(base, config).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    config_file = tmp_path / "adapter" / "adapter_config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"base_model_name_or_path": str(saved)}))
    return wrapped


def unchecked(model, tokenizer) -> jopa.LanguageModel:
    """A LanguageModel as users make one, without the types that tests check: a PEFT model is no PreTrainedModel."""
    made = object.__new__(jopa.LanguageModel)
    for name, value in {"model": model, "tokenizer": tokenizer, "id": "adapted", "revision": None}.items():
        object.__setattr__(made, name, value)
    made.__post_init__()
    return made


def test_an_adapter_scores_as_its_merged_model_and_comes_back_unchanged(adapted, saved, tmp_path, llama):
    def explained(model):
        return jopa.explain(
            "write a story about the doctor and his patient", model=model, output="once upon time", removal="hide"
        )

    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    wrapped = explained(unchecked(adapted, llama.tokenizer))
    loaded = explained(jopa.load(tmp_path / "adapter", device="cpu"))
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    merged = explained(jopa.LanguageModel(adapted.merge_and_unload(), llama.tokenizer))
    plain = explained(jopa.load(saved, device="cpu"))
    for attribution in (wrapped, loaded):
        assert attribution.removed == merged.removed
        assert attribution.log_prob == pytest.approx(merged.log_prob, abs=1e-4)
    assert abs(plain.log_prob - merged.log_prob) > 1e-2


def test_an_adapter_without_peft(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "is a PEFT adapter of 'some/base', and the package peft is not installed: pip install peft" in refusal(
        tmp_path
    )


def test_the_command_ends_with_one_line(saved, capsys, monkeypatch):
    (saved / "model.safetensors").write_bytes(b"no weights")
    monkeypatch.setattr("sys.argv", ["jopa", "explain", "write a story", "--model", str(saved), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.count("\n") == 0
    assert error.startswith(f"jopa: cannot load the model '{saved}'")


def test_the_stop_token_of_a_template_is_found_by_rendering(llama):
    for template, mark in (("chatml", "<|im_end|>"), ("llama-3", "<|eot_id|>"), ("gemma", "<end_of_turn>")):
        tokenizer = small_tokenizer("byte-level", template)
        model = jopa.LanguageModel(llama.model, tokenizer)
        assert tokenizer.convert_tokens_to_ids(mark) in model.stop_ids
    bare = small_tokenizer("byte-level", "bare")
    assert jopa.LanguageModel(llama.model, bare).stop_ids == {bare.eos_token_id, 2}


def test_a_product_that_there_is_none_of_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setenv("JOPA_LINEAR", "fastest")
    with pytest.raises(jopa.SettingError, match=r"^JOPA_LINEAR is 'fastest': set it to one of plain, "):
        jopa.load("no/such/model", device="cpu")


def test_the_stop_token_of_a_template_in_a_gguf_file(tmp_path, cache):
    """The file names </s> as its end of text; the template ends a turn with another token."""
    template = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|system|>{% endfor %}"
    write_gguf(tmp_path / "m.gguf", template=template)
    loaded = jopa.load(tmp_path / "m.gguf", device="cpu")
    assert loaded.stop_ids == {2, tiny_models.VOCABULARY["<|system|>"]}
    logits = loaded.model.lm_head.weight.new_zeros(len(tiny_models.VOCABULARY))
    logits[tiny_models.VOCABULARY["<|system|>"]] = 100.0
    hook = loaded.model.lm_head.register_forward_hook(lambda _head, _inputs, output: output + logits)
    assert loaded.generate_ids([1, 7, 8], jopa.Generation(5)) == ()
    hook.remove()
