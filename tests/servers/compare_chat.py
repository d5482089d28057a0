"""A real server asked as a chat API: llama.cpp's, over the bundled GGUF file.

    compare_chat.py PYTHON      PYTHON: the interpreter that has xllamacpp

The claim is redone: the messages without the chosen words are sent by hand, and the answer must be the one that the
result names. Ends with status 1 where something is wrong.
"""

from __future__ import annotations

import os
import sys
import tempfile

import httpx

import jopa
from jopa.evaluation.metrics import rouge_l
from servers import KEY, llama_cpp, note

PROMPT = "What is the capital of France? Answer in one short sentence."
QUESTION = "What colour is the bridge in Oslo?"
DOCUMENTS = [
    {"id": "mill", "text": "The mill is of 1811."},
    {"id": "bridge", "text": "The bridge in Oslo is painted bright yellow."},
    {"id": "bakers", "text": "Bakers sell bread on Fridays."},
]


def compare_chat(url: str, model: str) -> None:
    """Explain a prompt by text-similarity, and redo the removal by hand."""
    chat = jopa.connect(url, model=model, api="chat", timeout=300, attempts=3)
    assert isinstance(chat, jopa.ChatModel)
    search = jopa.SearchOptions(all_effects=True)
    found = jopa.explain(PROMPT, k=2, model=chat, unit="word", output=jopa.Generation(16), search=search)
    note(
        f"{url} as a chat API: {found.output!r}; without {[unit.text for unit in found.chosen]}: "
        f"{found.counterfactual_output!r}; text-similarity {found.similarity:.2f} to {found.similarity_removed:.2f}, "
        f"noise {found.noise:.2f}, certificate {found.certificate}; {found.details['server']}"
    )
    removed = {position for i in found.removed for position in range(found.units[i].start, found.units[i].end)}
    left = "".join(letter for position, letter in enumerate(PROMPT) if position not in removed)
    body = {"model": model, "messages": [{"role": "user", "content": left}], "max_tokens": 16, "temperature": 0}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=300).json()
    said = answer["choices"][0]["message"]["content"]
    assert abs(rouge_l(found.output, said)[2] - found.similarity_removed) <= max(found.noise, 0.15), said
    assert "text-similarity" in found.to_json()
    assert "log_prob" not in found.to_json()


def compare_documents(url: str, model: str) -> None:
    """Explain an answer from documents, and ask again without the chosen one."""
    chat = jopa.connect(url, model=model, api="chat", timeout=300, attempts=3)
    answer = jopa.Generation(16)
    found = jopa.explain(QUESTION, documents=DOCUMENTS, k=1, model=chat, unit="document", output=answer)
    (chosen,) = found.removed
    left = [document for number, document in enumerate(DOCUMENTS) if number != chosen]
    again = jopa.explain(QUESTION, documents=left, k=1, model=chat, unit="document", output=answer)
    note(f"without {DOCUMENTS[chosen]}: {found.counterfactual_output!r}; asked again: {again.output!r}")
    assert abs(rouge_l(found.output, again.output)[2] - found.similarity_removed) <= max(found.noise, 0.15)


def main() -> None:
    os.environ["JOPA_CACHE"] = tempfile.mkdtemp()
    server = llama_cpp(sys.argv[1])
    try:
        server.start()
        model = httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"]
        try:
            jopa.connect(server.url, model=model)
            raise AssertionError("a server without log-probabilities of a prompt was taken for one with them")
        except jopa.ModelError as error:
            note(str(error))
        compare_chat(server.url, model)
        compare_documents(server.url, model)
    finally:
        server.stop()
    note("redone")


if __name__ == "__main__":
    main()
