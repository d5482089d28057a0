"""What a model or a prompt cannot give is refused before an answer is generated."""

import pytest

import jopa
from jopa.preparation import prepare

PROMPT = "write a story about the doctor. tell me what you think."
DOCUMENTS = ["the doctor met green birds.", "once upon a time there was rain."]


class OnlyDeletes(jopa.LanguageModel):
    """A model whose scorers can only delete, and that must not be asked for an answer."""

    def require_removal(self, removal, n_tokens):
        if removal != "delete":
            raise jopa.SettingError(f"no removal '{removal}' here")

    def generate_ids(self, *_, **__):
        pytest.fail("an answer was generated for nothing")


@pytest.fixture
def model(llama):
    return OnlyDeletes(llama.model, llama.tokenizer, "only-deletes")


ASKED = {
    "prepare": lambda model: prepare(model, PROMPT, removal="hide"),
    "explain": lambda model: jopa.explain(PROMPT, model=model, removal="hide"),
    "the preset of a method": lambda model: jopa.explain(PROMPT, model=model, unit="word", method="grad-x-input"),
    "compare": lambda model: jopa.compare(PROMPT, ["random", "ablation"], model=model, removal="hide"),
    "diagnose": lambda model: jopa.diagnose(PROMPT, model=model, removal="hide"),
    "cite": lambda model: jopa.cite("tell me", DOCUMENTS, model=model, removal="hide"),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_removal_that_the_model_cannot_do(model, ask):
    with pytest.raises(jopa.SettingError, match=r"no removal '(hide|zero)' here"):
        ask(model)


def test_requests_that_the_prompt_does_not_have(model):
    with pytest.raises(jopa.SettingError, match="requests must name some of the prompt's 2 units"):
        jopa.diagnose(PROMPT, model=model, unit=[(0, 31), (31, 55)], requests=[5])


def test_a_method_that_this_model_cannot_run_though_the_trace_is_not_known(model, monkeypatch):
    monkeypatch.setattr(OnlyDeletes, "capabilities", frozenset({"scores"}))
    options = jopa.PromptOptions(attribute="trace")
    with pytest.raises(jopa.SettingError, match="needs attention weights"):
        jopa.explain(PROMPT, model=model, method="attention", options=options)
    refused = []
    callbacks = jopa.Callbacks(on_refusal=lambda method, _: refused.append(method.name))
    with pytest.raises(jopa.SettingError, match="needs"):
        jopa.compare(PROMPT, ["attention", "grad-x-input"], model=model, options=options, callbacks=callbacks)
    assert refused == ["attention", "grad-x-input"]
