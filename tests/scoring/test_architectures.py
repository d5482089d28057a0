"""A representative of every kind of cache, position and attention scores as its own plain forwards do."""

from functools import cache, partial

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CTRLConfig,
    FalconMambaConfig,
    GPT2Config,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    Phi3Config,
    Qwen3NextConfig,
)

import jopa
import tiny_models
from jopa.choices import REMOVALS
from jopa.scoring import probe, probe_forwards
from jopa.scoring.probe import probe_of
from slow_reference import keep_masks, reference

TEXT = "write a story about the doctor and his patient in rain green please"
SYSTEM = "tell me what you think of green birds once upon time"
SHORT = jopa.SearchOptions(counterfactual=jopa.Generation(2))
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "there was a doctor".split())
SETS = [(), (0,), (11,), (2, 5), (2, 6), (1, 2, 3, 9)]
SHAPE = tiny_models.SHAPE
LONG = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 16}

BUILDERS = {
    "longrope": lambda: Phi3Config(
        **SHAPE,
        original_max_position_embeddings=16,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **LONG},
    ),
    "dynamic-ntk": lambda: LlamaConfig(
        **{**SHAPE, "max_position_embeddings": 16},
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0},
    ),
    "alibi-from-mask": lambda: BloomConfig(
        vocab_size=SHAPE["vocab_size"], hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "alibi": lambda: MptConfig(
        vocab_size=SHAPE["vocab_size"], d_model=32, n_layers=2, n_heads=4, max_seq_len=128, initializer_range=0.3
    ),
    "no-embeddings-in-generate": lambda: CTRLConfig(
        vocab_size=SHAPE["vocab_size"], n_embd=32, n_layer=2, n_head=4, dff=48, n_positions=128, initializer_range=0.3
    ),
    "convolutions": lambda: Lfm2Config(
        **{**SHAPE, "num_hidden_layers": 2}, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False
    ),
    "linear-attention": lambda: Qwen3NextConfig(
        **{**SHAPE, "num_hidden_layers": 2},
        head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "state-space": lambda: MambaConfig(
        vocab_size=SHAPE["vocab_size"], hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3
    ),
    "state-space-falcon": lambda: FalconMambaConfig(
        vocab_size=SHAPE["vocab_size"], hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.3
    ),
    "state-space-and-attention": lambda: JambaConfig(
        **{**SHAPE, "num_hidden_layers": 2},
        attn_layer_offset=1,
        attn_layer_period=2,
        num_experts=2,
        num_experts_per_tok=1,
        mamba_d_state=8,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    "position-table": lambda: GPT2Config(
        vocab_size=SHAPE["vocab_size"], n_embd=32, n_layer=2, n_head=4, n_positions=32, initializer_range=0.3
    ),
}
CUT = {"alibi", "no-embeddings-in-generate", "alibi-from-mask", "position-table"}
"""Those whose caches can be cut; longrope and dynamic NTK can, too, but not at these lengths."""
ALONE = {"longrope", "dynamic-ntk"}


@cache
def language_model(architecture, chat=True):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(BUILDERS[architecture]())
    return jopa.LanguageModel(model.eval(), tiny_models.tokenizer(chat), f"tiny-{architecture}")


@pytest.fixture(params=sorted(BUILDERS))
def architecture(request):
    return request.param


def expected(model, prompt, output, removal, removed):
    model.length_dependence.restore()
    if removal == "hide" and not probe_of(model).options.positions:  # slow_reference gives positions
        gone = [position for i in removed for position in prompt.units[i].positions]
        ids = torch.tensor([[*prompt.ids, *output.ids]])
        mask = torch.ones_like(ids)
        mask[0, gone] = 0
        with torch.no_grad():
            logits = model.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].double()
        start = len(prompt.ids) - 1
        return logits.log_softmax(-1)[torch.arange(start, start + len(output.ids)), list(output.ids)]
    return reference(model, prompt, output, removal, removed)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("removal", REMOVALS)
def test_every_mask_equals_its_own_plain_forward(architecture, removal, chat):
    model = language_model(architecture, chat)
    prompt = jopa.build_prompt(
        model.tokenizer, TEXT, system=SYSTEM if chat and architecture != "position-table" else None
    )
    output = jopa.Output(ANSWER, model.decode(ANSWER), (0, len(ANSWER)))
    keep = keep_masks(len(prompt.units), SETS)
    right = cache(partial(expected, model, prompt, output, removal))
    for settings in ({}, {"batch_size": 1}, {"reuse_prefix": False}):
        try:
            scorer = jopa.ModelScorer(model, prompt, output, removal, **settings)
        except jopa.SettingError as error:
            assert f"removal '{removal}' cannot be done" in str(error)
            assert (architecture, removal) == ("alibi-from-mask", "hide")
            return
        for scores, sets in [
            (scorer.log_probs(keep), SETS),
            *((scorer.log_probs(keep[[i]]), [SETS[i]]) for i in (1, 3)),
        ]:
            for row, removed in zip(scores, sets, strict=True):
                assert torch.allclose(row.double(), right(removed), atol=1e-4, rtol=0), (settings, removed)


def test_what_cannot_be_cut_says_so(architecture):
    if architecture == "dynamic-ntk":
        pytest.skip("explain refuses what is longer than the configuration's context")
    model = language_model(architecture)
    found = jopa.explain(TEXT, model=model, removal="delete", k=2, output="there was", method="joint", search=SHORT)
    slow = (found.details or {}).get("slow_paths", [])
    assert any("the length of a row" in line for line in slow) == (architecture in ALONE)
    if architecture not in ALONE:
        assert any("cached beginning" in line or "cannot be cut" in line for line in slow) == (architecture not in CUT)


def test_the_answer_is_that_of_a_loop_of_plain_forwards(architecture):
    model = language_model(architecture)
    ids = list(jopa.build_prompt(model.tokenizer, TEXT).ids)
    n_prompt = len(ids)
    generated = model.generate({"input_ids": torch.tensor([ids])}, max_new_tokens=6)
    for _ in generated:
        model.length_dependence.restore()
        with torch.no_grad():
            ids.append(int(model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert generated == tuple(ids[n_prompt:])


def test_a_path_that_disagrees_is_switched_off_and_one_that_fails_too(monkeypatch):
    for fault in ("wrong", "raises"):
        language_model.cache_clear()
        model = language_model("position-table")
        real = probe_forwards.forward

        def forward(model, parts, real=real, fault=fault):
            outputs = real(model, parts)
            if any(len(part.prefix_caches) > 1 for part in parts):
                if fault == "raises":
                    raise RuntimeError("no batches here")
                outputs[0].logits[0] += torch.randn(outputs[0].logits[0].shape)
            return outputs

        monkeypatch.setattr(probe_forwards, "forward", forward)
        assert not probe_of(model).batches
        assert probe_of(model).crops_caches
        assert any("forward of its own" in line for line in probe_of(model).slow_paths)
        monkeypatch.setattr(probe_forwards, "forward", real)
        prompt = jopa.build_prompt(model.tokenizer, TEXT)
        scorer = jopa.ModelScorer(model, prompt, jopa.Output(ANSWER, "", (0, 4)), "delete")
        scorer.log_probs(keep_masks(len(prompt.units), SETS))
        assert scorer.work.padding == 0
    language_model.cache_clear()


def test_a_second_embedding_looked_up_by_id_is_found():
    model = language_model("position-table")
    language_model.cache_clear()
    extra = torch.nn.Embedding(len(tiny_models.VOCABULARY), len(tiny_models.VOCABULARY))
    plain = model.model.forward

    def forward(input_ids=None, **arguments):
        output = plain(input_ids=input_ids, **arguments)
        if input_ids is not None:
            output.logits = output.logits + extra(input_ids)[:, -output.logits.shape[1] :].detach()
        return output

    model.model.forward = forward
    found = probe.ModelProbe(model)
    assert not found.takes_embeddings
    assert not found.gradients


def test_no_recording_hook_stays_after_attention(llama):
    prompt = jopa.build_prompt(llama.tokenizer, TEXT)
    hooks = [len(module._forward_hooks) for module in llama.model.modules()]
    scorer = jopa.ModelScorer(llama, prompt, jopa.Output(ANSWER, "", (0, 4)), "delete")
    first = scorer.attention()
    assert [len(module._forward_hooks) for module in llama.model.modules()] == hooks
    assert torch.equal(first, scorer.attention())


def test_the_default_search_goes_on_without_gradients_and_says_so(monkeypatch):
    language_model.cache_clear()
    model = language_model("position-table")
    monkeypatch.setitem(vars(probe_of(model)), "gradients", False)
    monkeypatch.setitem(vars(probe_of(model)), "scales_attention", False)
    found = jopa.explain(TEXT, model=model, k=2, output="there was", removal="delete", search=SHORT)
    assert "cannot be differentiated" in found.details["without_gradients"]
    with pytest.raises(jopa.JopaError, match="gradient"):
        jopa.explain(TEXT, model=model, k=2, output="there was", removal="delete", method="jopa", search=SHORT)


def test_nothing_is_tried_that_nobody_asks_for():
    language_model.cache_clear()
    tried = probe.ModelProbe(language_model("position-table"))
    capabilities = probe.ModelCapabilities(tried)
    assert "scores" in capabilities
    assert "attention" in capabilities
    assert "telepathy" not in capabilities
    assert not {"options", "batches", "gradients"} & set(vars(tried))
    assert "gradient" in capabilities
    assert "gradients" in vars(tried)
    assert not {"hides", "scales_attention", "mixes_prefixes"} & set(vars(tried))
    assert set(capabilities) == {"scores", "distribution", "gradient", "attention", "token-attention", "model"}


def test_a_model_is_tried_by_few_short_forwards():
    language_model.cache_clear()
    model = language_model("position-table")
    rows = []
    hook = model.model.register_forward_pre_hook(
        lambda _module, _arguments, inputs: rows.append(inputs.get("input_ids", inputs.get("inputs_embeds")).shape),
        with_kwargs=True,
    )
    model.changes_with_length(20)
    found = probe_of(model)
    assert found.crops_caches
    assert found.scales_attention
    hook.remove()
    assert len(rows) <= 9
    assert all(shape[0] * shape[1] <= 48 for shape in rows)
