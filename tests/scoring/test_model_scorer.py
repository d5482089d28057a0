"""Every fast path of the scorer equals a slow, obvious reference in plain transformers."""

import itertools

import pytest
import torch
from scorer_cases import ANSWER, TEXT, case, check_against_reference

import jopa
import tiny_models
from jopa.choices import REMOVALS
from slow_reference import keep_masks, reference, reference_distributions


@pytest.mark.parametrize("removal", REMOVALS)
def test_scores_equal_one_plain_forward_a_mask(tiny, removal):
    prompt, output = case(tiny)
    sets = [(), (0,), (8,), (0, 8), (2, 5, 7), (1, 2, 3, 4), tuple(range(9))]
    settings = [
        {"reuse_prefix": reuse, "batch_size": size} for reuse, size in itertools.product([True, False], [None, 1, 3])
    ]
    check_against_reference(tiny, prompt, output, removal, sets, settings)


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_long_template_before_the_prompt_fills_the_sliding_window(tiny, removal):
    prompt, output = case(tiny, system="please tell me what you think of green birds in the rain")
    check_against_reference(tiny, prompt, output, removal, [(), (0,), (3, 4), (0, 8)])


@pytest.mark.parametrize("removal", REMOVALS)
def test_a_model_without_chat_template_or_bos(removal):
    for architecture in tiny_models.BUILDERS:
        model = tiny_models.language_model(architecture, chat=False)
        prompt, output = case(model)
        assert len(prompt.ids) == len(prompt.units)  # no template at all: the first unit is the first token
        check_against_reference(model, prompt, output, removal, [(), (0,), (8,), (0, 1, 2), tuple(range(8))])


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("target", [(0, 1), (2, 5), (6, 7)])
def test_a_narrowed_target_scores_only_its_tokens(tiny, removal, target):
    prompt, output = case(tiny, target=target)
    check_against_reference(tiny, prompt, output, removal, [(), (1, 2), (8,)])


def test_units_of_several_tokens_and_rows_of_different_length(tiny):
    prompt, output = case(tiny, unit=[(0, 13), (20, 30), (31, 46)])
    assert [len(unit.positions) for unit in prompt.units] == [3, 2, 3]
    for removal in REMOVALS:
        check_against_reference(tiny, prompt, output, removal, [(), (0,), (1,), (2,), (0, 1), (0, 1, 2)])


def test_greedy_output_scores_as_generate_says(tiny):
    prompt = jopa.build_prompt(tiny.tokenizer, TEXT)
    inputs = torch.tensor([prompt.ids])
    ids = tiny.generate({"input_ids": inputs}, max_new_tokens=8)
    with torch.no_grad():
        generated = tiny.model.generate(
            input_ids=inputs,
            max_new_tokens=8,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    n_new = len(ids)
    assert generated.sequences[0, inputs.shape[1] :][:n_new].tolist() == list(ids)
    own = [generated.logits[t][0].double().log_softmax(-1)[ids[t]].item() for t in range(n_new)]
    output = jopa.Output(ids, tiny.decode(ids), (0, n_new))
    scores = jopa.ModelScorer(tiny, prompt, output, "delete").log_probs(keep_masks(len(prompt.units), [()]))
    assert scores[0].tolist() == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize("removal", REMOVALS)
def test_what_the_model_says_without_units_is_the_arg_max_of_the_same_scores(tiny, removal):
    """Generation and scoring must remove in the same way: each greedy token is the reference's most likely one."""
    prompt, _ = case(tiny)
    removed = (2, 5)
    scorer = jopa.ModelScorer(tiny, prompt, jopa.Output(ANSWER, "", (0, 1)), removal)
    ids = tiny.generate(scorer.removed_inputs(keep_masks(9, [removed])[0]), max_new_tokens=6)
    for length in range(len(ids)):
        asked = jopa.Output(ids[: length + 1], "", (length, length + 1))
        assert int(reference_distributions(tiny, prompt, asked, removal, removed).argmax()) == ids[length]


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_log_distributions_equal_one_plain_forward_a_mask(tiny, removal, batch_size):
    prompt, output = case(tiny, target=(2, 5))
    scorer = jopa.ModelScorer(tiny, prompt, output, removal, batch_size=batch_size)
    sets = [(), (0,), (2, 5, 7)]
    distributions = scorer.log_distributions(keep_masks(9, sets))
    assert distributions.shape == (3, 3, len(tiny_models.VOCABULARY))
    assert distributions.dtype == torch.float32
    for row, removed in zip(distributions, sets, strict=True):
        right = reference_distributions(tiny, prompt, output, removal, removed)
        assert torch.allclose(row.double(), right, atol=1e-4, rtol=0)
        assert torch.allclose(row.exp().sum(dim=1), torch.ones(3), atol=1e-5)
    again = jopa.ModelScorer(tiny, prompt, output, removal, batch_size=batch_size)
    again.log_probs(keep_masks(9, sets))
    assert again.ffe == scorer.ffe


def test_logits_are_made_for_target_positions_only_and_hooks_are_gone_afterwards(llama):
    prompt, output = case(llama, target=(2, 5))
    shapes = []
    watch = llama.model.lm_head.register_forward_hook(lambda _m, _i, out: shapes.append(tuple(out.shape[:2])))
    try:
        jopa.ModelScorer(llama, prompt, output, "delete").log_probs(keep_masks(9, [(0,), (1,)]))
    finally:
        watch.remove()
    assert shapes == [(1, 1), (1, 6)]  # one position for the prefix; three target tokens for each of two masks
    assert not llama.model.lm_head._forward_pre_hooks


def test_replaced_tokens_score_as_the_other_prompt_would(tiny):
    prompt, output = case(tiny)
    other = list(prompt.ids)
    other[prompt.units[4].positions[0]] = tiny_models.VOCABULARY["rain"]
    scorer = jopa.ModelScorer(tiny, prompt, output, "delete")
    scores = scorer.replaced_log_probs(torch.tensor([prompt.ids, other]))
    for ids, row in zip((prompt.ids, tuple(other)), scores, strict=True):
        expected = reference(tiny, jopa.Prompt("", ids, ()), output, "delete", ())
        assert torch.allclose(row.double(), expected, atol=1e-4, rtol=0)
