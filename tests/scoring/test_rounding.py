"""What the rounding of a small dtype forbids to claim."""

import copy

import pytest
import torch

import jopa
from jopa.problem import Problem

TEXT = "write a story about the doctor and his patient in rain"


def problem(llama, dtype):
    model = jopa.LanguageModel(copy.deepcopy(llama.model).to(dtype), llama.tokenizer, str(dtype))
    prompt = jopa.build_prompt(model.tokenizer, TEXT)
    return Problem(jopa.ModelScorer(model, prompt, jopa.Output((7, 8, 9), "", (0, 3)), "delete"))


def all_pairs(n):
    return [(i, j) for i in range(n) for j in range(i)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_certificate_for_less_than_the_rounding_of_the_dtype(llama, dtype):
    found = problem(llama, dtype)
    pairs = all_pairs(found.n_units)
    scores = found.log_probs(pairs)
    order = sorted(range(len(pairs)), key=scores.__getitem__)
    lead = scores[order[1]] - scores[order[0]]
    noise = found.scorer.noise
    assert (noise == 0) == (dtype == torch.float32)
    assert noise < 2 if dtype == torch.bfloat16 else noise < 0.2
    expected = "optimal" if lead > noise else "none"
    assert found.certificate(pairs[order[0]]) == expected


def test_a_lead_within_rounding_is_none_and_beyond_it_is_one(llama):
    found = problem(llama, torch.bfloat16)
    pairs = all_pairs(found.n_units)
    scores = found.log_probs(pairs)
    best = pairs[min(range(len(pairs)), key=scores.__getitem__)]
    second = sorted(scores)[1] - min(scores)
    for noise, certificate in ((second * 1.1 + 1e-3, "none"), (0.0, "optimal")):
        vars(found.scorer)["noise"] = noise
        assert found.certificate(best) == certificate


def test_rounding_covers_what_the_dtype_does_to_scores(llama):
    pairs = all_pairs(11)
    exact, rounded = problem(llama, torch.float32), problem(llama, torch.bfloat16)
    errors = [a - b for a, b in zip(exact.log_probs(pairs), rounded.log_probs(pairs), strict=True)]
    spread = torch.tensor(errors).std()
    assert 0.2 * rounded.scorer.noise < spread.item() * 4
    assert spread.item() < 2 * rounded.scorer.noise
