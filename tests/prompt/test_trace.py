"""Reasoning traces in the marks of several families: found, parted from the answer, made removable."""

from dataclasses import replace

import pytest

import jopa
import tiny_models
from jopa.prompt.building import build_prompt
from jopa.prompt.continuation import continuation_ids, decoded
from jopa.prompt.output import Output
from jopa.prompt.trace import trace_span, with_trace
from small_tokenizers import small_tokenizer

QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['reasoning_content'] %}{{ '<think>\n' + m['reasoning_content'] + '\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENED = QWEN.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<think>\n' }}")
"""DeepSeek-R1's and QwQ's kind: the template writes the opening mark."""
HARMONY = (
    "{% for m in messages %}{% if m['thinking'] %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m['thinking'] + '<|end|>' }}{% endif %}"
    "{{ '<|start|>' + m['role'] + ('<|channel|>final' if m['role'] == 'assistant' else '') + '<|message|>' }}"
    "{{ m['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
OWN = QWEN.replace("<think>", "<|ponder|>").replace("</think>", "<|/ponder|>")
"""A family that nobody has heard of."""
FAMILIES = {
    "qwen": (QWEN, "<think>\n", "\n</think>\n\n"),
    "opened": (OPENED, "", "\n</think>\n\n"),
    "opened, written again": (OPENED, "<think>\n", "\n</think>\n\n"),
    "harmony": (HARMONY, "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "own marks": (OWN, "<|ponder|>\n", "\n<|/ponder|>\n\n"),
    "mistral": ("chatml", "[THINK]", "[/THINK]"),
    "reasoning": ("chatml", "<reasoning>\n", "\n</reasoning>\n"),
    "thinking": ("chatml", "<thinking>", "</thinking>"),
    "seed": ("chatml", "<seed:think>", "</seed:think>"),
    "cohere": ("chatml", "<|START_THINKING|>", "<|END_THINKING|>"),
    "kimi": ("chatml", "◁think▷", "◁/think▷"),
    "no template": (None, "<think>", "</think>"),
}
TRACE = "The user asks. Rain is likely."
ANSWER = "Take a coat. It rains."
every_family = pytest.mark.parametrize("family", FAMILIES)


def asked(family, trace=TRACE, answer=ANSWER, **settings):
    """The tokenizer, the prompt, and the text of trace and answer in a family's marks."""
    template, opening, closing = FAMILIES[family]
    tokenizer = small_tokenizer("byte-level", template)
    prompt = build_prompt(tokenizer, "What now?", unit="sentence", **settings)
    return tokenizer, prompt, opening + trace + closing + answer


@every_family
def test_trace_and_answer_are_told_apart(family):
    tokenizer, prompt, text = asked(family)
    found = trace_span(tokenizer, text, prompt)
    assert found is not None
    start, end, answer = found
    assert (text[start:end].strip(), text[answer:]) == (TRACE, ANSWER)


@every_family
def test_an_answer_may_name_the_marks(family):
    answer = "A trace stands between <think> and </think>, or [THINK] and [/THINK]."
    tokenizer, prompt, text = asked(family, answer=answer)
    found = trace_span(tokenizer, text, prompt)
    assert found is not None and text[found[2] :] == answer


@every_family
def test_a_trace_that_does_not_end_is_refused(family):
    tokenizer, prompt, text = asked(family)
    cut = text[: text.index(TRACE) + 9]
    with pytest.raises(jopa.PromptError, match=r"does not end: it lacks .*; raise max_new_tokens"):
        trace_span(tokenizer, cut, prompt)
    with pytest.raises(jopa.PromptError, match="ends with its reasoning trace"):
        trace_span(tokenizer, text.removesuffix(ANSWER), prompt)


def test_an_output_that_only_talks_of_marks_has_no_trace():
    tokenizer, prompt, _ = asked("qwen")
    for said in ("Write <think> first.", "A trace stands between <think> and </think> there.", "Not a [THINK] mark."):
        assert trace_span(tokenizer, said, prompt) is None


def test_a_prefilled_trace_is_open():
    tokenizer, prompt, _ = asked("qwen", prefill="<think>\nLet me")
    text = " see: <think> is a mark.\n</think>\n\n" + ANSWER
    found = trace_span(tokenizer, text, prompt)
    assert found is not None and found[0] == 0 and text[found[2] :] == ANSWER
    with pytest.raises(jopa.PromptError, match="does not end"):
        trace_span(tokenizer, " see what", prompt)
    closed = asked("qwen", prefill="<think>\n\n</think>\n\nSure,")[1]
    assert trace_span(tokenizer, " a coat", closed) is None


@every_family
def test_the_sentences_of_a_trace_are_units_and_ids_stay(family):
    tokenizer, prompt, text = asked(family, attribute="user,trace")
    ids = tuple(continuation_ids(tokenizer, text))

    def decode(some):
        return decoded(tokenizer, some)

    whole, answer = with_trace(tokenizer, decode, prompt, Output(ids, text, (0, len(ids))))
    assert whole.ids + answer.ids == prompt.ids + ids
    assert [unit.text.strip() for unit in whole.units] == ["What now?", "The user asks.", "Rain is likely."]
    assert decode(answer.ids).strip() == ANSWER and answer.target == (0, len(answer.ids))
    for unit in whole.units[1:]:
        shown = decode([whole.ids[position] for position in unit.positions])
        assert unit.text.strip() in shown


@pytest.mark.parametrize("family", ["qwen", "opened", "harmony", "mistral"])
def test_the_answer_alone_is_explained_with_the_trace_fixed_or_attributable(family):
    template, _, _ = FAMILIES[family]
    model = tiny_models.sentence_model(template=template)
    text = asked(family)[2]
    settings = {"k": 1, "unit": "sentence", "output": text, "method": "exhaustive"}
    search = jopa.SearchOptions(counterfactual=jopa.Generation(2))
    fixed = jopa.explain("What now? Say it.", model=model, target="answer", search=search, **settings)
    assert isinstance(fixed, jopa.Attribution)
    assert model.decode(fixed.output_ids[slice(*fixed.target)]).strip() == ANSWER
    options = jopa.PromptOptions(attribute="trace")
    moved = jopa.explain("What now? Say it.", model=model, options=options, search=search, **settings)
    assert isinstance(moved, jopa.Attribution)
    assert [unit.text.strip() for unit in moved.units] == ["The user asks.", "Rain is likely."]
    # The answer after all of the trace is as likely, whichever way the trace is called.
    assert moved.log_prob == pytest.approx(fixed.log_prob, abs=1e-3)
    kept = [i for i in range(len(moved.input_ids)) if i not in moved.units[moved.removed[0]].positions]
    ids = tuple(moved.input_ids[i] for i in kept)
    output = jopa.Output(moved.output_ids, moved.output, moved.target)
    alone = replace(build_prompt(model.tokenizer, "What now? Say it.", unit="sentence"), ids=ids)
    redone = jopa.Problem(jopa.ModelScorer(model, alone, output, removal="delete")).log_prob()
    assert moved.log_prob_removed == pytest.approx(redone, abs=1e-3)


def test_a_trace_is_parted_by_the_rules_of_the_language_that_is_given():
    trace = "Kap. 3 hilft. Bd. 2 auch."
    tokenizer, prompt, text = asked("qwen", trace=trace, attribute="trace", language="de")
    ids = tuple(continuation_ids(tokenizer, text))
    output = Output(ids, text, (0, len(ids)))
    whole, _ = with_trace(tokenizer, lambda some: decoded(tokenizer, some), prompt, output)
    assert [unit.text.strip() for unit in whole.units] == ["Kap. 3 hilft.", "Bd. 2 auch."]
