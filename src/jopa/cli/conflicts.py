"""Options of `jopa explain` that do not go together, refused before anything is read or loaded."""

from __future__ import annotations

import typer

from jopa.cli.config import given
from jopa.errors import PromptError

_OF_A_SEARCH = {
    "k": "--k",
    "until_pr": "--until-pr",
    "max_k": "--max-k",
    "method": "--method",
    "compare": "--compare",
    "settings": "--set",
    "budget": "--budget",
    "all_effects": "--all-effects",
    "profile": "--profile",
    "against": "--against",
    "refine": "--refine",
}
"""Options that mean nothing to a diagnosis or to citations."""
_NEEDS = {"below": "cite", "max_sources": "cite", "band": "diagnose", "requests": "diagnose", "title": "html_path"}
"""Options that mean something only beside another one."""
_NAMES = {"html_path": "--html", "max_sources": "--max-sources"}
"""Names of options whose parameters are called otherwise."""
_WHY = {"title": "--title heads the page: it needs --html"}


def require_consistent(context: typer.Context) -> None:
    """Refuse options of a command line that contradict each other, or that mean nothing without another one.

    Raises:
        typer.BadParameter: naming the options and what to do.
        PromptError: the output is empty.
    """
    value = context.params
    if value["dry_run"] and value["endpoint"] is None:
        raise typer.BadParameter("--dry-run counts what a server would be sent: it needs --endpoint")
    if value["json_path"] is not None and value["json_path"] == value["html_path"]:
        raise typer.BadParameter("--json and --html name the same file")
    for name, other in _NEEDS.items():
        if value[name] is not None and not value[other]:
            raise typer.BadParameter(_WHY.get(name, f"{_option(name)} needs {_option(other)}"))
    if value["diagnose"] or value["cite"]:
        _require_no_search(context)
    if value["cite"] and value["documents"] is None:
        raise typer.BadParameter("--cite cites documents: give some with --documents FILE.jsonl or a folder")
    if value["until_pr"] is not None and given(context, "k"):
        raise typer.BadParameter("--until-pr finds k: leave out --k, or limit it with --max-k")
    if value["compare"] is not None:
        if value["against"] is not None:
            raise typer.BadParameter("--against compares two prompts and --compare methods: leave out one of them")
        if given(context, "method"):
            raise typer.BadParameter("--compare names the methods itself: leave out --method")
    if value["output"] is not None and not value["output"].strip():
        raise PromptError("the output to explain is empty; give --output a text, or leave it out")


def _require_no_search(context: typer.Context) -> None:
    """Refuse what a diagnosis or citations make nothing of."""
    value = context.params
    if value["diagnose"] and value["cite"]:
        raise typer.BadParameter("--diagnose and --cite ask different things: leave out one of them")
    does = "--cite finds the sources of each sentence" if value["cite"] else "--diagnose removes every unit"
    for name, option in _OF_A_SEARCH.items():
        if given(context, name):
            raise typer.BadParameter(f"{does} and searches nothing else: leave out {option}")
    if value["cite"] and value["dry_run"]:
        raise typer.BadParameter("--cite does not know before how many masks it scores: leave out --dry-run")


def _option(name: str) -> str:
    return _NAMES.get(name, f"--{name}")
