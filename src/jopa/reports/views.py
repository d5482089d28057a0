"""Any result as a page or as a data frame, whatever its kind; several attributions of one prompt as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jopa.citation.result import Citations
from jopa.detection.verdict import Verdict
from jopa.diagnosis.result import Diagnosis
from jopa.reports import attribution_html, frames, text_attribution
from jopa.reports.citations_html import citations_html
from jopa.reports.diagnosis_html import diagnosis_html
from jopa.reports.prompts_html import prompts_html
from jopa.reports.verdict_html import verdict_html
from jopa.results.attribution import Attribution
from jopa.results.prompt_comparison import PromptComparison
from jopa.results.text_attribution import TextAttribution

if TYPE_CHECKING:
    from jopa.results.result import Result

    Attributions = Sequence[Attribution] | Sequence[TextAttribution]


def result_html(result: Result, *, standalone: bool = True, title: str | None = None) -> str:
    """A result as a web page that needs nothing but itself, or as the part of one that a notebook shows."""
    match result:
        case Attribution():
            return attribution_html.to_html(result, standalone=standalone, title=title)
        case TextAttribution():
            return text_attribution.to_html(result, standalone=standalone, title=title)
        case PromptComparison():
            return prompts_html(result, standalone=standalone, title=title)
        case Diagnosis():
            return diagnosis_html(result, standalone=standalone, title=title)
        case Citations():
            return citations_html(result, standalone=standalone, title=title)
        case Verdict():
            return verdict_html(result, standalone=standalone, title=title)
    raise TypeError(f"no page is known for {type(result).__name__}")


def result_frame(result: Result) -> Any:
    """A result as a pandas data frame with one row a unit.

    Raises:
        SettingError: pandas is not installed.
    """
    match result:
        case Attribution():
            return frames.attribution_frame(result)
        case TextAttribution():
            return frames.text_frame(result)
        case PromptComparison():
            return frames.prompts_frame(result)
        case Diagnosis():
            return frames.diagnosis_frame(result)
        case Citations():
            return frames.citations_frame(result)
        case Verdict():
            return frames.verdict_frame(result)
    raise TypeError(f"no data frame is known for {type(result).__name__}")


def to_html(value: Result | Attributions, *, title: str | None = None) -> str:
    """A result as a web page that needs nothing but itself; several attributions of one prompt as a comparison.

    Args:
        value: any result, or what `compare` gives.
        title: the page's heading, if it shall have one.
    """
    if not isinstance(value, Sequence):
        return result_html(value, title=title)
    attributions = [each for each in value if isinstance(each, Attribution)]
    if len(attributions) == len(value):
        return attribution_html.comparison_html(attributions, title=title)
    others = [each for each in value if not isinstance(each, Attribution)]
    return text_attribution.text_comparison_html(others, title=title)


def to_frame(value: Result | Attributions) -> Any:
    """A result as a pandas data frame, one row a unit; of several attributions one row a method and unit.

    Raises:
        SettingError: pandas is not installed.
    """
    if not isinstance(value, Sequence):
        return result_frame(value)
    return frames.joined([result_frame(each) for each in value], "method", [each.method["name"] for each in value])
