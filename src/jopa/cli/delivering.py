"""What `jopa explain` found, shown and written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jopa.cli.showing import print_line, write_results
from jopa.results.attribution import Attribution
from jopa.results.text_attribution import TextAttribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jopa.citation.result import Citations
    from jopa.diagnosis.result import Diagnosis
    from jopa.scoring.profile import Profile


@dataclass(frozen=True)
class Delivery:
    """Where results go.

    Attributes:
        json_path: a file for the JSON, "-" for stdout.
        html_path: a file for the page.
        title: the page's heading.
    """

    json_path: Path | None
    html_path: Path | None
    title: str | None = None

    def attributions(self, found: Sequence[Attribution | TextAttribution], *, compared: bool) -> None:
        """Show and write one attribution, or several methods on one output."""
        texts = [each for each in found if isinstance(each, TextAttribution)]
        if texts:
            self._texts(texts, compared=compared)
            return
        self._log_probs([each for each in found if isinstance(each, Attribution)], compared=compared)

    def _texts(self, found: Sequence[TextAttribution], *, compared: bool) -> None:
        """Show and write attributions by text-similarity."""
        from jopa.reports import text_attribution as shown
        from jopa.results.attribution import comparison_json

        record = comparison_json(found) if compared else found[0].to_json()
        view = shown.text_comparison_table(found) if compared else shown.to_terminal(found[0])

        def page() -> str:
            if compared:
                return shown.text_comparison_html(found, title=self.title)
            return found[0].to_html(title=self.title)

        write_results(record, view, page, self.json_path, self.html_path)

    def _log_probs(self, found: Sequence[Attribution], *, compared: bool) -> None:
        """Show and write attributions by log-probability."""
        from jopa.reports.attribution_html import comparison_html, to_html
        from jopa.reports.terminal import comparison_table, to_terminal
        from jopa.results.attribution import comparison_json

        record = comparison_json(found) if compared else found[0].to_json()
        view = comparison_table(found) if compared else to_terminal(found[0])

        def page() -> str:
            return comparison_html(found, title=self.title) if compared else to_html(found[0], title=self.title)

        write_results(record, view, page, self.json_path, self.html_path)
        for attribution in found:
            _print_unreached(attribution)

    def prompts(self, first: Attribution | TextAttribution, second: Attribution | TextAttribution) -> None:
        """Show and write two prompts side by side."""
        assert isinstance(first, Attribution) and isinstance(second, Attribution)  # a chat API is refused before
        from jopa.reports.terminal import prompts_view
        from jopa.results.prompt_comparison import PromptComparison

        pair = PromptComparison(first, second)
        page = pair.to_html
        write_results(
            pair.to_json(), prompts_view(pair), lambda: page(title=self.title), self.json_path, self.html_path
        )
        for attribution in (first, second):
            _print_unreached(attribution)

    def diagnosis(self, diagnosis: Diagnosis) -> None:
        """Show and write a diagnosis."""
        from jopa.reports.terminal import diagnosis_view

        page = diagnosis.to_html
        write_results(
            diagnosis.to_json(),
            diagnosis_view(diagnosis),
            lambda: page(title=self.title),
            self.json_path,
            self.html_path,
        )

    def citations(self, citations: Citations) -> None:
        """Show and write citations."""
        from jopa.reports.terminal import citations_view

        page = citations.to_html
        write_results(
            citations.to_json(),
            citations_view(citations),
            lambda: page(title=self.title),
            self.json_path,
            self.html_path,
        )


def _print_unreached(attribution: Attribution) -> None:
    """Say so where no set of units was enough."""
    if not (attribution.details or {}).get("until_pr", {}).get("reached", True):
        print_line(f"jopa: {attribution.method['name']}: {attribution.stop}")


def print_cost(names: Sequence[str], profiles: Sequence[Profile], loading: float, threads: str) -> None:
    """What each method's explanation cost, on stderr; the model was loaded for the first."""
    from jopa.scoring.profile import profile_table

    for name, profile in zip(names, profiles, strict=True):
        whole = replace(profile, loading=loading, seconds=profile.seconds + loading)
        typer.echo(f"\n{name}\n{profile_table(whole)}", err=True)
        loading = 0.0
    typer.echo(f"{'threads':<16}  {threads}", err=True)
