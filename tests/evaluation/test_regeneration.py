"""The numbers and texts of an evaluation, against plain transformers without batches, caches or code of ours."""

import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

import jopa
import tiny_models
from jopa.choices import REMOVALS
from jopa.errors import PromptError, ScoringError
from jopa.evaluation.metrics import METRICS, text_metrics
from jopa.evaluation.regeneration import Evaluation, Evaluator

TEXT = "write a story about the doctor and his patient in rain"
SETS = [(5, 8), (8,), (2, 5, 8), (0, 1, 9, 10), ()]
N_OUT = 9
CASES = [(name, removal) for name in ("llama", "gpt2", "gemma3") for removal in REMOVALS]


def plain_logits(model, prompt, removal, removed, output):
    """Logits that predict each token of an output, and the one behind it: one row, one forward, no cache."""
    gone = [position for unit in removed for position in prompt.units[unit].positions]
    prompt_ids = list(prompt.ids)
    if removal == "delete":
        prompt_ids = [token for position, token in enumerate(prompt_ids) if position not in gone]
        gone = []
    ids = torch.tensor([prompt_ids + list(output)])
    keep = torch.ones_like(ids)
    keep[0, gone] = 0
    embeddings = model.model.get_input_embeddings()(ids)
    if removal == "zero":
        embeddings = embeddings * keep[:, :, None]
        keep = torch.ones_like(ids)
    positions = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        logits = model.model(inputs_embeds=embeddings, attention_mask=keep, position_ids=positions).logits
    return logits[0, len(prompt_ids) - 1 :].double()


def plain_answer(model, prompt, removal, removed):
    """Greedy, a whole forward for each token."""
    output = []
    while len(output) < N_OUT:
        token = int(plain_logits(model, prompt, removal, removed, output)[-1].argmax())
        if token == 2:  # </s>
            break
        output.append(token)
    return output


def lines(logits, output):
    """Log-probabilities of the vocabulary at each output position, and of the output's own tokens."""
    distribution = logits[:-1].log_softmax(dim=1)
    return distribution, distribution[range(len(output)), list(output)]


@cache
def talkative(name):
    """A tiny model whose answers vary: with tied embeddings random weights say the last word again and again."""
    config = tiny_models.BUILDERS[name]()
    config.tie_word_embeddings = False
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(config)
    return jopa.LanguageModel(model.eval(), tiny_models.tokenizer(True), name)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    """One evaluation of all sets by an Evaluator, with what it was made of."""
    name, removal = request.param
    model = talkative(name)
    prompt = jopa.build_prompt(model.tokenizer, TEXT)
    ids = model.encode_continuation("once upon time there was who said that one")
    # A target narrower than the output, which an evaluation must not mind.
    output = jopa.Output(ids, model.decode(ids), (1, 2))
    evaluator = Evaluator(model, prompt, output, removal, max_new_tokens=N_OUT, similarity=None)
    found = evaluator.evaluate(SETS)
    return SimpleNamespace(model=model, prompt=prompt, output=output, removal=removal, found=found)


def test_every_number_is_that_of_plain_transformers(case):
    def plain(removed):
        return lines(plain_logits(case.model, case.prompt, case.removal, removed, case.output.ids), case.output.ids)

    whole, tokens = plain(())
    length = len(case.output.ids)
    for units, it in zip(SETS, case.found, strict=True):
        removed, tokens_removed = plain(units)
        close = {"abs": 1e-4 * length}
        assert it.log_prob == pytest.approx(float(tokens.sum()), **close)
        assert it.log_prob_removed == pytest.approx(float(tokens_removed.sum()), **close)
        alone = {unit: float(tokens.sum() - plain((unit,))[1].sum()) for unit in units}
        assert set(it.removed) == set(units)
        assert it.individual == pytest.approx([alone[unit] for unit in it.removed], **close)
        assert list(it.individual) == sorted(it.individual, reverse=True)
        assert it.synergy == it.log_prob - it.log_prob_removed - math.fsum(it.individual)
        assert it.metrics["pr"] == pytest.approx(float((tokens_removed - tokens).mean().exp()), rel=1e-3)
        assert it.metrics["log_likelihood"] == it.log_prob_removed
        others = tuple(unit for unit in range(len(case.prompt.units)) if unit not in units)
        kept = float((plain(others)[1] - tokens).mean().exp())
        assert it.metrics["sufficiency"] == pytest.approx(kept, rel=1e-3)
        divergence = (removed.exp() * (removed - whole)).sum(dim=1).mean()
        assert it.metrics["kl"] == pytest.approx(float(divergence), abs=1e-4)
        a, b = tokens.softmax(dim=0), tokens_removed.softmax(dim=0)
        assert it.metrics["kl_chosen"] == pytest.approx(float((a * (a / b).log()).sum()), abs=1e-4)


def test_removing_matters_here(case):
    """That the numbers above are not all the same."""
    assert len({round(it.log_prob_removed, 3) for it in case.found}) == len(SETS)
    assert all(it.metrics["kl"] > 1e-3 for it in case.found if it.removed)
    assert len({it.counterfactual_output for it in case.found}) >= 2


def test_counterfactual_outputs_are_what_the_model_says_to_each_alone(case):
    for units, it in zip(SETS, case.found, strict=True):
        ids = plain_answer(case.model, case.prompt, case.removal, units)
        assert it.counterfactual_output == case.model.decode(ids), units
        assert {name: it.metrics[name] for name in text_metrics("a", "b")} == text_metrics(
            case.output.text, it.counterfactual_output
        )


def test_deleted_units_are_those_of_a_shorter_prompt():
    """The counterfactual of removal "delete" is what transformers generates for the ids that are left."""
    model = tiny_models.language_model("llama")
    prompt = jopa.build_prompt(model.tokenizer, TEXT)
    output = jopa.Output(tuple(ids := plain_answer(model, prompt, "delete", ())), model.decode(ids), (0, len(ids)))
    gone = {position for unit in (5, 8) for position in prompt.units[unit].positions}
    left = torch.tensor([[token for position, token in enumerate(prompt.ids) if position not in gone]])
    generated = model.model.generate(left, max_new_tokens=N_OUT, do_sample=False, pad_token_id=0, eos_token_id=2)
    said = [token for token in generated[0, left.shape[1] :].tolist() if token != 2]
    evaluator = Evaluator(model, prompt, output, "delete", max_new_tokens=N_OUT, similarity=None)
    assert evaluator.evaluate([(5, 8)])[0].counterfactual_output == model.decode(said)


def test_nothing_removed_changes_nothing(case):
    nothing = case.found[SETS.index(())]
    assert nothing.removed == nothing.individual == ()
    assert nothing.log_prob_removed == pytest.approx(nothing.log_prob, abs=1e-4)
    assert nothing.counterfactual_output == case.model.decode(plain_answer(case.model, case.prompt, "delete", ()))
    assert nothing.metrics["pr"] == pytest.approx(1, abs=1e-4)
    assert nothing.metrics["kl"] == pytest.approx(0, abs=1e-6)


def test_together_is_as_alone_whatever_the_batch_size(case):
    for batch_size in (2, None):
        model = replace(case.model, batch_size=batch_size)
        for number, units in enumerate(SETS):
            evaluator = Evaluator(
                model,
                case.prompt,
                case.output,
                case.removal,
                max_new_tokens=N_OUT,
                similarity=None,
            )
            (alone,) = evaluator.evaluate([units])
            same(alone, case.found[number])


def same(one: Evaluation, other: Evaluation) -> None:
    assert one.removed == other.removed
    assert one.counterfactual_output == other.counterfactual_output
    for name in ("log_prob", "log_prob_removed", "synergy", "individual"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-3)
    assert one.metrics == pytest.approx(other.metrics, abs=1e-3)


@pytest.fixture
def llama_case(llama):
    prompt = jopa.build_prompt(llama.tokenizer, TEXT)
    ids = plain_answer(llama, prompt, "delete", ())
    return prompt, jopa.Output(tuple(ids), llama.decode(ids), (0, len(ids)))


def test_more_sets_than_fit_at_once(llama, llama_case):
    evaluator = Evaluator(llama, *llama_case, "delete", max_new_tokens=4, similarity=None)
    sets = [(first, second) for first in range(5) for second in range(first + 1, 6)]
    for units, it in zip(sets, evaluator.evaluate(sets), strict=True):
        (alone,) = Evaluator(llama, *llama_case, "delete", max_new_tokens=4, similarity=None).evaluate([units])
        same(it, alone)


def test_a_set_chosen_twice_is_evaluated_once(llama, llama_case, monkeypatch):
    evaluator = Evaluator(llama, *llama_case, "delete", max_new_tokens=4, similarity=None)
    generated, scored = [], []
    generate, distributions = jopa.LanguageModel.generate_batch, jopa.ModelScorer.log_distributions
    log_probs = jopa.ModelScorer.log_probs

    def count(into, work):
        def counted(self, rows, **more):
            into.extend(rows)
            return work(self, rows, **more)

        return counted

    monkeypatch.setattr(jopa.LanguageModel, "generate_batch", count(generated, generate))
    monkeypatch.setattr(jopa.ModelScorer, "log_distributions", count(scored, distributions))
    monkeypatch.setattr(jopa.ModelScorer, "log_probs", count(scored, log_probs))
    found = evaluator.evaluate([(5, 8), [8, 5], (2,), frozenset({5, 8}), (2,)])
    assert found[0] == found[1] == found[3]
    assert found[2] == found[4]
    assert len(generated) == 2
    # the whole prompt, two sets, each also kept alone, and units 5 and 8 alone; unit 2 alone is a set already
    assert len(scored) == 7
    evaluator.evaluate([(5, 2)])
    assert len(scored) == 9  # nothing but the new set, removed and kept alone


def test_the_order_of_removed_units(llama, llama_case):
    evaluator = Evaluator(llama, *llama_case, "zero", max_new_tokens=4, similarity=None)
    alone = {unit: it.individual[0] for unit, it in enumerate(evaluator.evaluate([(unit,) for unit in range(11)]))}
    everything = sorted(alone, key=lambda unit: -alone[unit])
    assert everything != sorted(alone)
    (it,) = evaluator.evaluate([range(11)])
    assert it.removed == tuple(everything)
    assert dict(zip(it.removed, it.individual, strict=True)) == alone


def test_sentence_bert_is_asked_for_each_answer_and_left_out_where_it_is_not_wanted(llama, llama_case):
    asked = []

    class Lengths(jopa.evaluation.sentence_bert.SentenceBert):
        def __init__(self):
            """Loads nothing."""

        def similarities(self, pairs, *, batch_size=32):
            asked.extend(pairs)
            return [len(answer) / 1000 for _, answer in pairs]

    prompt, output = llama_case
    found = Evaluator(llama, prompt, output, "delete", max_new_tokens=4, similarity=Lengths()).evaluate(SETS)
    assert asked == [(output.text, it.counterfactual_output) for it in found]
    assert [it.metrics["sentence_bert"] for it in found] == [len(it.counterfactual_output) / 1000 for it in found]
    (without,) = Evaluator(llama, prompt, output, "delete", max_new_tokens=4, similarity=None).evaluate(SETS[:1])
    assert without.metrics["sentence_bert"] is None
    assert list(without.metrics) == list(METRICS)


def test_no_sets(llama, llama_case):
    assert Evaluator(llama, *llama_case, "delete", max_new_tokens=4, similarity=None).evaluate([]) == []


def test_a_metric_that_is_infinite_is_an_error_that_names_it(llama, llama_case, monkeypatch):
    monkeypatch.setattr("jopa.evaluation.regeneration.probability_ratio", lambda *_: math.inf)
    with pytest.raises(ScoringError, match="metric 'pr' is inf"):
        Evaluator(llama, *llama_case, "delete", max_new_tokens=4, similarity=None).evaluate([(1,)])


def test_a_set_that_leaves_nothing_is_an_error():
    bare = tiny_models.language_model("gpt2", chat=False)
    prompt = jopa.build_prompt(bare.tokenizer, "write a story")
    if len(prompt.ids) > len(prompt.units):  # a BOS stays
        prompt = jopa.Prompt(prompt.text, prompt.ids[1:], shifted(prompt.units))
    output = jopa.Output((7, 8), bare.decode((7, 8)), (0, 2))
    evaluator = Evaluator(bare, prompt, output, "delete", max_new_tokens=4, similarity=None)
    with pytest.raises(PromptError, match="nothing is left"):
        evaluator.evaluate([(0, 1, 2)])
    assert len(evaluator.evaluate([(0, 1)])) == 1  # and it goes on


def shifted(units):
    return tuple(
        jopa.Unit(unit.text, unit.start, unit.end, tuple(position - 1 for position in unit.positions)) for unit in units
    )
