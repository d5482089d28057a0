"""`jopa explain`."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jopa.cli.endpoints import Connection, tell_sent
from jopa.cli.options import (
    Api,
    Device,
    Dtype,
    Endpoint,
    EndpointModel,
    KeyVariable,
    MaxTokensSent,
    Model,
    Plain,
    ScoreCache,
    ServedTokenizer,
    TemplateArg,
    TrustRemoteCode,
)
from jopa.cli.reading import band_of, prompt_from, setting, target_from, unit_from, unit_numbers
from jopa.cli.showing import fail, progress_bar, require_writable, tell, write_results
from jopa.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jopa.attribution import Attribution
    from jopa.diagnosis.result import Diagnosis
    from jopa.errors import JopaError
    from jopa.method import Method
    from jopa.scoring.profile import Profile


_OF_A_SEARCH = {
    **{"k": "--k", "until_pr": "--until-pr", "max_k": "--max-k", "method": "--method", "compare": "--compare"},
    **{"settings": "--set", "budget": "--budget", "all_effects": "--all-effects"},
    "profile": "--profile",
}
"""Options of `explain` that mean nothing to a diagnosis."""


def explain(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="The prompt to explain.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option(help="Read the prompt from a UTF-8 file ('-': stdin).")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="Chat messages, a JSON list; the last user message is explained.")
    ] = None,
    model: Model = None,
    endpoint: Endpoint = None,
    endpoint_model: EndpointModel = None,
    api: Api = None,
    tokenizer: ServedTokenizer = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    max_tokens_sent: MaxTokensSent = None,
    score_cache: ScoreCache = True,
    k: Annotated[int, typer.Option("--k", "-k", help="How many units to find.")] = 3,
    until_pr: Annotated[
        float | None,
        typer.Option("--until-pr", help="Find the smallest k that brings PR below this.", show_default=False),
    ] = None,
    max_k: Annotated[int | None, typer.Option(help="The most units for --until-pr.", show_default="10")] = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="What the answer makes of each request, instead of a search.")
    ] = False,
    requests: Annotated[
        str | None,
        typer.Option(help="Units that are requests, for --diagnose, counted from 1: 2,4.", show_default="guessed"),
    ] = None,
    band: Annotated[
        str | None, typer.Option(help="PR that --diagnose takes for unchanged, LOW:HIGH.", show_default="0.95:1.05")
    ] = None,
    method: Annotated[str, typer.Option(help="See 'jopa methods'.")] = "joint",
    compare: Annotated[
        str | None, typer.Option(help="Methods to compare on the same output, NAME,NAME,…", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE; repeatable.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="token, word, sentence, line, paragraph, or spans such as 0-10,12-20 (characters).",
            show_default="what fits the prompt's length; sentence with --diagnose",
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="The prompt's language, such as de, for words and sentences.", show_default="guessed"),
    ] = None,
    removal: Annotated[str | None, typer.Option(help="delete, zero or hide.", show_default="the method's own")] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    prefix: Annotated[str | None, typer.Option(help="A fixed instruction before the prompt.")] = None,
    prefill: Annotated[str | None, typer.Option(help="The beginning of the answer.")] = None,
    plain: Plain = False,
    template_arg: TemplateArg = None,
    output: Annotated[
        str | None, typer.Option(help="The text to explain.", show_default="what the model generates")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Part of the output: tokens START:END, or a text in it.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens to generate.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    budget: Annotated[int | None, typer.Option(help="How much a search may spend.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    all_effects: Annotated[bool, typer.Option("--all-effects", help="Score every unit alone, too.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Print what it cost, to stderr.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the attribution as JSON ('-': stdout).")
    ] = None,
    html_path: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Masks in one forward.", show_default="what speed and memory allow")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Find the k units of a prompt that together made the model answer as it did."""
    connection = Connection(endpoint, endpoint_model, api, tokenizer, key_variable, max_tokens_sent, score_cache)
    connection.check(model=model, device=device, dtype=dtype, batch_size=batch_size)
    text = prompt_from(prompt, file, messages)
    for path in (json_path, html_path):
        require_writable(path)
    if json_path is not None and json_path == html_path:
        raise typer.BadParameter("--json and --html name the same file")
    if diagnose:
        for name, option in _OF_A_SEARCH.items():
            if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE":
                raise typer.BadParameter(f"--diagnose removes every unit and searches nothing: leave out {option}")
    if until_pr is not None and (source := context.get_parameter_source("k")) and source.name == "COMMANDLINE":
        raise typer.BadParameter("--until-pr finds k: leave out --k, or limit it with --max-k")
    if band is not None and not diagnose:
        raise typer.BadParameter("--band needs --diagnose")
    if requests is not None and not diagnose:
        raise typer.BadParameter("--requests needs --diagnose")
    spans = unit_from(unit or ("sentence" if diagnose else "auto"))
    part = target_from(target)

    from jopa import explanation
    from jopa.attributing import SearchOptions
    from jopa.diagnosis import diagnosing
    from jopa.model.generation import Generation
    from jopa.model.loading import load
    from jopa.preparation import Callbacks
    from jopa.prompt.options import PromptOptions

    chosen = _methods(method, compare, settings or [], budget)
    arguments = dict(map(setting, template_arg or []))
    options = PromptOptions(
        system=system, prefix=prefix, prefill=prefill, plain=plain, template_args=arguments, language=language
    )
    generation = Generation(max_new_tokens, temperature, seed)
    search = SearchOptions(
        until_pr=until_pr, max_k=max_k, all_effects=all_effects, counterfactual=generation, seed=seed
    )
    requested = unit_numbers(requests) if requests else None
    unchanged = band_of(band) if band else diagnosing.BAND
    profiles: list[Profile] = []
    refusals: list[str] = []

    def refuse(method: Method, error: JopaError) -> None:
        refusals.append(f"{method.name}: {error}")

    with progress_bar() as progress:
        progress("loading the model", 0, None)
        began = time.perf_counter()
        language_model = connection.connect() or load(
            model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, batch_size=batch_size
        )
        loading = time.perf_counter() - began
        callbacks = Callbacks(progress, on_profile=profiles.append, on_refusal=refuse if compare else None)
        if diagnose:
            found: list[Attribution] = []
            diagnosed = diagnosing.diagnose(
                text,
                model=language_model,
                unit=spans,
                requests=requested,
                removal=removal or "delete",
                band=unchanged,
                output=output if output is not None else generation,
                target=part,
                options=options,
                callbacks=callbacks,
            )
            deliver = partial(_deliver_diagnosis, diagnosed, json_path, html_path)
        else:
            explain_or_compare = (
                partial(explanation.explain, method=chosen[0], removal=removal)
                if compare is None
                else partial(explanation.compare, methods=chosen, removal=removal or "delete")
            )
            result = explain_or_compare(
                text,
                k=k,
                model=language_model,
                unit=spans,
                output=output if output is not None else generation,
                target=part,
                options=options,
                search=search,
                callbacks=callbacks,
            )
            found = list(result) if isinstance(result, tuple) else [result]
            deliver = partial(_deliver, found, compare is not None, json_path, html_path)
    deliver()
    tell_sent(language_model)
    if profile:
        _tell_cost([each.method["name"] for each in found], profiles, loading)
    if refusals:
        fail("; ".join(refusals))


def _methods(name: str, compared: str | None, settings: Sequence[str], budget: int | None) -> list[Method]:
    """The methods that the user named; one, unless several are compared."""
    from jopa.methods import make_method

    if compared is None:
        given = dict(map(setting, settings))
        return [make_method(name, **given if budget is None else given | {"budget": budget})]
    methods = [make_method(each.strip()) for each in compared.split(",")]
    if settings or budget is not None:
        raise SettingError("--compare runs each method with its own settings; leave out --set and --budget")
    return methods


def _deliver(found: Sequence[Attribution], compared: bool, json_path: Path | None, html_path: Path | None) -> None:
    """Show and write what was found."""
    from jopa.attribution import comparison_json
    from jopa.reports.attribution_html import comparison_html, to_html
    from jopa.reports.terminal import comparison_table, to_terminal

    record = comparison_json(found) if compared else found[0].to_json()
    view = comparison_table(found) if compared else to_terminal(found[0])
    write_results(record, view, lambda: comparison_html(found) if compared else to_html(found[0]), json_path, html_path)
    for attribution in found:
        if not (attribution.details or {}).get("until_pr", {}).get("reached", True):
            tell(f"jopa: {attribution.method['name']}: {attribution.stop}")


def _tell_cost(names: Sequence[str], profiles: Sequence[Profile], loading: float) -> None:
    """What each method's explanation cost, on stderr; the model was loaded for the first."""
    from jopa.scoring.profile import profile_table

    for name, profile in zip(names, profiles, strict=True):
        whole = replace(profile, loading=loading, seconds=profile.seconds + loading)
        typer.echo(f"\n{name}\n{profile_table(whole)}", err=True)
        loading = 0.0


def _deliver_diagnosis(diagnosis: Diagnosis, json_path: Path | None, html_path: Path | None) -> None:
    """Show and write a diagnosis."""
    from jopa.reports.diagnosis_html import diagnosis_html
    from jopa.reports.terminal import diagnosis_view

    write_results(
        diagnosis.to_json(), diagnosis_view(diagnosis), lambda: diagnosis_html(diagnosis), json_path, html_path
    )
