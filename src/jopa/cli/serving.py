"""`jopa serve`, `methods` and `models`: the page, and what there is to choose from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from jopa.cli.endpoints import Connection
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
    Threads,
    TrustRemoteCode,
)
from jopa.cli.progress import progress_bar
from jopa.cli.reading import setting
from jopa.cli.showing import print_line

if TYPE_CHECKING:
    from jopa.scoring.protocols import Model as AnyModel


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port; 0: any free one.", min=0, max=65535)] = 7860,
    model: Model = None,
    threads: Threads = None,
    device: Device = None,
    dtype: Dtype = None,
    endpoint: Endpoint = None,
    endpoint_model: EndpointModel = None,
    api: Api = None,
    tokenizer: ServedTokenizer = None,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    max_tokens_sent: MaxTokensSent = None,
    score_cache: ScoreCache = True,
    trust_remote_code: TrustRemoteCode = False,
    plain: Plain = False,
    template_arg: TemplateArg = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="The most tokens of a request's input and answer together.", min=1, show_default="6000"),
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="The most seconds of work for one request.", min=1, show_default="600")
    ] = None,
    share_password: Annotated[
        str | None, typer.Option(help="What visitors must know; any user name.", show_default=False)
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a password.")] = False,
    public_url: Annotated[
        str | None,
        typer.Option(
            help="The address under which a proxy offers the page, as https://jopa.example.org.", show_default=False
        ),
    ] = None,
) -> None:
    """Open the web page: type a prompt, watch the search, take units out and put them back."""
    connection = Connection(endpoint, endpoint_model, api, tokenizer, key_variable, max_tokens_sent, score_cache)
    connection.check(model=model, device=device, dtype=dtype, trust_remote_code=trust_remote_code or None)
    from jopa.model.loading import load
    from jopa.model.threads import use_threads
    from jopa.prompt.options import PromptOptions
    from jopa.web import server as page
    from jopa.web.limits import CHARACTERS_PER_TOKEN, RequestLimits

    limits = RequestLimits()
    if max_tokens is not None:
        limits = replace(limits, tokens=max_tokens, characters=CHARACTERS_PER_TOKEN * max_tokens)
    if max_seconds is not None:
        limits = replace(limits, seconds=max_seconds)
    options = PromptOptions(plain=plain, template_args=dict(map(setting, template_arg or [])))

    def loaded() -> AnyModel:
        with progress_bar() as progress:
            progress("loading the model", 0, None)
            return connection.connect() or load(model, device=device, dtype=dtype, trust_remote_code=trust_remote_code)

    use_threads(threads)
    page.serve(
        loaded,
        host=host,
        port=port,
        password=share_password,
        insecure=insecure,
        public_url=public_url,
        limits=limits,
        options=options,
        on_ready=lambda url: typer.echo(f"{url}  (Ctrl-C ends it)"),
    )


def methods() -> None:
    """List the methods, one line each."""
    from jopa.methods import METHODS
    from jopa.reports.wording import visible

    needs = {"scores": "black box", "distribution": "distributions", "token-attention": "attention"}
    rows = [("METHOD", "NEEDS", "COST IN FFE", "WHAT IT IS")]
    for name, method in METHODS.items():
        origin = METHODS.origin(name)
        summary = f"{method.summary} [{origin}]" if origin else method.summary
        rows.append((name, needs.get(method.requires, method.requires), method.cost, summary))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        typer.echo(visible(line.rstrip()))
    for fault in METHODS.faults.values():
        print_line(f"jopa: {fault}")


def models() -> None:
    """List the models that need no download, one line each."""
    from jopa.model.loading import local_models

    for name, where in local_models():
        typer.echo(f"{name}  {where}")
