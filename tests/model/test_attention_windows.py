"""Windows of attention that are longer than what is tried at first: tried when an input is longer than they are."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DogeConfig, MiniMaxConfig, MistralConfig, MoshiConfig

import jopa
import tiny_models
from jopa.model.attention_windows import AttentionWindows
from jopa.model.generation_probe import InputKind

WINDOW = 20
SHAPE = {**tiny_models.SHAPE, "num_hidden_layers": 2}
BUILDERS = {
    "minimax": lambda window: MiniMaxConfig(
        **SHAPE,
        layer_types=["linear_attention", "full_attention"],
        block_size=4,
        sliding_window=window,
        num_local_experts=4,
        num_experts_per_tok=2,
        head_dim=8,
    ),
    "moshi": lambda window: MoshiConfig(
        **{**SHAPE, "num_key_value_heads": 4}, ffn_dim=48, sliding_window=window, head_dim=8
    ),
    "mistral": lambda window: MistralConfig(**SHAPE, sliding_window=window),
}


def random_model(config):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config).float().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.3)
    return model


def language_model(name, window=WINDOW):
    return jopa.LanguageModel(random_model(BUILDERS[name](window)), tiny_models.tokenizer(False), name)


def some_ids(n):
    return torch.randint(6, len(tiny_models.VOCABULARY), (n,), generator=torch.Generator().manual_seed(n)).tolist()


def plain_loop(model, ids, n_tokens):
    found = []
    while len(found) < n_tokens:
        with torch.no_grad():
            token = int(model.model(input_ids=torch.tensor([[*ids, *found]]), use_cache=False).logits[0, -1].argmax())
        if token in model.stop_ids:
            break
        found.append(token)
    return tuple(found)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_answers_across_a_window_are_those_of_plain_loops(name):
    model = language_model(name)
    prompts = [some_ids(n) for n in (18, 30, 45, 8)]
    expected = [plain_loop(model, ids, 6) for ids in prompts]
    assert [model.generate_ids(ids, jopa.Generation(6)) for ids in prompts] == expected
    inputs = [{"input_ids": torch.tensor([ids])} for ids in prompts]
    assert model.generate_batch(inputs, max_new_tokens=6) == expected


@pytest.mark.parametrize("name", ["minimax", "moshi"])
def test_sampled_answers_across_a_window(name):
    """The first token is sampled after a prompt of one window, the others beyond it."""
    model, other = language_model(name), language_model(name)
    vars(other)["generation_probe"] = Refusing()
    ids = some_ids(WINDOW)
    sampled = [model.generate_ids(ids, jopa.Generation(6, 1.0, seed)) for seed in range(3)]
    assert sampled == [other.generate_ids(ids, jopa.Generation(6, 1.0, seed)) for seed in range(3)]


class Refusing:
    """Knows no input that `generate` continues rightly."""

    def agrees(self, _kind):
        return False


@pytest.mark.parametrize("kind", [InputKind(), InputKind(hidden=True), InputKind(embedded=True)])
def test_a_window_is_tried_only_where_an_input_is_longer(kind, monkeypatch):
    model = language_model("mistral")
    tried = []
    agrees = model.generation_probe.agrees
    monkeypatch.setattr(model.generation_probe, "agrees", lambda kind: tried.append(kind) or agrees(kind))
    ids = torch.tensor([some_ids(WINDOW - 4)])
    inputs = {"input_ids": ids}
    if kind.embedded:
        inputs = {"inputs_embeds": model.model.get_input_embeddings()(ids).detach()}
    if kind.hidden:
        inputs["attention_mask"] = torch.ones_like(ids)
        inputs["attention_mask"][0, 3] = 0
    model.generate(inputs, max_new_tokens=4)
    assert {one.window for one in tried} == {0}
    model.generate(inputs, max_new_tokens=5)
    assert {one.window for one in tried} == {0, WINDOW}
    assert not model.generation_probe.refused


def test_what_a_configuration_calls_a_window():
    config = MistralConfig(**SHAPE, sliding_window=20)
    for name, value in {
        "attention_chunk_size": 24,
        "mamba_chunk_size": 32,
        "keep_window_size": 40,
        "local_attention": 48,
        "use_sliding_window": True,
        "max_window_layers": 5,
        "chunk_size_feed_forward": 7,
        "window_size": None,
        "sliding_window_pattern": 6,
    }.items():
        setattr(config, name, value)
    windows = AttentionWindows(random_model(config), tiny_models.tokenizer(False))
    assert windows.exceeded(20) == ()
    assert windows.exceeded(33) == (20, 24, 32)
    assert windows.exceeded(1000) == (20, 24, 32, 40, 48)


def doge(window, keep):
    config = DogeConfig(**SHAPE, sliding_window=window, keep_window_size=keep)
    return jopa.LanguageModel(random_model(config), tiny_models.tokenizer(False), "doge")


@pytest.mark.parametrize("window", [None, 30])
def test_a_model_that_is_not_causal_beyond_a_window_is_refused_there(window):
    """Doge keeps the tokens with the highest scores; those of equal tokens are equal, and the row's length decides."""
    model = doge(window, 20)
    ids = torch.tensor([some_ids(45)])
    with torch.no_grad():
        whole, part = (model.model(input_ids=ids[:, :n], use_cache=False).logits[0, :40] for n in (45, 43))
    assert (whole - part).abs().max() > 0.5
    with pytest.raises(jopa.ModelError, match=r"^what 'doge' says after a token changes with the number of tokens"):
        model.changes_with_length(45)
    with pytest.raises(jopa.ModelError, match="more than 20 tokens"):
        jopa.explain(" ".join(tiny_models.WORDS), model=model, k=1, output="once upon time")
    short = jopa.SearchOptions(counterfactual=jopa.Generation(3))
    assert len(jopa.explain("write a story", model=model, k=1, output="once upon time", search=short).removed) == 1


def test_a_model_that_is_causal_beyond_its_windows_is_not():
    for model in (doge(6, 6), *(language_model(name) for name in BUILDERS)):
        assert not model.changes_with_length(45)
