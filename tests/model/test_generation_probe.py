"""Where transformers' own `generate` is not the greedy continuation, answers come from plain forwards."""

import pytest
import torch
from transformers import AutoModelForCausalLM, CTRLConfig, RecurrentGemmaConfig, RobertaConfig

import jopa
import tiny_models
from jopa.model.generation_probe import GenerationProbe, InputKind

SHAPE = tiny_models.SHAPE
PROMPTS = ([1, 6, 7, 8, 9, 10, 11, 12], [7, 8, 9], [1, 12, 13, 14, 15])

BUILDERS = {
    "positions-from-padding-id": lambda: RobertaConfig(**SHAPE, is_decoder=True),
    "recurrent": lambda: RecurrentGemmaConfig(
        **{**SHAPE, "num_hidden_layers": 3, "intermediate_size": 96},
        lru_width=32,
        attention_window_size=6,
        head_dim=8,
    ),
    "ids-alone": lambda: CTRLConfig(
        vocab_size=SHAPE["vocab_size"], n_embd=32, n_layer=2, n_head=4, dff=48, n_positions=128, initializer_range=0.3
    ),
}


@pytest.fixture(params=sorted(BUILDERS))
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(BUILDERS[request.param]()).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.3)
    return jopa.LanguageModel(model, tiny_models.tokenizer(False), request.param)


def plain_loop(model, n_tokens, ids=None, embeddings=None):
    found = []
    while len(found) < n_tokens:
        inputs = {"input_ids": torch.tensor([ids])} if embeddings is None else {"inputs_embeds": embeddings.clone()}
        with torch.no_grad():
            token = int(model.model(**inputs, use_cache=False).logits[0, -1].argmax())
            if token in model.stop_ids:
                break
            found.append(token)
            if embeddings is None:
                ids = [*ids, token]
            else:
                new = model.model.get_input_embeddings()(torch.tensor([[token]]))
                embeddings = torch.cat([embeddings, new], dim=1)
    return tuple(found)


def test_answers_alone_and_in_batches_are_those_of_plain_loops(model):
    expected = [plain_loop(model, 6, ids) for ids in PROMPTS]
    assert len(set(expected)) > 1
    assert [model.generate_ids(ids, jopa.Generation(6)) for ids in PROMPTS] == expected
    inputs = [{"input_ids": torch.tensor([ids])} for ids in PROMPTS]
    assert model.generate_batch(inputs, max_new_tokens=6) == expected


def test_answers_to_embeddings_are_those_of_plain_loops(model):
    with torch.no_grad():
        embeddings = model.model.get_input_embeddings()(torch.tensor([PROMPTS[0]]))
    expected = plain_loop(model, 6, embeddings=embeddings)
    assert model.generate({"inputs_embeds": embeddings}, max_new_tokens=6) == expected


def test_a_batch_that_disagrees_is_generated_row_by_row_and_a_result_says_so(llama, monkeypatch):
    model = jopa.LanguageModel(llama.model, llama.tokenizer)
    tried = GenerationProbe._continues
    monkeypatch.setattr(GenerationProbe, "_continues", lambda self, kind: not kind.several and tried(self, kind))
    asked = []
    generate = llama.model.generate
    monkeypatch.setattr(
        llama.model, "generate", lambda **given: asked.append(given["input_ids"].shape) or generate(**given)
    )
    inputs = [{"input_ids": torch.tensor([ids])} for ids in PROMPTS]
    model.generate_batch(inputs, max_new_tokens=4)
    assert [tuple(shape) for shape in asked[-3:]] == [(1, len(ids)) for ids in PROMPTS]
    prompt = jopa.build_prompt(model.tokenizer, "write a story")
    scorer = jopa.ModelScorer(model, prompt, jopa.Output((6, 7), "", (0, 2)), "delete")
    assert any("one by one" in line for line in scorer.slow_paths)


def test_a_generate_that_disagrees_is_not_used(llama, monkeypatch):
    model = jopa.LanguageModel(llama.model, llama.tokenizer)
    expected = plain_loop(model, 5, PROMPTS[0])
    generate = llama.model.generate

    def wrong(**given):
        """Shifts every position, as a `generate` that guesses positions by itself may do."""
        return generate(**{**given, "position_ids": given["position_ids"] * 2})

    monkeypatch.setattr(llama.model, "generate", wrong)
    assert not model.generation_probe.agrees(InputKind())
    seen = []
    assert model.generate_ids(PROMPTS[0], jopa.Generation(5), on_ids=seen.append) == expected
    assert len(seen[-1]) == len(expected)
    sampled = [model.generate_ids(PROMPTS[0], jopa.Generation(5, 1.0, s)) for s in (3, 3, 4)]
    assert sampled[0] == sampled[1]


def test_each_kind_is_tried_once(llama, monkeypatch):
    model = jopa.LanguageModel(llama.model, llama.tokenizer)
    tried = []
    monkeypatch.setattr(GenerationProbe, "_continues", lambda self, kind: tried.append(kind) or True)
    for _ in range(2):
        model.generate_ids(PROMPTS[0], jopa.Generation(2))
        model.generate({"input_ids": torch.tensor([PROMPTS[0]]), "attention_mask": torch.ones(1, 8).long()})
        mask = torch.ones(1, 8, dtype=torch.long)
        mask[0, 3] = 0
        model.generate({"input_ids": torch.tensor([PROMPTS[0]]), "attention_mask": mask}, max_new_tokens=2)
    assert tried == [InputKind(), InputKind(hidden=True)]
