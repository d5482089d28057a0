"""Folders of models that read images too, used with text alone; and kinds of models that generate no text."""

import json

import pytest
import torch
import transformers
from transformers import DistilBertConfig, DistilBertForMaskedLM, T5Config, T5ForConditionalGeneration
from transformers.utils import hub

import jopa
import tiny_models
from jopa.model.reading import json_file

TEXT = {**tiny_models.SHAPE, "num_hidden_layers": 2}
VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
VISION |= {"image_size": 16, "patch_size": 8}
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
QWEN_IDS = {"image_token_id": 33, "video_token_id": 34, "vision_start_token_id": 35, "vision_end_token_id": 36}


def qwen2_vl():
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return transformers.Qwen2VLForConditionalGeneration(
        transformers.Qwen2VLConfig(
            text_config={**TEXT, "rope_parameters": ROTARY}, vision_config=vision, **QWEN_IDS, tie_word_embeddings=False
        )
    )


def llava():
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(
            text_config=transformers.LlamaConfig(**TEXT),
            vision_config=transformers.CLIPVisionConfig(**VISION),
            image_token_index=33,
        )
    )


def idefics3():
    return transformers.Idefics3ForConditionalGeneration(
        transformers.Idefics3Config(
            text_config=transformers.LlamaConfig(**TEXT), vision_config=VISION, image_token_id=33
        )
    )


def mistral3():
    return transformers.Mistral3ForConditionalGeneration(
        transformers.Mistral3Config(
            text_config=transformers.MistralConfig(**TEXT, head_dim=8),
            vision_config=transformers.PixtralVisionConfig(**VISION, head_dim=16),
            image_token_index=33,
        )
    )


def saved(folder, build, *, template=True):
    torch.manual_seed(3)
    model = build().float().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    tiny_models.tokenizer(template).save_pretrained(folder)
    return model


@pytest.mark.parametrize("build", [qwen2_vl, llava, idefics3, mistral3])
def test_a_model_that_reads_images_too_is_loaded_from_its_folder(tmp_path, build):
    written = saved(tmp_path, build)
    model = jopa.load(tmp_path, device="cpu")
    assert type(model.model) is type(written)
    found = jopa.explain("write a story about the doctor", model=model, k=1, output="once upon time")
    prompt = jopa.build_prompt(model.tokenizer, "write a story about the doctor").ids
    ids = torch.tensor([[*prompt, *model.encode_continuation("once upon time")]])
    with torch.no_grad():
        log_probs = written(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, ids.shape[1] - 1)
    expected = sum(float(log_probs[i, ids[0, i + 1]]) for i in places)
    assert found.log_prob == pytest.approx(expected, abs=1e-3)


def test_parts_with_attention_of_their_own_come_back_as_they_were():
    model = llava().float().eval()
    inside = model.model
    inside.vision_tower.config._attn_implementation = "eager"
    inside.language_model.config._attn_implementation = "sdpa"
    jopa.explain(
        "write a story about the doctor",
        model=jopa.LanguageModel(model, tiny_models.tokenizer(chat=True)),
        k=1,
        method="last-attention",
        output="once upon time",
    )
    assert inside.vision_tower.config._attn_implementation == "eager"
    assert inside.language_model.config._attn_implementation == "sdpa"


def t5():
    return T5ForConditionalGeneration(
        T5Config(vocab_size=39, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0)
    )


def distilbert():
    return DistilBertForMaskedLM(DistilBertConfig(vocab_size=39, dim=32, n_layers=1, n_heads=4, hidden_dim=48))


def clip():
    text = {"vocab_size": 39, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config={**text, "intermediate_size": 48}, vision_config=VISION, projection_dim=16)
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (t5, "' is an encoder-decoder model; jopa explains causal"),
        (distilbert, "' is a model of the kind 'distilbert', which has no causal language model in transformers"),
        (clip, "' is a model of the kind 'clip', which has no causal language model in transformers"),
    ],
)
def test_a_kind_that_generates_no_text_is_named_in_one_line(tmp_path, build, words):
    saved(tmp_path, build)
    with pytest.raises(jopa.ModelError) as refused:
        jopa.load(tmp_path, device="cpu")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "AutoModel" not in str(refused.value)


def write_template(folder, value):
    (folder / "chat_template.json").write_text(json.dumps(value))


def test_a_template_in_a_file_of_its_own_is_read(tmp_path):
    """As repositories of multimodal models had it, for the processor alone."""
    saved(tmp_path, llava, template=False)
    assert jopa.load(tmp_path, device="cpu").tokenizer.chat_template is None
    write_template(tmp_path, {"chat_template": tiny_models.CHAT_TEMPLATE})
    model = jopa.load(tmp_path, device="cpu")
    assert model.decode(jopa.build_prompt(model.tokenizer, "write a story").ids).startswith("<s> <|user|> write a")


def test_the_tokenizer_s_own_template_comes_first(tmp_path):
    saved(tmp_path, llava)
    write_template(tmp_path, {"chat_template": "another"})
    assert jopa.load(tmp_path, device="cpu").tokenizer.chat_template == tiny_models.CHAT_TEMPLATE


@pytest.mark.parametrize("value", [{}, [], {"chat_template": 3}])
def test_a_file_that_holds_no_template_is_refused(tmp_path, value):
    saved(tmp_path, llava, template=False)
    write_template(tmp_path, value)
    with pytest.raises(jopa.ModelError, match=r"its chat_template\.json holds no template"):
        jopa.load(tmp_path, device="cpu")


def test_a_template_on_the_hub_is_read(tmp_path, monkeypatch):
    saved(tmp_path, llava, template=False)
    write_template(tmp_path, {"chat_template": tiny_models.CHAT_TEMPLATE})

    def cached_file(_repository, file_name, **_):
        if (tmp_path / file_name).is_file():
            return str(tmp_path / file_name)
        raise OSError("someone/some-model does not have such a file")

    monkeypatch.setattr(hub, "cached_file", cached_file)
    where = {"local_files_only": False, "revision": None}
    assert json_file("someone/some-model", "chat_template.json", where) == {"chat_template": tiny_models.CHAT_TEMPLATE}
    assert json_file("someone/some-model", "adapter_config.json", where) is None
