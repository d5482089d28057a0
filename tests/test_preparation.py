"""The one way from a request to a Problem."""

import ast
from pathlib import Path

import pytest

import jopa
from chat_families import FAMILIES
from jopa.preparation import prepare, prepare_output, prepare_prompt, shape_of
from tiny_models import sentence_model

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


@pytest.mark.parametrize("template", ["chatml", FAMILIES["granite"]])
@pytest.mark.parametrize("unit", ["document", "sentence", "word"])
def test_as_many_documents_as_are_said_to_fit_do_fit(template, unit):
    """What stands around a document, in the plain frame or the chat template's, goes with it."""
    model = sentence_model("byte-level-qwen", template, max_position_embeddings=330)
    documents = [{"id": f"page-{i}", "text": "It rains. " + "Take a coat. " * (i % 3)} for i in range(20)]
    with pytest.raises(jopa.PromptError, match=r"of the 20 documents the first \d+ would fit") as refusal:
        prepare(model, TEXT, jopa.PromptOptions(documents=documents), unit=unit, output=jopa.Generation(20))
    fitting = int(str(refusal.value).split("the first ")[1].split()[0])

    def length(n):
        return len(prepare_prompt(model, TEXT, jopa.PromptOptions(documents=documents[:n]), unit=unit).ids) + 20

    assert length(fitting) <= 330 < length(fitting + 1)
