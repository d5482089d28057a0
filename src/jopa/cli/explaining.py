"""`jopa explain`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jopa.cli.config import Config, first_given
from jopa.cli.conflicts import require_consistent
from jopa.cli.delivering import Delivery, print_cost
from jopa.cli.endpoints import Connection, print_most_sent, print_sent
from jopa.cli.options import (
    Api,
    Device,
    DryRun,
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
    Threads,
    TrustRemoteCode,
)
from jopa.cli.progress import progress_bar
from jopa.cli.reading import band_of, parts_from, prompt_from, setting, target_from, unit_from, unit_numbers
from jopa.cli.showing import fail, print_line, require_writable
from jopa.errors import SettingError

if TYPE_CHECKING:
    from jopa.errors import JopaError
    from jopa.method import Method
    from jopa.prompt.building import Message
    from jopa.results.attribution import Attribution
    from jopa.results.text_attribution import TextAttribution
    from jopa.scoring.profile import Profile


def explain(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="The prompt to explain.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option(help="Read the prompt from a UTF-8 file ('-': stdin).")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="Chat messages, a JSON list, or a request with messages and tools.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="A second prompt, explained with the same options and shown beside the first: a text, or with --file "
            "or --messages another such file.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    endpoint: Endpoint = None,
    endpoint_model: EndpointModel = None,
    api: Api = None,
    tokenizer: ServedTokenizer = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    max_tokens_sent: MaxTokensSent = None,
    score_cache: ScoreCache = True,
    k: Annotated[
        int | None,
        typer.Option("--k", "-k", help="How many units to find.", show_default="3, or all of a shorter prompt"),
    ] = None,
    until_pr: Annotated[
        float | None,
        typer.Option("--until-pr", help="Find the smallest k that brings PR below this.", show_default=False),
    ] = None,
    max_k: Annotated[int | None, typer.Option(help="The most units for --until-pr.", show_default="10")] = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="How each request influences the answer, instead of a search.")
    ] = False,
    requests: Annotated[
        str | None,
        typer.Option(help="Units that are requests, for --diagnose, counted from 1: 2,4.", show_default="guessed"),
    ] = None,
    band: Annotated[
        str | None, typer.Option(help="PR that --diagnose takes for unchanged, LOW:HIGH.", show_default="0.95:1.05")
    ] = None,
    cite: Annotated[
        bool,
        typer.Option("--cite", help="The sources of each sentence of the answer in --documents, instead of a search."),
    ] = False,
    below: Annotated[
        float | None,
        typer.Option(help="PR that a sentence falls below without its sources, for --cite.", show_default="0.8"),
    ] = None,
    max_sources: Annotated[
        int | None, typer.Option(help="The most sources of one sentence, for --cite.", show_default="5")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="See 'jopa methods'.", show_default="joint; proxy-search from 1,500 input tokens on"),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="Methods to compare on the same output, NAME,NAME,…", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE; repeatable.")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="token, word, sentence, line, paragraph, message, document, or spans such as 0-10,12-20 (characters).",
            show_default="what fits the prompt's length; sentence with --diagnose",
        ),
    ] = None,
    refine: Annotated[
        list[str] | None,
        typer.Option(
            help="A finer unit: what the search chose is searched again in it; repeatable, 'none' for never.",
            show_default="sentence for inputs above 5,000 tokens without --unit",
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="The prompt's language, such as de, for words and sentences.", show_default="guessed"),
    ] = None,
    removal: Annotated[str | None, typer.Option(help="delete, zero or hide.", show_default="the method's own")] = None,
    documents: Annotated[
        Path | None,
        typer.Option(help="Texts that stand beside the question: a .jsonl file, or a folder of text files."),
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option(
            help="What can be removed: user, users, system, tools, documents, trace, all, or a message's place "
            "(0: the first, -1: the last); several with commas.",
            show_default="the documents, or else the last message of the user",
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    prefix: Annotated[str | None, typer.Option(help="A fixed instruction before the prompt.")] = None,
    prefill: Annotated[str | None, typer.Option(help="The beginning of the answer.")] = None,
    plain: Plain = False,
    template_arg: TemplateArg = None,
    output: Annotated[
        str | None, typer.Option(help="The text to explain.", show_default="what the model generates")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Part of the output: tokens START:END, a text in it, or answer: what follows a reasoning trace."
        ),
    ] = None,
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
    title: Annotated[str | None, typer.Option(help="The heading of that page.", show_default=False)] = None,
    answer_cache: Annotated[
        bool, typer.Option(help="Keep the model's answers between runs, in the user's cache.")
    ] = True,
    config: Config = None,
    threads: Threads = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Masks in one forward.", show_default="what speed and memory allow")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
) -> None:
    """Find the k units of a prompt that together made the model answer as it did."""
    connection = Connection(endpoint, endpoint_model, api, tokenizer, key_variable, max_tokens_sent, score_cache)
    connection.check(
        model=model, device=device, dtype=dtype, trust_remote_code=trust_remote_code or None, batch_size=batch_size
    )
    require_consistent(context)
    source = first_given(context, {"prompt": prompt, "file": file, "messages": messages})
    text, tools = prompt_from(**source)
    other, other_tools = (None, None) if against is None else _second_prompt(source, against)
    if other_tools and other_tools != tools:
        raise typer.BadParameter("--against explains both prompts with the same tools: give both files the same")
    require_writable(json_path, stdout=True)
    require_writable(html_path)
    spans = unit_from(unit or ("sentence" if diagnose or cite else "auto"))
    if against is not None and not isinstance(spans, str):
        raise typer.BadParameter("--against needs units that fit both prompts: give --unit a name, not spans")
    part = target_from(target)

    from jopa.citation import citing
    from jopa.diagnosis import diagnosing
    from jopa.explanation import explaining
    from jopa.explanation.request import ExplanationRequest
    from jopa.explanation.searching import SearchOptions
    from jopa.model.answer_cache import AnswerCache
    from jopa.model.generation import Generation
    from jopa.model.language_model import LanguageModel
    from jopa.model.loading import load
    from jopa.model.threads import use_threads
    from jopa.preparation import Callbacks, require_log_probs
    from jopa.prompt.documents import read_documents
    from jopa.prompt.options import PromptOptions

    chosen = _methods(method, compare, settings or [], budget)
    arguments = dict(map(setting, template_arg or []))
    options = PromptOptions(
        system=system,
        prefix=prefix,
        prefill=prefill,
        plain=plain,
        template_args=arguments,
        tools=tools,
        language=language,
        attribute=parts_from(attribute),
        documents=read_documents(documents) if documents else None,
    )
    generation = Generation(max_new_tokens, temperature, seed)
    search = SearchOptions(
        until_pr=until_pr,
        max_k=max_k,
        all_effects=all_effects,
        counterfactual=generation,
        seed=seed,
        refine=None if not refine else () if refine == ["none"] else tuple(refine),
        budget=budget if not chosen else None,
    )
    request = ExplanationRequest(text, options, k, spans, removal, search)
    other_request = None if other is None else replace(request, prompt=other)
    requested = unit_numbers(requests) if requests else None
    unchanged = band_of(band) if band else diagnosing.BAND
    diagnosing.require_band(unchanged)
    limits = {"below": below, "max_sources": max_sources}
    given_limits = {name: number for name, number in limits.items() if number is not None}
    if cite:
        citing.require_citation(options, **given_limits)
    profiles: list[Profile] = []
    refusals: list[str] = []

    def refuse(method: Method, error: JopaError) -> None:
        refusals.append(f"{method.name}: {error}")

    delivery = Delivery(json_path, html_path, title)
    answers = AnswerCache() if answer_cache and endpoint is None else None
    with progress_bar() as progress:
        progress("loading the model", 0, None)
        began = time.perf_counter()
        used = use_threads(threads)
        language_model = connection.connect() or load(
            model, device=device, dtype=dtype, trust_remote_code=trust_remote_code, batch_size=batch_size
        )
        loading = time.perf_counter() - began
        if other_request is not None:
            require_log_probs(language_model, "--against")
            explaining.require_explainable(other_request, chosen, language_model)
        if dry_run:
            planned = output if output is not None else generation
            print_most_sent(language_model, request, None if diagnose else chosen, planned)
            return
        if answers is not None and isinstance(language_model, LanguageModel):
            language_model = replace(language_model, answers=answers)
        callbacks = Callbacks(progress, on_profile=profiles.append, on_refusal=refuse if compare else None)
        asked: dict[str, Any] = {
            "model": language_model,
            "unit": spans,
            "output": output if output is not None else generation,
            "target": part,
            "options": options,
            "callbacks": callbacks,
        }
        found: list[Attribution | TextAttribution] = []
        if diagnose:
            diagnosed = diagnosing.diagnose(
                text, removal=removal or "delete", requests=requested, band=unchanged, **asked
            )
            deliver = partial(delivery.diagnosis, diagnosed)
        elif cite:
            deliver = partial(
                delivery.citations, citing.cite(text, removal=removal or "delete", **given_limits, **asked)
            )
        else:
            searched = partial(explaining.explain, method=chosen[0] if chosen else None, removal=removal)
            if compare is not None:
                searched = partial(explaining.compare, methods=chosen, removal=removal or "delete")
            found = _listed(searched(text, k=k, search=search, **asked))
            deliver = partial(delivery.attributions, found, compared=compare is not None)
            if other is not None:
                found += _listed(searched(other, k=k, search=search, **asked))
                deliver = partial(delivery.prompts, *found)
    deliver()
    print_sent(language_model)
    if answers is not None and answers.found:
        print_line("The answer was kept from an earlier run; --no-answer-cache generates it again")
    if profile:
        names = [each.method["name"] for each in found]
        print_cost(names, profiles, loading, str(used))
    if refusals:
        fail("; ".join(refusals))


def _listed(found: Attribution | TextAttribution | tuple[Any, ...]) -> list[Attribution | TextAttribution]:
    """What one call found, as a list."""
    return list(found) if isinstance(found, tuple) else [found]


def _second_prompt(source: dict[str, Any], against: str) -> tuple[str | list[Message], list[Mapping[str, Any]] | None]:
    """The other prompt, given in the same way as the first, and its tools."""
    kind = next((name for name in ("file", "messages") if source[name] is not None), "prompt")
    if kind != "prompt" and against == "-":
        raise typer.BadParameter("--against cannot be stdin: give a file")
    return prompt_from(**{**dict.fromkeys(source), kind: against if kind == "prompt" else Path(against)})


def _methods(name: str | None, compared: str | None, settings: Sequence[str], budget: int | None) -> list[Method]:
    """The methods that the user named; several if they are compared, none for the one that fits."""
    from jopa.methods import DEFAULT_METHOD, find_method

    if compared is None:
        if name is None and not settings:
            return []
        given = dict(map(setting, settings))
        return [find_method(name or DEFAULT_METHOD.name, **given if budget is None else given | {"budget": budget})]
    methods = [find_method(each.strip()) for each in compared.split(",")]
    if settings or budget is not None:
        raise SettingError("--compare runs each method with its own settings; leave out --set and --budget")
    return methods
