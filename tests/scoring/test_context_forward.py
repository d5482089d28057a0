"""Units hidden only from what follows the context: equal to one plain forward under a mask of every query and key."""

import time

import pytest
import torch

import jopa
import tiny_models
from jopa.scoring import context_forward, forward, packed_rows
from jopa.scoring.packed_rows import packs_rows
from slow_reference import keep_masks

TEXT = "write a story about the doctor and his patient in rain please tell me what you think of green birds"
QUESTION = " once upon time there was who said that one day two people met"
ANSWER = tuple(tiny_models.VOCABULARY[word] for word in "there was a doctor".split())
SETS = [(), (0,), (3,), (2, 5), (1, 7, 12), tuple(range(19))]


def case(model, target=(0, 4), removal="delete"):
    spans = []
    for word in TEXT.split():
        start = TEXT.index(word, spans[-1][1] if spans else 0)
        spans.append((start, start + len(word)))
    prompt = jopa.build_prompt(model.tokenizer, TEXT + QUESTION, unit=spans)
    output = jopa.Output(ANSWER, model.decode(ANSWER), target)
    return prompt, output, jopa.ModelScorer(model, prompt, output, removal)


def offered(scorer):
    """The approximation, which this model has."""
    approximation = scorer.approximation()
    assert approximation is not None
    return approximation


def reference(model, prompt, output, removed, start):
    """One forward without a cache: queries from `start` on do not attend to the removed units' keys."""
    ids = torch.tensor([[*prompt.ids, *output.ids]])
    n = ids.shape[1]
    keys, queries = torch.arange(n), torch.arange(n)[:, None]
    gone = torch.zeros(n, dtype=torch.bool)
    gone[[position for i in removed for position in prompt.units[i].positions]] = True
    hidden = gone[None] & (queries >= start) & (keys != queries)

    def mask(window=None):
        allowed = (keys <= queries) & ~hidden
        if window is not None:
            allowed &= queries - keys < window
        return torch.zeros(n, n).masked_fill(~allowed, torch.finfo(torch.float32).min)[None, None]

    config = model.model.config
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    masks = mask(window)
    if kinds and len(set(kinds)) > 1:
        masks = {"full_attention": mask(), "sliding_attention": mask(window)}
    with torch.no_grad():
        arguments = {"attention_mask": masks, "position_ids": torch.arange(n)[None], "use_cache": False}
        logits = model.model(input_ids=ids, **arguments).logits[0].double()
    first = len(prompt.ids) - 1
    log_probs = logits.log_softmax(-1)[torch.arange(first, first + len(output.ids)), list(output.ids)]
    return log_probs[slice(*output.target)]


@pytest.mark.parametrize("target", [(0, 4), (1, 3)])
def test_equals_a_plain_forward_under_a_mask(tiny, target):
    prompt, output, scorer = case(tiny, target)
    approximation = offered(scorer)
    assert approximation.packed
    scores = approximation.log_probs(keep_masks(len(prompt.units), SETS))
    for removed, row in zip(SETS, scores, strict=True):
        expected = reference(tiny, prompt, output, removed, approximation.start)
        assert row.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_rows_that_copy_the_cache_score_the_same(tiny, monkeypatch):
    prompt, _, scorer = case(tiny)
    keep = keep_masks(len(prompt.units), SETS)
    packed = offered(scorer).log_probs(keep)
    monkeypatch.setitem(vars(tiny), "_packs_rows", False)
    copied = case(tiny)[2]
    assert torch.allclose(offered(copied).log_probs(keep), packed, atol=1e-4)
    assert [line for line in copied.slow_paths if "copy the cache" in line]
    assert not [line for line in scorer.slow_paths if "copy the cache" in line]


@pytest.mark.parametrize("removal", ["delete", "zero", "hide"])
@pytest.mark.parametrize("first", [True, False])
def test_nothing_hidden_is_exact_and_a_cached_context_is_not_run_again(llama, removal, first):
    prompt, output, scorer = case(llama, removal=removal)
    nothing = keep_masks(len(prompt.units), [()])
    exact = scorer.log_probs(nothing) if first else None
    before = scorer.ffe
    approximation = offered(scorer)
    scores = approximation.log_probs(nothing)
    spent = (scorer.ffe - before) * (len(prompt.ids) + len(output.ids))
    rest = len(prompt.ids) - approximation.start + len(ANSWER) - 1
    assert spent == pytest.approx(rest if first else rest + approximation.start)
    assert torch.allclose(scores, scorer.log_probs(nothing) if exact is None else exact, atol=1e-4)


def test_work_is_the_tokens_that_enter_the_model(llama):
    prompt, output, scorer = case(llama)
    scorer.log_probs(keep_masks(len(prompt.units), [()]))
    seen = []
    hook = llama.model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: seen.append(out.shape[1]))
    before = scorer.work.tokens
    try:
        approximation = offered(scorer)
        approximation.log_probs(keep_masks(len(prompt.units), SETS))
        assert scorer.work.tokens - before == sum(seen)
        assert scorer.ffe == scorer.work.tokens / (len(prompt.ids) + len(output.ids))
        assert sum(seen) == pytest.approx(len(SETS) * approximation.ffe * (len(prompt.ids) + len(output.ids)))
    finally:
        hook.remove()


@pytest.mark.parametrize(("limit", "value"), [("_PACKED_TOKENS", 40), ("_MASK_NUMBERS", 2500)])
def test_forwards_stay_small(llama, monkeypatch, limit, value):
    prompt, _, scorer = case(llama)
    keep = keep_masks(len(prompt.units), SETS)
    together = offered(scorer).log_probs(keep)
    monkeypatch.setitem(getattr(context_forward, limit), "cpu", value)
    sizes = []
    hook = llama.model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[:2]))
    try:
        assert torch.allclose(offered(case(llama)[2]).log_probs(keep), together, atol=1e-4)
    finally:
        hook.remove()
    (_, context), *rest = sizes
    assert all(rows == 1 for rows, _ in sizes)
    for _, n in rest:
        assert (n if limit == "_PACKED_TOKENS" else n * (context + n)) <= value


def test_the_gradient_is_that_of_differences(llama):
    """By log a at a = 1/2, the whole rest at once; checked by central differences of the batched forward's own."""
    prompt, _, scorer = case(llama)
    approximation = offered(scorer)
    factors = torch.full((len(prompt.units),), 0.5)
    gradient = approximation.gradient(factors)
    assert gradient is not None

    def total(changed):
        masked, forward = approximation._masked, approximation.forward
        by_position = torch.where(masked.unit_of >= 0, changed.log()[masked.unit_of.clamp(min=0)], 0.0)
        rest = masked.ids[approximation.start :]
        inputs = forward.embedded(rest[None], torch.ones(1, len(rest)))
        with torch.no_grad():
            return float(forward(inputs, [len(rest)], log_factors=by_position).sum())

    for unit in (0, 5, 11):
        step = torch.zeros(len(prompt.units))
        step[unit] = 0.02
        difference = (total(factors * step.exp()) - total(factors * (-step).exp())) / 0.04
        assert float(gradient[unit]) == pytest.approx(difference, abs=2e-3)


def test_too_much_attention_to_keep_gives_no_gradient(llama, monkeypatch):
    monkeypatch.setitem(context_forward._ATTENTION_WEIGHTS, "cpu", 10)
    prompt, _, scorer = case(llama)
    assert offered(scorer).gradient(torch.full((len(prompt.units),), 0.5)) is None


def test_models_that_cannot_hide_do_not_offer_it(llama, monkeypatch):
    from jopa.scoring.probe import probe_of

    monkeypatch.setitem(vars(probe_of(llama)), "hides_behind_prefix", False)
    assert case(llama)[2].approximation() is None


def test_a_packed_row_that_disagrees_is_found_out(llama, monkeypatch):
    monkeypatch.delitem(vars(llama), "_packs_rows", raising=False)
    right = packed_rows._packed_mask

    def leaking(mask, length, visible, shape):
        return right(mask, length, torch.ones_like(visible), shape)

    monkeypatch.setattr(packed_rows, "_packed_mask", leaking)
    assert not packs_rows(llama)
    monkeypatch.undo()
    vars(llama).pop("_packs_rows", None)
    assert packs_rows(llama)


def test_nan_and_exhausted_memory_are_said(llama, monkeypatch):
    prompt, _, scorer = case(llama)
    keep = keep_masks(len(prompt.units), SETS)
    monkeypatch.setattr(context_forward, "packed_logits", lambda *_: (torch.full((1, 4, 37), torch.nan), 0.0))
    monkeypatch.setitem(context_forward._PACKED_TOKENS, "cpu", 1)
    with pytest.raises(jopa.ScoringError, match="NaN or infinity with units hidden from the output"):
        offered(scorer).log_probs(keep)

    def fails(*_):
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(context_forward, "packed_logits", fails)
    with pytest.raises(jopa.ScoringError, match="out of memory with"):
        offered(scorer).log_probs(keep)


def test_memory_that_runs_out_in_the_context_leaves_no_context_out(llama, monkeypatch):
    prompt, _, scorer = case(llama)
    keep = keep_masks(len(prompt.units), SETS)
    expected = offered(case(llama)[2]).log_probs(keep)
    approximation, right = offered(scorer), forward.forward

    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(forward, "forward", fails)
    with pytest.raises(jopa.ScoringError, match="out of memory with"):
        approximation.log_probs(keep)
    monkeypatch.setattr(forward, "forward", right)
    assert torch.allclose(approximation.log_probs(keep), expected, atol=1e-5)


def test_memory_that_runs_out_halves_the_rows(llama, monkeypatch):
    prompt, _, scorer = case(llama)
    keep = keep_masks(len(prompt.units), SETS)
    expected = offered(case(llama)[2]).log_probs(keep)
    right, sizes = context_forward.packed_logits, []

    def tight(model, ids, visible, *rest):
        sizes.append(len(visible))
        if len(visible) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right(model, ids, visible, *rest)

    monkeypatch.setattr(context_forward, "packed_logits", tight)
    monkeypatch.setitem(context_forward._PACKED_TOKENS, "cpu", 10**6)
    assert torch.allclose(offered(scorer).log_probs(keep), expected, atol=1e-4)
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]


def test_the_seconds_of_the_context_count_once(llama, monkeypatch):
    prompt, _, scorer = case(llama)
    approximation, right = offered(scorer), forward.forward

    def slow(*arguments):
        time.sleep(0.2)
        return right(*arguments)

    monkeypatch.setattr(forward, "forward", slow)
    approximation.log_probs(keep_masks(len(prompt.units), SETS))
    assert scorer.work.seconds["prefix"] >= 0.2 > scorer.work.seconds["approximation"]
