"""The one way from a request to a Problem."""

import ast
from pathlib import Path

import pytest

import jopa
from jopa.preparation import prepare, prepare_output, prepare_prompt, shape_of

SOURCE = Path(jopa.__file__).parent
TEXT = "write a story about the doctor and his patient"


@pytest.mark.parametrize("name", ["build_prompt", "Preparation"])
def test_nobody_else_puts_prompt_output_and_scorer_together(name):
    callers = set()
    for path in SOURCE.rglob("*.py"):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        if any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls):
            callers.add(str(path.relative_to(SOURCE)))
    assert callers == {"preparation.py"}


def test_a_prompt_is_prepared_without_the_model(llama, monkeypatch):
    monkeypatch.setattr(jopa.LanguageModel, "generate", None)
    options = jopa.PromptOptions(prefix="tell me .")
    prompt = prepare_prompt(llama, TEXT, options, unit="word")
    assert prompt == jopa.build_prompt(llama.tokenizer, TEXT, options, unit="word")
    assert shape_of(llama, prompt, "delete").removal == "delete"


def test_the_two_halves_give_what_the_whole_gives(llama):
    whole = prepare(llama, TEXT, unit="word", output=jopa.Generation(4), target=(1, 3))
    prompt = prepare_prompt(llama, TEXT, unit="word")
    halves = prepare_output(llama, prompt, output=jopa.Generation(4), target=(1, 3))
    assert (whole.prompt, whole.output, whole.generation) == (halves.prompt, halves.output, halves.generation)
    assert whole.output.target == (1, 3)
    assert whole.generation == jopa.Generation(4)
    assert whole.problem("delete").log_prob() == pytest.approx(halves.problem("delete").log_prob())


def test_ids_that_the_model_has_not_are_refused(llama):
    prompt = prepare_prompt(llama, TEXT)
    with pytest.raises(jopa.PromptError, match="unknown to the model"):
        prepare_output(llama, prompt, output=jopa.Output((llama.vocabulary_size,), "a", (0, 1)))


def test_each_problem_counts_for_itself(llama):
    preparation = prepare(llama, TEXT, unit="word", output="once upon time")
    first, second = preparation.problem("delete"), preparation.problem("delete")
    first.log_prob([1])
    assert (first.evaluations, second.evaluations) == (1, 0)
