"""Rows of data sets whose prompts are documents with a question: the documents are attributable, the question is not.

A record has `prompt` (the documents), `question`, `reference` (the answer) and `sources`, the characters
`[start, end)` of `prompt` where the set says that the answer stands.

    HotpotQA    Yang et al. 2018 (arXiv 1809.09600): paragraphs, supporting sentences
    TyDi QA     Clark et al. 2020 (arXiv 2003.05002), gold passages
    RULER       Hsieh et al. 2024 (arXiv 2404.06654): needles in a text
    AgentDojo   Debenedetti et al. 2024 (arXiv 2406.13352): results of tools, with and without injected instructions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jopa.datasets.fields import MalformedError, SourceRow, optional_text, text_field

_FRAME = "Document [{number}] {title}\n"


def hotpotqa(row: SourceRow) -> dict[str, Any]:
    """Columns question, answer, context (titles, sentences) and supporting_facts (titles, sent_ids)."""
    context, facts = (
        _columns(row, "context", "title", "sentences"),
        _columns(row, "supporting_facts", "title", "sent_id"),
    )
    wanted = set(facts)
    text, sources = "", []
    for number, (title, sentences) in enumerate(context, 1):
        if not isinstance(sentences, Sequence) or not all(isinstance(sentence, str) for sentence in sentences):
            raise MalformedError("'context' has sentences that are not text")
        text += _FRAME.format(number=number, title=title)
        for place, sentence in enumerate(sentences):
            if (title, place) in wanted:
                sources.append([len(text), len(text) + len(sentence)])
            text += sentence
        text += "\n\n"
    return _record(row, "question", text.rstrip(), text_field(row, "answer"), sources)


def tydiqa(row: SourceRow) -> dict[str, Any]:
    """Columns title, context, question and answers (texts, answer_starts); the first answer counts."""
    text = text_field(row, "context")
    answers = _columns(row, "answers", "text", "answer_start")
    if not answers or not isinstance(answers[0][0], str):
        raise MalformedError("'answers' has no text")
    answer, start = answers[0]
    start = _place(text, answer, start)
    return _record(row, "question", text, answer, [[start, start + len(answer)]] if start >= 0 else [])


def _place(text: str, answer: str, start: Any) -> int:
    """Where an answer begins: at `start`, counted in characters or, as some conversions of the set do, in bytes.

    Where it stands at neither, its first occurrence; −1 for none.
    """
    if isinstance(start, int) and start >= 0:
        before = text.encode("utf-8", "surrogatepass")[:start].decode("utf-8", "ignore")
        for place in (start, len(before)):
            if text.startswith(answer, place):
                return place
    return text.find(answer)


def ruler_needle(row: SourceRow) -> dict[str, Any]:
    """Columns input, outputs: an instruction, the text with the needles, and the question, a line each at least."""
    lines = text_field(row, "input").strip().split("\n")
    answers = row.get("outputs")
    if not isinstance(answers, Sequence) or not answers or not isinstance(answers[0], str):
        raise MalformedError("'outputs' is not a list of texts")
    if len(lines) < 3:
        raise MalformedError("'input' is not an instruction, a text and a question")
    text = "\n".join(lines[1:-1])
    start = text.find(answers[0])
    sources = [[start, start + len(answers[0])]] if start >= 0 else []
    return _record({"question": lines[-1]}, "question", text, answers[0], sources)


def agentdojo(row: SourceRow) -> dict[str, Any]:
    """Columns user_task_prompt, tool_call_function, tool_response, injection_goal and others, which are kept."""
    kept = ("suite_name", "user_task_id", "injection_task_id", "attack_name", "tool_call_function", "label")
    record = _record(
        row, "user_task_prompt", text_field(row, "tool_response"), optional_text(row, "injection_goal"), []
    )
    return record | {key: row.get(key) for key in kept}


def _record(
    row: SourceRow, question_field: str, text: str, reference: str | None, sources: list[list[int]]
) -> dict[str, Any]:
    return {
        "prompt": text,
        "question": text_field(row, question_field),
        "reference": reference,
        "sources": sources,
    }


def _columns(row: SourceRow, key: str, *names: str) -> list[tuple[Any, ...]]:
    """A field of lists of equal length, as a list of rows; or a list of objects, which is the same."""
    value = row.get(key)
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, dict) for item in value):
        value = {name: [item.get(name) for item in value] for name in names}
    if not isinstance(value, dict) or not all(isinstance(value.get(name), Sequence) for name in names):
        raise MalformedError(f"'{key}' has no lists {' and '.join(names)}")
    if len({len(value[name]) for name in names}) != 1:
        raise MalformedError(f"'{key}' has lists of different length")
    return list(zip(*(value[name] for name in names), strict=True))
