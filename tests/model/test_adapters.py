"""PEFT adapters score as PEFT itself runs them, or are refused."""

import json

import pytest
import torch
from test_loading_faults import refusal, unchecked
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import jopa
import tiny_models

peft = pytest.importorskip("peft")
pytestmark = [  # of PEFT's own calls, and of what it decides when a test saves an adapter
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]
LORA = {"target_modules": ["q_proj", "v_proj"], "r": 4, "init_lora_weights": False}


def saved_adapter(model, base, **settings):
    """A PEFT model, and the folder with its adapter; it says that it belongs to `base`."""
    torch.manual_seed(3)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{"task_type": "CAUSAL_LM", **LORA, **settings})).eval()
    folder = base.parent / "adapter"
    adapted.save_pretrained(folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    return adapted, folder


def test_weights_that_count_only_behind_certain_tokens_are_refused(saved, llama):
    """The model inside would say what it says without the adapter."""
    adapted, folder = saved_adapter(LlamaForCausalLM.from_pretrained(saved), saved, alora_invocation_tokens=[4])
    said = "is a PEFT model (LORA) that chooses its weights anew for each input"
    assert said in refusal(folder)
    with pytest.raises(jopa.ModelError, match="chooses its weights anew"):
        unchecked(adapted, llama.tokenizer)


def test_adapters_that_are_mixed_by_the_input_are_refused(saved, llama):
    _, folder = saved_adapter(LlamaForCausalLM.from_pretrained(saved), saved)
    config = peft.XLoraConfig(
        task_type="CAUSAL_LM", hidden_size=32, xlora_depth=1, adapters={"0": str(folder), "1": str(folder)}
    )
    model = LlamaForCausalLM.from_pretrained(saved)
    model.config.use_cache = False
    with pytest.raises(jopa.ModelError, match=r"\(XLORA\) that chooses its weights anew"):
        unchecked(peft.get_peft_model(model, config), llama.tokenizer)


@pytest.mark.parametrize("what", ["classifier", "more layers"])
def test_weights_of_an_adapter_that_go_nowhere(saved, what):
    if what == "classifier":
        model, task = LlamaForSequenceClassification(LlamaConfig(**tiny_models.SHAPE)), "SEQ_CLS"
    else:
        model, task = LlamaForCausalLM(LlamaConfig(**{**tiny_models.SHAPE, "num_hidden_layers": 5})), "CAUSAL_LM"
    _, folder = saved_adapter(model, saved, task_type=task)
    name = "score.weight" if what == "classifier" else "layers.3.self_attn.q_proj.lora_A.weight"
    assert f"its base has no place for the adapter's weights base_model.model.{'model.' * (what != 'classifier')}" in (
        message := refusal(folder)
    )
    assert name in message


@pytest.mark.parametrize("n_tokens", [40, 64])
@pytest.mark.parametrize("trained", [None, ["embed_tokens", "lm_head"]])
def test_an_adapter_that_adds_tokens(saved, llama, trained, n_tokens):
    """With `modules_to_save` its file has their embeddings twice; 64 are more than the tokenizer has."""
    model = LlamaForCausalLM.from_pretrained(saved)
    model.resize_token_embeddings(n_tokens, mean_resizing=False)
    adapted, folder = saved_adapter(model, saved, modules_to_save=trained)
    longer = type(llama.tokenizer).from_pretrained(saved)
    longer.add_tokens([AddedToken("<|new|>", special=True)], special_tokens=True)
    longer.save_pretrained(folder)
    loaded = jopa.load(folder, device="cpu")
    assert loaded.vocabulary_size == n_tokens
    ids = torch.tensor([[1, 7, 39, 9]])
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, adapted(input_ids=ids).logits)


def test_an_adapter_with_embeddings_of_new_tokens_and_no_head_for_them(saved):
    model = LlamaForCausalLM.from_pretrained(saved)
    model.resize_token_embeddings(40, mean_resizing=False)
    _, folder = saved_adapter(model, saved, target_modules=["q_proj", "embed_tokens"])
    assert "with its adapter it has embeddings of 40 tokens and a language-model head of 39" in refusal(folder)


def test_the_base_is_of_the_revision_that_the_adapter_names(saved, monkeypatch):
    _, folder = saved_adapter(LlamaForCausalLM.from_pretrained(saved), saved, revision="abc123")
    asked = []

    def from_pretrained(name, **options):
        asked.append((name, options["revision"]))
        raise OSError("stop here")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", from_pretrained)
    refusal(folder)
    assert asked == [(str(saved), "abc123")]
