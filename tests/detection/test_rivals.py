"""Other defences' numbers against the plain model."""

import random
import string

import pytest
import torch

import tiny_models
from jopa.detection import rivals
from jopa.detection.rivals import AFFIRMATION, COPIES, SHRINKING, highlighted, perturbed, with_swapped_characters
from jopa.model.generation import Generation
from jopa.preparation import prepare_prompt

PROMPT = "write a story about the doctor and his patient in rain"


def plain_log_prob(model, ids, answer, factors=None):
    """Σ log p(answer) by transformers alone, the prompt's embeddings scaled, and its derivative by them."""
    embeddings = model.model.get_input_embeddings()(torch.tensor([[*ids, *answer]])).detach()
    embeddings.requires_grad_()
    scale = torch.ones(embeddings.shape[1]) if factors is None else factors
    logits = model.model(inputs_embeds=embeddings * scale[None, :, None]).logits[0].log_softmax(-1)
    total = logits[len(ids) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).sum()
    (gradient,) = torch.autograd.grad(total, embeddings)
    return float(total.detach()), gradient[0]


def test_token_highlighter_is_what_the_paper_says():
    model = tiny_models.language_model("llama")
    prompt = prepare_prompt(model, PROMPT, unit="token")
    found = highlighted(model, prompt)
    answer = model.encode_continuation(AFFIRMATION)
    total, gradient = plain_log_prob(model, prompt.ids, answer)
    assert found.affirmation == pytest.approx(total / len(answer), abs=1e-4)
    places = [unit.positions[0] for unit in prompt.units]
    norms = gradient.norm(dim=1)[places]
    assert found.influence == pytest.approx(norms.tolist(), rel=1e-3)
    assert set(found.critical) == set(norms.topk(3).indices.tolist())  # a quarter of 11, rounded up
    factors = torch.ones(len(prompt.ids) + len(answer))
    factors[[places[unit] for unit in found.critical]] = SHRINKING
    shrunk, _ = plain_log_prob(model, prompt.ids, answer, factors)
    assert found.effect == pytest.approx((total - shrunk) / len(answer), abs=1e-4)


def test_copies_are_answered_and_the_answer_scored_after_them():
    model = tiny_models.language_model("llama")
    prompt = prepare_prompt(model, PROMPT, unit="token")
    found = perturbed(model, prompt, max_new_tokens=4, seed=3)
    said = model.generate_ids(prompt.ids, Generation(4))
    drawn, losses = random.Random(3), []
    for _ in range(COPIES):
        copy = prepare_prompt(model, with_swapped_characters(PROMPT, drawn), unit="token")
        whole, behind = (plain_log_prob(model, one.ids, said)[0] for one in (prompt, copy))
        losses.append((whole - behind) / len(said))
    assert found.loss == pytest.approx(sum(losses) / COPIES, abs=1e-4)
    assert found == perturbed(model, prompt, max_new_tokens=4, seed=3)


@pytest.mark.parametrize(
    ("own", "kinds", "changed", "refused"),
    [
        ("other", ["other", "refusal", "compliance", "other", "refusal"], 0.6, 0.4),
        ("refusal", ["refusal", "refusal", "other", "refusal", "compliance"], 0.4, 0.6),
        ("compliance", ["compliance"] * COPIES, 0.0, 0.0),
        ("compliance", ["refusal"] * COPIES, 1.0, 1.0),
    ],
)
def test_the_shares_are_of_the_copies_whose_answer_is_of_another_kind(monkeypatch, own, kinds, changed, refused):
    model = tiny_models.language_model("llama")
    prompt = prepare_prompt(model, PROMPT, unit="token")
    said = model.generate_ids(prompt.ids, Generation(4))
    words = [(3 + i,) for i in range(COPIES)]  # a copy's answer, told by its only token
    kind_of_text = dict(zip(map(model.decode, words), kinds, strict=True)) | {model.decode(said): own}
    assert len(kind_of_text) == COPIES + 1
    answered = []
    monkeypatch.setattr(rivals, "_answers", lambda _, copies, __: answered.extend(copies) or words)
    monkeypatch.setattr(rivals, "kind_of", kind_of_text.__getitem__)
    found = perturbed(model, prompt, max_new_tokens=4, seed=3)
    assert (found.changed, found.refused) == (pytest.approx(changed), pytest.approx(refused))
    assert len(answered) == COPIES and all(copy.text != PROMPT for copy in answered)


def test_a_tenth_of_the_characters_is_swapped():
    text = "\N{LATIN SMALL LETTER O WITH STROKE}" * 100  # not printable ASCII, so every swap shows
    changed = [
        after
        for before, after in zip(text, with_swapped_characters(text, random.Random(0)), strict=True)
        if after != before
    ]
    assert len(changed) == 10
    assert set(changed) <= set(string.printable)
    assert len(with_swapped_characters("\N{LATIN SMALL LETTER O WITH STROKE}", random.Random(0))) == 1
