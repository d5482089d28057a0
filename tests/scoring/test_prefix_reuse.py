"""Rows that start behind cached beginnings score as plain forwards do, and the work is counted."""

from itertools import combinations

import pytest
import torch
from scorer_cases import case, check_against_reference

import jopa
import tiny_models
from jopa.choices import REMOVALS
from jopa.scoring import batch_input as rows
from jopa.scoring import forward
from jopa.scoring import prefix_cache as prefixes
from jopa.scoring.probe import probe_of
from slow_reference import keep_masks, reference

FREE = {"cpu": 0, "cuda": 0}


@pytest.fixture(params=["as priced", "free"])
def launch(request, monkeypatch):
    """With free forwards every row that others begin like is computed first, however little that saves."""
    if request.param == "free":
        monkeypatch.setattr(forward, "LAUNCH_TOKENS", FREE)
    return request.param


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("chat", [True, False])
def test_rows_that_begin_with_the_caches_of_other_rows_score_the_same(tiny, removal, chat, monkeypatch):
    """Forwards as they are priced, and free ones; both are compared with the same plain forwards."""
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
    expected = {removed: reference(model, prompt, output, removal, removed) for sets in calls for removed in sets}
    for launch in ("as priced", "free"):
        different.clear()
        if launch == "free":
            monkeypatch.setattr(forward, "LAUNCH_TOKENS", FREE)
        scorer = jopa.ModelScorer(model, prompt, output, removal)
        for sets in calls:
            scores = scorer.log_probs(keep_masks(9, sets))
            for row, removed in zip(scores, sets, strict=True):
                assert torch.allclose(row.double(), expected[removed], atol=1e-4, rtol=0), (launch, sets, removed)
        if launch == "as priced":
            if probe_of(model).crops_caches:
                assert max(different) > 1, "no forward had rows with different beginnings"
            continue
        plain = jopa.ModelScorer(model, prompt, output, removal, reuse_prefix=False)
        for sets in calls:
            plain.log_probs(keep_masks(9, sets))
        template = prompt.units[0].positions[0]
        n_rows = sum(map(len, calls))
        assert scorer.work.tokens < plain.work.tokens - (n_rows - 1) * max(0, template - 1) - 30
        assert scorer.work.reused > n_rows * max(0, template - 1)


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
