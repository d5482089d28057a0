"""Results as pandas data frames, one row a unit.

    Attribution    unit, text, start, end, message, document, removed, rank, effect, score
    Diagnosis      unit, text, start, end, message, document, request, effect, probability_ratio, share,
                   without_influence, drives
    Verdict        unit, text, start, end, surprisal, in_span, rank, effect
    Citations      unit, text, start, end, document, cited_by (the sentences of the answer)
    TextAttribution
                   unit, text, start, end, removed, rank, effect

Effects and surprisals are in nats; those of a TextAttribution are falls of text-similarity. What a method did not score
is missing (NaN; of `rank`, <NA>). Ranks count from 1, units, messages and sentences from 0; `document` is an id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jopa.errors import SettingError

if TYPE_CHECKING:
    from jopa.citation.result import Citations
    from jopa.detection.verdict import Verdict
    from jopa.diagnosis.result import Diagnosis
    from jopa.prompt.building import Unit
    from jopa.results.attribution import Attribution
    from jopa.results.prompt_comparison import PromptComparison
    from jopa.results.text_attribution import TextAttribution, TextUnit


def attribution_frame(attribution: Attribution) -> Any:
    """One row a unit of an attribution; see the module's docstring."""
    scores = _floats(dict(enumerate(attribution.scores or ())), len(attribution.units))
    return _frame(attribution.units, _places(attribution.units) | _removed_columns(attribution) | {"score": scores})


def text_frame(attribution: TextAttribution) -> Any:
    """One row a unit of an attribution by text-similarity; see the module's docstring."""
    return _frame(attribution.units, _removed_columns(attribution))


def citations_frame(citations: Citations) -> Any:
    """One row a source unit of citations; see the module's docstring."""
    c = citations
    columns = {
        "document": _places(c.units)["document"],
        "cited_by": [list(c.sentences_of(i)) for i in range(len(c.units))],
    }
    return _frame(c.units, columns)


def prompts_frame(prompts: PromptComparison) -> Any:
    """One row a prompt ("first" or "second") and unit of a comparison of two prompts."""
    both = (prompts.first, prompts.second)
    return joined([attribution_frame(each) for each in both], "prompt", ("first", "second"))


def joined(frames: Sequence[Any], heading: str, names: Sequence[str]) -> Any:
    """Data frames below one another, with a further column that tells them apart by a name each."""
    named = [frame.assign(**{heading: name}) for frame, name in zip(frames, names, strict=True)]
    return _pandas().concat(named, ignore_index=True)


def diagnosis_frame(diagnosis: Diagnosis) -> Any:
    """One row a unit of a diagnosis; see the module's docstring."""
    d = diagnosis
    columns = _places(d.units) | {
        "request": [i in d.requests for i in range(len(d.units))],
        "effect": list(d.individual),
        "probability_ratio": list(d.ratios),
        "share": _floats(dict(enumerate(d.shares or ())), len(d.units)),
        "without_influence": [i in d.without_influence for i in range(len(d.units))],
        "drives": [list(parts) for parts in d.drives],
    }
    return _frame(d.units, columns)


def verdict_frame(verdict: Verdict) -> Any:
    """One row a unit of a verdict; see the module's docstring."""
    e, units = verdict.evidence, verdict.prompt.units
    columns = {
        "surprisal": list(e.surprisals),
        "in_span": [e.span.start <= i < e.span.end for i in range(len(units))],
        "rank": _ranks(e.units, len(units)),
        "effect": _floats(dict(zip(e.units, e.individual, strict=True)), len(units)),
    }
    return _frame(units, columns)


def _removed_columns(attribution: Attribution | TextAttribution) -> dict[str, Any]:
    """Which units the set has, their ranks, and the effects that are known."""
    a = attribution
    effects = dict(zip(a.removed, a.individual, strict=True)) if a.effects is None else dict(enumerate(a.effects))
    return {
        "removed": [i in a.removed for i in range(len(a.units))],
        "rank": _ranks(a.removed, len(a.units)),
        "effect": _floats(effects, len(a.units)),
    }


def _frame(units: Sequence[Unit] | Sequence[TextUnit], columns: Mapping[str, Any]) -> Any:
    named = {
        "unit": range(len(units)),
        "text": [_encodable(unit.text) for unit in units],
        "start": [unit.start for unit in units],
        "end": [unit.end for unit in units],
    }
    return _pandas().DataFrame({**named, **columns})


def _encodable(text: str) -> str:
    """A text with half a surrogate pair, which a record may hold and no column can, as an escape."""
    return text.encode(errors="backslashreplace").decode()


def _places(units: Sequence[Unit]) -> dict[str, Any]:
    """The message and the document of each unit."""
    messages = _pandas().array([unit.message for unit in units], dtype="Int64")
    return {"message": messages, "document": [unit.document and _encodable(unit.document) for unit in units]}


def _ranks(chosen: Sequence[int], n_units: int) -> Any:
    """The place of each unit among the chosen ones, from 1; missing for the others."""
    ranks = {unit: rank for rank, unit in enumerate(chosen, start=1)}
    return _pandas().array([ranks.get(i) for i in range(n_units)], dtype="Int64")


def _floats(values: Mapping[int, float], n_units: int) -> list[float]:
    return [values.get(i, float("nan")) for i in range(n_units)]


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise SettingError("a data frame needs pandas: pip install pandas") from error
    return pandas
