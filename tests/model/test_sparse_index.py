"""Models that attend to the keys with the highest index scores: where scores are equal, the row's length decides."""

from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, GlmMoeDsaConfig

import jopa
import tiny_models
from slow_reference import keep_masks, reference

TEXT = "write a story about the doctor and his patient in rain green please"
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "there was a doctor".split())


@cache
def indexed(topk, pad=None):
    config = GlmMoeDsaConfig(
        **{**tiny_models.SHAPE, "num_hidden_layers": 2, "num_key_value_heads": 4, "pad_token_id": pad},
        **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
        **{"index_head_dim": 16, "index_n_heads": 16, "index_topk": topk, "first_k_dense_replace": 1},
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1},
    )
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).eval()
    return jopa.LanguageModel(model, tiny_models.tokenizer(False), "indexed")


def prompt_and_output(model):
    return jopa.build_prompt(model.tokenizer, TEXT), jopa.Output(ANSWER, model.decode(ANSWER), (0, len(ANSWER)))


def test_zeros_are_refused_before_any_work_where_the_length_of_a_row_decides_between_them():
    model = indexed(4)
    with pytest.raises(jopa.SettingError, match=r"^removal 'zero' cannot be done with 13 tokens: beyond 4, "):
        jopa.explain(TEXT, model=model, removal="zero", k=2)
    with pytest.raises(jopa.SettingError, match="removal 'zero' cannot be done"):
        jopa.ModelScorer(model, *prompt_and_output(model), "zero")


def test_zeros_are_taken_where_every_key_counts():
    model = indexed(64)
    prompt, output = prompt_and_output(model)
    sets = [(), (2, 5), (1, 2, 3, 9)]
    found = jopa.ModelScorer(model, prompt, output, "zero").log_probs(keep_masks(len(prompt.units), sets))
    for scores, removed in zip(found, sets, strict=True):
        torch.testing.assert_close(
            scores.double(), reference(model, prompt, output, "zero", removed), atol=1e-4, rtol=0
        )


def test_other_removals_and_answers_are_those_of_plain_forwards():
    for model in (indexed(4), indexed(4, pad=0)):  # the embedding of padding is zero
        prompt, output = prompt_and_output(model)
        sets = [(), (0,), (2, 5), (1, 2, 3, 9)]
        for removal in ("delete", "hide"):
            found = jopa.ModelScorer(model, prompt, output, removal).log_probs(keep_masks(len(prompt.units), sets))
            for scores, removed in zip(found, sets, strict=True):
                expected = reference(model, prompt, output, removal, removed)
                torch.testing.assert_close(scores.double(), expected, atol=1e-4, rtol=0)


def test_what_a_zero_embedding_would_change_is_computed_row_by_row():
    assert not indexed(4).changes_with_length(3)
    assert indexed(4, pad=0).changes_with_length(12)
    assert not indexed(64, pad=0).changes_with_length(12)
    assert not tiny_models.language_model("llama").changes_with_length(12)
