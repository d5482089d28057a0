"""A prompt and an output for tests of the scorer, and the comparison with plain forwards."""

from typing import Any

import torch

import jopa
import tiny_models
from slow_reference import keep_masks, reference

TEXT = "write a story about the doctor and his patient"

ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "once upon time there was a doctor".split())


def case(model, *, unit: Any = "token", system=None, target=None, text=TEXT):
    prompt = jopa.build_prompt(model.tokenizer, text, unit=unit, system=system)
    output = jopa.Output(ANSWER, model.decode(ANSWER), target or (0, len(ANSWER)))
    return prompt, output


def check_against_reference(model, prompt, output, removal, sets, settings=({},)):
    """With all of these settings of the scorer, the score of each set is that of its own plain forward."""
    right = [reference(model, prompt, output, removal, removed) for removed in sets]
    for given in settings:
        scorer = jopa.ModelScorer(model, prompt, output, removal, **given)
        scores = scorer.log_probs(keep_masks(len(prompt.units), sets))
        for row, removed, expected in zip(scores, sets, right, strict=True):
            assert torch.allclose(row.double(), expected, atol=1e-4, rtol=0), (removal, given, removed)


def plain_log_prob(model, prompt, output, factor):
    """Σ log p(y) with each unit's input embeddings multiplied by its factor: one plain forward."""
    ids = torch.tensor([[*prompt.ids, *output.ids]])
    scale = torch.ones(ids.shape[1], dtype=factor.dtype)
    for number, unit in enumerate(prompt.units):
        scale = scale.index_put((torch.tensor(unit.positions),), factor[number])
    embeddings = model.get_input_embeddings()(ids).detach() * scale[None, :, None]
    logits = model(inputs_embeds=embeddings, use_cache=False).logits[0].log_softmax(-1)
    return logits[torch.arange(len(prompt.ids) - 1, ids.shape[1] - 1), list(output.ids)].sum()
