"""Every fast path of the scorer equals a slow, obvious reference in plain transformers."""

import math
from itertools import combinations

import pytest
import torch

import jopa
import tiny_models
from jopa.choices import REMOVALS
from jopa.scoring import batch_input as rows
from jopa.scoring import forward, model_scorer
from jopa.scoring import prefix_cache as prefixes
from jopa.scoring.probe import probe_of
from slow_reference import keep_masks, reference

TEXT = "write a story about the doctor and his patient"
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "once upon time there was a doctor".split())


def case(model, *, unit="token", system=None, target=None, text=TEXT):
    prompt = jopa.build_prompt(model.tokenizer, text, unit=unit, system=system)
    output = jopa.Output(ANSWER, model.decode(ANSWER), target or (0, len(ANSWER)))
    return prompt, output


def check_against_reference(model, prompt, output, removal, sets, **settings):
    scorer = jopa.ModelScorer(model, prompt, output, removal, **settings)
    scores = scorer.log_probs(keep_masks(len(prompt.units), sets))
    for row, removed in zip(scores, sets, strict=True):
        expected = reference(model, prompt, output, removal, removed)
        assert torch.allclose(row.double(), expected, atol=1e-4, rtol=0), (removal, removed)


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("reuse_prefix", [True, False])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_scores_equal_one_plain_forward_a_mask(tiny, removal, reuse_prefix, batch_size):
    prompt, output = case(tiny)
    sets = [(), (0,), (8,), (0, 8), (2, 5, 7), (1, 2, 3, 4), tuple(range(9))]
    check_against_reference(tiny, prompt, output, removal, sets, reuse_prefix=reuse_prefix, batch_size=batch_size)


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
        said = [
            reference(tiny, prompt, jopa.Output((*ids[:length], token), "", (length, length + 1)), removal, removed)
            for token in range(len(tiny_models.VOCABULARY))
        ]
        assert int(torch.cat(said).argmax()) == ids[length]


def plain_log_prob(model, prompt, output, factor):
    """Σ log p(y) with each unit's input embeddings multiplied by its factor: one plain forward."""
    ids = torch.tensor([[*prompt.ids, *output.ids]])
    scale = torch.ones(ids.shape[1], dtype=factor.dtype)
    for number, unit in enumerate(prompt.units):
        scale = scale.index_put((torch.tensor(unit.positions),), factor[number])
    embeddings = model.get_input_embeddings()(ids).detach() * scale[None, :, None]
    logits = model(inputs_embeds=embeddings, use_cache=False).logits[0].log_softmax(-1)
    return logits[torch.arange(len(prompt.ids) - 1, ids.shape[1] - 1), list(output.ids)].sum()


@pytest.mark.parametrize("removed", [(), (1,), (0, 8)])
def test_mask_gradient_equals_a_plain_backward(tiny, removed):
    prompt, output = case(tiny)
    keep = keep_masks(9, [removed])[0]
    factor = keep.float().requires_grad_()
    (expected,) = torch.autograd.grad(plain_log_prob(tiny.model, prompt, output, factor), factor)
    gradient = jopa.ModelScorer(tiny, prompt, output, "zero").mask_gradient(keep)
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-3)


def test_mask_gradient_equals_finite_differences():
    gpt2 = tiny_models.language_model("gpt2")  # its layers keep float64, which small differences need
    prompt, output = case(gpt2)
    double = type(gpt2.model)(gpt2.model.config)
    double.load_state_dict(gpt2.model.state_dict())
    double.double().eval()
    keep = keep_masks(9, [()])[0]
    gradient = jopa.ModelScorer(gpt2, prompt, output, "zero").mask_gradient(keep)
    step = 1e-4
    for unit in range(9):
        change = torch.zeros(9, dtype=torch.double)
        change[unit] = step
        with torch.no_grad():
            up, down = (plain_log_prob(double, prompt, output, 1 + sign * change).item() for sign in (1, -1))
        assert gradient[unit].item() == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-3)


def test_gradient_norms_equal_a_plain_backward_by_the_embeddings(tiny):
    prompt, output = case(tiny, unit=[(0, 13), (20, 30), (31, 46)], target=(1, 5))
    ids = torch.tensor([[*prompt.ids, *output.ids]])
    embeddings = tiny.model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = tiny.model(inputs_embeds=embeddings, use_cache=False).logits[0].log_softmax(-1)
    total = sum(logits[len(prompt.ids) - 1 + t, output.ids[t]] for t in range(1, 5))
    (gradient,) = torch.autograd.grad(total, embeddings)
    expected = torch.stack([gradient[0, list(unit.positions)].norm() for unit in prompt.units])
    assert expected.min() > 1e-3
    for removal in REMOVALS:
        scorer = jopa.ModelScorer(tiny, prompt, output, removal)
        norms = scorer.gradient_norms()
        assert norms.dtype == torch.float32
        assert torch.allclose(norms, expected, rtol=1e-3, atol=1e-3)
        other = jopa.ModelScorer(tiny, prompt, output, removal)
        other.mask_gradient(keep_masks(3, [()])[0])
        assert scorer.ffe == other.ffe


@pytest.mark.parametrize("reuse_prefix", [True, False])
@pytest.mark.parametrize("hidden", [(), (0,), (2, 5, 7)])
def test_full_attention_changes_nothing_and_none_hides(tiny, reuse_prefix, hidden):
    prompt, output = case(tiny, system="please tell me what you think")
    scorer = jopa.ModelScorer(tiny, prompt, output, "hide", reuse_prefix=reuse_prefix)
    log_factors = torch.zeros(9)
    log_factors[list(hidden)] = -1e9
    damped = scorer._masked.attention_scaled_log_probs(log_factors).detach()
    assert torch.allclose(damped, scorer.log_probs(keep_masks(9, [hidden]))[0], atol=1e-4, rtol=0)


def test_attention_gradient_equals_finite_differences(tiny):
    if tiny.id == "tiny-moe":
        pytest.skip("a small step may choose other experts")
    prompt, output = case(tiny, unit=[(0, 5), (6, 13), (20, 30), (31, 46)], target=(1, 5))
    scorer = jopa.ModelScorer(tiny, prompt, output, "delete")
    factors, step = torch.tensor([0.5, 0.2, 1.0, 0.02]), 2e-2
    gradient = scorer.attention_gradient(factors)
    assert gradient.dtype == torch.float32
    assert gradient.abs().max() > 0.1
    for unit in range(4):
        change = torch.zeros(4)
        change[unit] = step
        with torch.no_grad():
            up, down = (
                scorer._masked.attention_scaled_log_probs(factors.log() + sign * change).double().sum()
                for sign in (1, -1)
            )
        assert float(gradient[unit]) == pytest.approx(float(up - down) / (2 * step), rel=2e-2, abs=5e-3)


def test_an_attention_gradient_counts_as_three_forwards(llama):
    prompt, output = case(llama, system="please tell me what you think")
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")
    prefix = scorer._forward.prefix().length
    scorer.attention_gradient(torch.full((9,), 0.5))
    assert prefix > 0
    assert scorer.work.tokens == prefix + 3 * (len(prompt.ids) + len(output.ids) - 1 - prefix)
    assert (scorer.work.forwards, scorer.work.backwards) == (2, 1)


def test_attention_that_takes_no_factors_and_too_much_of_it_are_one_line(llama, monkeypatch):
    prompt, output = case(llama)
    monkeypatch.setitem(model_scorer._MAX_ATTENTION_WEIGHTS, "cpu", 1000)
    with pytest.raises(jopa.ScoringError, match="too many"):
        jopa.ModelScorer(llama, prompt, output, "delete").attention_gradient(torch.ones(9))
    monkeypatch.setitem(vars(probe_of(llama)), "scales_attention", False)
    with pytest.raises(jopa.ScoringError, match="cannot be made weaker"):
        jopa.ModelScorer(llama, prompt, output, "delete").attention_gradient(torch.ones(9))


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
        for token in range(row.shape[1]):
            asked = jopa.Output((*output.ids[:2], token), "", (2, 3))
            assert row[0, token].item() == pytest.approx(
                reference(tiny, prompt, asked, removal, removed).item(), abs=1e-4
            )
        assert torch.allclose(
            row[range(3), list(output.ids[2:5])].double(), reference(tiny, prompt, output, removal, removed), atol=1e-4
        )
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


@pytest.fixture(params=["as priced", "free"])
def launch(request, monkeypatch):
    """With free forwards every row that others begin like is computed first, however little that saves."""
    if request.param == "free":
        monkeypatch.setattr(forward, "LAUNCH_TOKENS", {"cpu": 0, "cuda": 0})
    return request.param


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("chat", [True, False])
def test_rows_that_begin_with_the_caches_of_other_rows_score_the_same(tiny, removal, chat, launch, monkeypatch):
    different = []

    def cache_after(prefix_caches, keep):
        different.append(len({id(base) for base in prefix_caches}))
        return prefixes.cache_after(prefix_caches, keep)

    monkeypatch.setattr(rows, "cache_after", cache_after)
    model = tiny if chat else tiny_models.language_model(tiny.id.removeprefix("tiny-"), chat=False)
    prompt, output = case(model)
    alone = [(i,) for i in range(9)]
    swaps = [tuple(sorted({2, 5, 7} - {out} | {into})) for out in (2, 5, 7) for into in (0, 1, 3, 4, 6, 8)]
    calls = [
        [(), *alone],
        swaps,
        [(2, 5, 7)],
        [(2, 5, 8)],
        [(), (2, 5, 7), (7, 8)],
        [(3, 8)],
        [(2, 5), (3, 7)],
        [(2, 5, 7)],
    ]
    scorer = jopa.ModelScorer(model, prompt, output, removal)
    for sets in calls:
        scores = scorer.log_probs(keep_masks(9, sets))
        for row, removed in zip(scores, sets, strict=True):
            expected = reference(model, prompt, output, removal, removed)
            assert torch.allclose(row.double(), expected, atol=1e-4, rtol=0), (sets, removed)
    if launch == "free":
        plain = jopa.ModelScorer(model, prompt, output, removal, reuse_prefix=False)
        for sets in calls:
            plain.log_probs(keep_masks(9, sets))
        template = prompt.units[0].positions[0]
        n_rows = sum(map(len, calls))
        assert scorer.work.tokens < plain.work.tokens - (n_rows - 1) * max(0, template - 1) - 30
        assert scorer.work.reused > n_rows * max(0, template - 1)
    elif probe_of(model).crops_caches:
        assert max(different) > 1, "no forward had rows of different bases"


@pytest.mark.parametrize("removal", REMOVALS)
def test_the_order_of_masks_and_repeats_change_nothing(llama, removal, launch):
    prompt, output = case(llama)
    sets = [(0, 1), (8,), (), (3, 4, 5), (8,), (0, 1), (0, 2), (3, 4, 6), (), (3, 4, 5)]
    scores = jopa.ModelScorer(llama, prompt, output, removal).log_probs(keep_masks(9, sets))
    back = jopa.ModelScorer(llama, prompt, output, removal).log_probs(keep_masks(9, sets[::-1])).flip(0)
    for row, other, removed in zip(scores, back, sets, strict=True):
        expected = reference(llama, prompt, output, removal, removed)
        assert torch.allclose(row.double(), expected, atol=1e-4, rtol=0)
        assert torch.allclose(other.double(), expected, atol=1e-4, rtol=0)


class Watch:
    """Counts tokens on the model itself: those of every forward, and how often each entered a padded row's end."""

    def __init__(self, model):
        self.forwards, self.with_gradient = [], []
        self.hook = model.model.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, _module, _arguments, options):
        ids = options["input_ids" if "input_ids" in options else "inputs_embeds"]
        self.forwards.append(ids.shape[:2].numel())
        if torch.is_grad_enabled():
            self.with_gradient.append(self.forwards[-1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize("removal", REMOVALS)
def test_work_is_what_enters_the_model(llama, removal, launch):
    prompt, output = case(llama, unit=[(0, 13), (20, 30), (31, 46)])

    def ask(scorer):
        scorer.log_probs(keep_masks(3, [(), (0,), (0, 2), (1,), (2,), (0, 1, 2)]))
        scorer.log_probs(keep_masks(3, [(1, 2)]))
        scorer.log_distributions(keep_masks(3, [(0, 1)]))
        scorer.mask_gradient(keep_masks(3, [()])[0])
        scorer.gradient_norms()
        scorer.attention()

    ask(jopa.ModelScorer(llama, prompt, output, removal))  # tries what the model can do, once in a process
    scorer = jopa.ModelScorer(llama, prompt, output, removal)
    with Watch(llama) as seen:
        ask(scorer)
    work = scorer.work
    assert work.tokens == sum(seen.forwards) + 2 * sum(seen.with_gradient)
    assert scorer.ffe == work.tokens / (len(prompt.ids) + len(output.ids))
    assert (work.forwards, work.backwards, work.evaluations) == (len(seen.forwards), 2, 8)
    assert set(work.seconds) == {"prefix", "planning", "scores", "gradients", "attention"}
    assert all(seconds > 0 for seconds in work.seconds.values())
    # Whatever was reused or filled up, every row is whole: forwards hold it less its reused part, and padding.
    rows = [9 - 3 * (0 in r) - 2 * (1 in r) - 3 * (2 in r) if removal == "delete" else 9 for r in ROWS]
    template = len(prompt.ids) - 9
    prefix = prompt.units[0].positions[0]
    whole = sum(template + row + len(output.ids) - 1 for row in rows) + 2 * (len(prompt.ids) + len(output.ids) - 1)
    reused_by_gradients = 2 * prefix
    assert work.reused >= reused_by_gradients + 8 * prefix
    scored_tokens = sum(seen.forwards) - len(prompt.ids) - len(output.ids) + 1 - prefix
    assert scored_tokens - work.padding + work.reused == whole


ROWS = [(), (0,), (0, 2), (1,), (2,), (0, 1, 2), (1, 2), (0, 1)]


def test_padding_is_counted(llama):
    prompt, output = case(llama, unit=[(0, 13), (20, 30), (31, 46)])
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")
    scorer.log_probs(keep_masks(3, [(0,), (0, 1, 2)]))
    assert scorer.work.padding == 5  # without the first unit, and without the other two as well: one batch
    assert scorer.work.forwards == 2


def test_ffe_counts_the_tokens_that_enter_the_model(llama):
    prompt, output = case(llama)
    scorer = jopa.ModelScorer(llama, prompt, output, "delete", batch_size=2)
    with Watch(llama) as seen:
        scorer.log_probs(keep_masks(9, [(), (0,), (1, 2), (3,)]))
        forwards = sum(seen.forwards)
        assert scorer.ffe == pytest.approx(forwards / (len(prompt.ids) + len(output.ids)))
        scorer.mask_gradient(keep_masks(9, [()])[0])
        gradient = seen.forwards[-1]
    assert scorer.ffe == pytest.approx((forwards + 3 * gradient) / (len(prompt.ids) + len(output.ids)))


def test_the_prefix_is_computed_once(llama, monkeypatch):
    prompt, output = case(llama, system="please tell me what you think")
    pairs = keep_masks(9, list(combinations(range(9), 2)))
    n_prefix = prompt.units[0].positions[0]
    total = len(prompt.ids) + len(output.ids)
    without = jopa.ModelScorer(llama, prompt, output, "zero", reuse_prefix=False)
    for pair in pairs:
        without.log_probs(pair[None])
    assert without.ffe == pytest.approx(36 * (total - 1) / total)
    monkeypatch.setattr(forward, "LAUNCH_TOKENS", {"cpu": 10**6, "cuda": 10**6})  # no other row is worth a forward
    together = jopa.ModelScorer(llama, prompt, output, "zero", batch_size=36)
    together.log_probs(pairs)
    assert together.ffe == pytest.approx((n_prefix + 36 * (total - 1 - n_prefix)) / total)
    one_by_one = jopa.ModelScorer(llama, prompt, output, "zero")
    for pair in pairs:
        one_by_one.log_probs(pair[None])
    assert one_by_one.ffe < together.ffe  # each begins like one of those before it


def test_a_model_whose_cache_cannot_be_cut_is_copied_whole(tiny, monkeypatch, launch):
    monkeypatch.setitem(vars(probe_of(tiny)), "crops_caches", False)
    prompt, output = case(tiny, system="please tell me what you think of green birds in the rain")
    for removal in REMOVALS:
        check_against_reference(tiny, prompt, output, removal, [(), (0,), (3, 4), (0, 8), (0, 7), (3, 5)])


def test_the_users_weights_and_hooks_are_not_touched(llama):
    prompt, output = case(llama)
    before = {name: parameter.clone() for name, parameter in llama.model.named_parameters()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in llama.model.modules()]
    jopa.ModelScorer(llama, prompt, output, "delete").log_probs(keep_masks(9, [(), (1,), (2,), (1, 2)]))
    assert all(torch.equal(before[name], parameter) for name, parameter in llama.model.named_parameters())
    after = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in llama.model.modules()]
    assert after == hooks


def test_out_of_memory_halves_the_batch_and_goes_on(llama, monkeypatch):
    prompt, output = case(llama)
    sets = [(i,) for i in range(9)]
    expected = jopa.ModelScorer(llama, prompt, output, "delete").log_probs(keep_masks(9, sets))
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")
    sizes = []
    score = scorer._masked._score

    def tight(rows, *rest):
        sizes.append(len(rows))
        if len(rows) > 2:
            raise torch.OutOfMemoryError("no room")
        return score(rows, *rest)

    monkeypatch.setattr(scorer._masked, "_score", tight)
    assert torch.allclose(scorer.log_probs(keep_masks(9, sets)), expected, atol=1e-5)
    assert sizes == [9, 4, 2, 2, 2, 2, 1]


def test_out_of_memory_with_one_mask_says_what_to_do(llama, monkeypatch):
    prompt, output = case(llama)
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")

    def never(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(scorer._masked, "_score", never)
    with pytest.raises(jopa.ScoringError, match="out of memory with one input"):
        scorer.log_probs(keep_masks(9, [()]))


def test_other_errors_of_the_model_are_not_swallowed(llama, monkeypatch):
    prompt, output = case(llama)
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")

    def broken(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(scorer._masked, "_score", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        scorer.log_probs(keep_masks(9, [()]))


def test_nan_is_an_error_that_names_the_mask(llama):
    prompt, output = case(llama)
    with torch.no_grad():
        weight = llama.model.get_input_embeddings().weight
        token = prompt.ids[prompt.units[4].positions[0]]
        saved = weight[token].clone()
        weight[token] = math.nan
        try:
            scorer = jopa.ModelScorer(llama, prompt, output, "delete")
            scorer.log_probs(keep_masks(9, [(4,)]))  # without the broken token all is well
            with pytest.raises(jopa.ScoringError, match=r"nan .* units \[2, 3\] removed \(delete\)"):
                scorer.log_probs(keep_masks(9, [(4,), (2, 3)]))
        finally:
            weight[token] = saved


def test_nothing_left_to_predict_from_is_refused():
    model = tiny_models.language_model("gpt2", chat=False)
    prompt, output = case(model)
    for removal in ("delete", "hide"):
        scorer = jopa.ModelScorer(model, prompt, output, removal)
        with pytest.raises(jopa.PromptError, match="nothing is left"):
            scorer.log_probs(keep_masks(9, [tuple(range(9))]))
    scorer = jopa.ModelScorer(model, prompt, output, "zero")
    assert scorer.log_probs(keep_masks(9, [tuple(range(9))])).isfinite().all()


def test_training_mode_and_dropout_are_put_back():
    model = tiny_models.language_model("gpt2")
    prompt, output = case(model)
    model.model.train()
    model.model.transformer.h[0].eval()
    try:
        modes = [module.training for module in model.model.modules()]
        first = jopa.ModelScorer(model, prompt, output, "delete").log_probs(keep_masks(9, [(1,)]))
        second = jopa.ModelScorer(model, prompt, output, "delete").log_probs(keep_masks(9, [(1,)]))
        assert torch.equal(first, second)
        assert [module.training for module in model.model.modules()] == modes
    finally:
        model.model.eval()


def test_bad_settings_are_refused(llama):
    prompt, output = case(llama)
    with pytest.raises(jopa.SettingError, match="unknown removal 'blank': choose one of delete, zero, hide"):
        jopa.ModelScorer(llama, prompt, output, "blank")
    with pytest.raises(jopa.SettingError, match="batch_size must be at least 1"):
        jopa.ModelScorer(llama, prompt, output, "zero", batch_size=0)
    with pytest.raises(jopa.SettingError, match="target must lie within the output's 7 tokens, got 3:9"):
        jopa.Output(ANSWER, "", (3, 9))


def test_relaxed_gradients_of_many_rows_equal_plain_backwards(tiny):
    prompt, output = case(tiny)
    factors = torch.rand(5, 9, generator=torch.Generator().manual_seed(1))
    scorer = jopa.ModelScorer(tiny, prompt, output, "zero", batch_size=2)
    log_probs, gradients = scorer.relaxed_gradients(factors)
    for row, log_prob, gradient in zip(factors, log_probs, gradients, strict=True):
        leaf = row.clone().requires_grad_()
        total = plain_log_prob(tiny.model, prompt, output, leaf)
        (expected,) = torch.autograd.grad(total, leaf)
        assert log_prob.item() == pytest.approx(total.item(), abs=1e-3)
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-3)


def test_attention_equals_the_models_own_weights(tiny):
    prompt, output = case(tiny, unit=[(0, 13), (20, 30), (31, 46)], target=(1, 4))
    implementation = tiny.model.config._attn_implementation
    attention = jopa.ModelScorer(tiny, prompt, output, "delete").attention()
    assert tiny.model.config._attn_implementation == implementation
    tiny.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            layers = tiny.model(torch.tensor([[*prompt.ids, *output.ids]]), output_attentions=True).attentions
    finally:
        tiny.model.set_attn_implementation(implementation)
    queries = [len(prompt.ids) - 1 + t for t in range(1, 4)]
    for layer, weights in enumerate(layers):
        for number, unit in enumerate(prompt.units):
            paid = [weights[0, h, q, list(unit.positions)].sum().item() for h in range(4) for q in queries]
            assert attention[layer, number].item() == pytest.approx(sum(paid) / len(paid), abs=1e-5)


def test_attention_to_a_long_prompt_is_read_without_keeping_all_of_it(llama):
    """Weights are kept from the positions that predict the target alone, so memory grows with T and not with T²."""
    prompt, output = case(llama, target=(2, 4))
    scorer = jopa.ModelScorer(llama, prompt, output, "delete")
    calls = []
    hook = llama.model.register_forward_pre_hook(
        lambda _model, _args, kwargs: calls.append((kwargs["input_ids"].shape[1], "output_attentions" in kwargs)),
        with_kwargs=True,
    )
    try:
        scorer.attention()
    finally:
        hook.remove()
    n_tokens = len(prompt.ids) + output.target[1] - 1
    assert calls == [(n_tokens - 2, False), (2, True)]


def test_replaced_tokens_score_as_the_other_prompt_would(tiny):
    prompt, output = case(tiny)
    other = list(prompt.ids)
    other[prompt.units[4].positions[0]] = tiny_models.VOCABULARY["rain"]
    scorer = jopa.ModelScorer(tiny, prompt, output, "delete")
    scores = scorer.replaced_log_probs(torch.tensor([prompt.ids, other]))
    for ids, row in zip((prompt.ids, tuple(other)), scores, strict=True):
        expected = reference(tiny, jopa.Prompt("", ids, ()), output, "delete", ())
        assert torch.allclose(row.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("removal", REMOVALS)
def test_scores_are_made_in_inference_mode_and_gradients_are_not(llama, removal):
    prompt, output = case(llama)
    scorer = jopa.ModelScorer(llama, prompt, output, removal)
    modes = []
    hook = llama.model.register_forward_pre_hook(lambda *_: modes.append(torch.is_inference_mode_enabled()))
    try:
        prefix = scorer._forward.prefix()
        scorer.log_probs(keep_masks(9, [(1,), (2, 3)]))
        assert modes == [False] + [True] * (len(modes) - 1)
        assert not any(tensor.is_inference() for layer in prefix.layers for tensor in layer)
        modes.clear()
        scorer.mask_gradient(keep_masks(9, [(1,)])[0])
        scorer.gradient_norms()
        assert modes == [False, False]
    finally:
        hook.remove()


def test_what_a_model_keeps_of_a_forward_can_still_take_part_in_gradients():
    """Some models let their position tables grow in a forward; those must be ordinary tensors afterwards."""
    model = tiny_models.language_model("llama")
    prompt, output = case(model)
    module = model.model.model

    def grow(*_):
        module.register_buffer("table", torch.arange(4.0) * 2, persistent=False)
        module.noted = torch.arange(4.0) * 3

    hook = module.register_forward_pre_hook(grow)
    try:
        jopa.ModelScorer(model, prompt, output, "zero").log_probs(keep_masks(9, [(1,)]))
        for kept, factor in ((module.table, 2), (module.noted, 3)):
            assert not kept.is_inference()
            leaf = torch.ones(4, requires_grad=True)
            (leaf * kept).sum().backward()
            assert leaf.grad.tolist() == [0.0, factor, 2.0 * factor, 3.0 * factor]
    finally:
        hook.remove()
        del module._buffers["table"], module.noted
        module._non_persistent_buffers_set.discard("table")
