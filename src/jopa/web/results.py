"""Results as the page shows them: parts of the reports as HTML, the prompt in pieces, the answer's tokens.

A result that the visitor kept as JSON, in the browser or as a file, is shown again without any work of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jopa.citation.result import Citations
from jopa.diagnosis.result import Diagnosis
from jopa.errors import InputFileError
from jopa.json_values import parse_json
from jopa.prompt.building import Prompt, Source
from jopa.prompt.continuation import shown_by_tokens
from jopa.prompt.output import Output
from jopa.prompt.segmentation import Span
from jopa.prompt.units import Unit
from jopa.reports.attribution_html import comparison_html, comparison_table_html, parts_html, to_html
from jopa.reports.citations_html import citations_html
from jopa.reports.diagnosis_html import diagnosis_html
from jopa.reports.prompts_html import prompts_html
from jopa.reports.sources import RecordedSource, headings, recorded_sources
from jopa.reports.wording import unit_name, visible
from jopa.results.attribution import Attribution, comparison_from_json, comparison_json
from jopa.results.prompt_comparison import PromptComparison
from jopa.scoring.protocols import Model
from jopa.web.jobs import JobEvent
from jopa.web.limits import RequestLimits
from jopa.web.models import vocabulary_size


def attributions_event(found: Sequence[Attribution]) -> JobEvent:
    """What was found by one method or several, as the report shows it, and the two files to download."""
    several = len(found) > 1
    return {
        "kind": "result",
        "task": "explain",
        "results": [
            {
                "method": a.method["name"],
                "removed": a.removed,
                "removal": a.removal,
                "probability_ratio": a.probability_ratio,
                "evaluations": a.evaluations,
                "parts": parts_html(a),
            }
            for a in found
        ],
        "table": comparison_table_html(found) if several else None,
        "json": comparison_json(found) if several else found[0].to_json(),
        "html": comparison_html(found) if several else to_html(found[0]),
    }


def report_event(value: Diagnosis | Citations) -> JobEvent:
    """A diagnosis or citations as their report shows them, and the two files to download."""
    if isinstance(value, Diagnosis):
        report, html = diagnosis_html(value, standalone=False), diagnosis_html(value)
        marks = {"task": "diagnose", "requests": value.requests}
    else:
        report, html = citations_html(value, standalone=False, styled=False), citations_html(value)
        marks = {"task": "cite"}
    return {"kind": "result", **marks, "report": report, "json": value.to_json(), "html": html}


def prompts_event(prompts: PromptComparison) -> JobEvent:
    """The second of two prompts, and both side by side."""
    return {
        **attributions_event([prompts.second]),
        "prompts": prompts_html(prompts, standalone=False, styled=False),
        "json": prompts.to_json(),
        "html": prompts_html(prompts),
    }


def shown_again(text: str, model: Model, limits: RequestLimits) -> list[JobEvent]:
    """The events that show a result once more: the prompt, the answer, the result.

    Args:
        text: what `to_json` of an attribution, a comparison, two prompts, a diagnosis or citations gave.
        model: the page's; where it is another than the result's, the answer's tokens are not known.
        limits: the longest answer whose tokens are shown.

    Raises:
        InputFileError: it is no such result.
    """
    try:
        record = parse_json(text)
    except ValueError as error:
        raise InputFileError(f"this is no JSON: {error}") from error
    kind = record.get("kind") if isinstance(record, dict) else None
    value: Attribution | Diagnosis | Citations
    sources: Sequence[Source | RecordedSource] = ()
    spans = None
    if kind == "diagnosis":
        value = Diagnosis.from_json(text)
        event = report_event(value)
    elif kind == "citations":
        value = Citations.from_json(text)
        event, sources = report_event(value), value.documents
    else:
        if kind == "prompts":
            prompts = PromptComparison.from_json(text)
            value, event = prompts.second, prompts_event(prompts)
        elif isinstance(record, dict) and "comparison" in record:
            found = [each for each in comparison_from_json(text) if isinstance(each, Attribution)]
            if not found:
                raise InputFileError("this comparison holds no attribution by log-probability")
            value, event = found[0], attributions_event(found)
        else:
            value = Attribution.from_json(text)
            event = attributions_event([value])
        spans = spans_of(value.units) if value.levels else None
        sources = recorded_sources(value.details)
    pieces = {"kind": "prompt", "pieces": pieces_of(value.prompt, value.units, sources), "spans": spans}
    return [pieces, _answer_shown_again(value, model, limits), {**event, "refused": []}]


def _answer_shown_again(value: Attribution | Diagnosis | Citations, model: Model, limits: RequestLimits) -> JobEvent:
    """The answer of a kept result; without tokens, it can be read and not built on."""
    same = value.model.get("id") == model.identity.get("id") and max(value.output_ids) < vocabulary_size(model)
    if not same or len(value.output_ids) > limits.max_new_tokens or _explains_trace(value):
        return {"kind": "answer", "ids": [], "tokens": [visible(value.output)], "target": value.target, "before": 0}
    return answer_event(model, Output(value.output_ids, value.output, value.target))


def _explains_trace(value: Attribution | Diagnosis | Citations) -> bool:
    """Whether the reasoning trace is a part of the prompt, so that the output lacks the tokens before the answer."""
    details = value.details if isinstance(value, Attribution) else None
    return any(source.role == "trace" for source in recorded_sources(details))


def answer_event(model: Model, output: Output, trace: Sequence[int] = ()) -> JobEvent:
    """An answer and its tokens; `trace` are the ids of the reasoning before it, where that is explained."""
    tokens = [visible(text) for text in token_texts(model, output)]
    ids = [*trace, *output.ids]
    return {"kind": "answer", "ids": ids, "tokens": tokens, "target": output.target, "before": len(trace)}


def prompt_event(prompt: Prompt, methods: Sequence[str]) -> JobEvent:
    """A prompt in pieces, and the methods that explain it."""
    return {"kind": "prompt", "pieces": pieces_of(prompt.text, prompt.units, prompt.sources), "methods": methods}


def level_event(prompt: Prompt, *, with_spans: bool = True) -> JobEvent:
    """A prompt in pieces, as a further level of a search from coarse to fine has it, or with the reasoning trace."""
    pieces = pieces_of(prompt.text, prompt.units, prompt.sources)
    return {"kind": "level", "pieces": pieces, "spans": spans_of(prompt.units) if with_spans else None}


def spans_of(units: Sequence[Unit]) -> list[Span]:
    """Where units stand: enough to ask for the same ones again."""
    return [(unit.start, unit.end) for unit in units]


def pieces_of(
    text: str, units: Sequence[Unit], sources: Sequence[Source | RecordedSource] = ()
) -> list[dict[str, Any]]:
    """A prompt in order, in pieces of `text`.

    A piece that is a unit has its number as `unit`, and a `name`. Before each message or document stands a piece that
    has a `heading` alone, if there are several or documents.
    """
    heads = headings(sources)
    pieces: list[dict[str, Any]] = []
    done = 0

    def add_until(place: int) -> None:
        """The text that belongs to no unit, and the headings in it."""
        nonlocal done
        while heads and heads[0][0] <= place:
            start, heading = heads.pop(0)
            pieces.append({"text": visible(text[done:start]).strip("\n")})  # the gap between two sources
            pieces.append({"text": "", "heading": heading})
            done = max(done, start)
        pieces.append({"text": visible(text[done:place])})
        done = place

    for number, unit in sorted(enumerate(units), key=lambda pair: pair[1].start):
        add_until(unit.start)
        pieces.append({"text": visible(unit.text), "unit": number, "name": unit_name(unit.text)})
        done = unit.end
    add_until(len(text))
    return [piece for piece in pieces if piece["text"] or "heading" in piece]


def token_texts(model: Model, output: Output) -> list[str]:
    """What each token adds to the output's text; joined, they are that text.

    Of tokens that are one character only together, the last has it.
    """
    whole = model.decode(output.ids)
    lead = len(output.text) - len(whole) if output.text.endswith(whole) else 0  # a blank that decoding left out
    ends = [lead + end for end in shown_by_tokens(model.decode, output.ids)]
    return [output.text[start:end] for start, end in pairwise([0, *ends[:-1], len(output.text)])]
