"""Options that several commands have."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

Model = Annotated[str | None, typer.Option(help="Hub id, folder or .gguf file.", show_default="the bundled model")]
Endpoint = Annotated[str | None, typer.Option(help="A server's address, in place of --model.", show_default=False)]
EndpointModel = Annotated[str | None, typer.Option(help="The model's name there.", show_default=False)]
Api = Annotated[
    str | None,
    typer.Option(help="vllm, sglang, or chat: compare answers as texts.", show_default="the server is asked"),
]
ServedTokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Folder or hub id of its tokenizer.", show_default="what the server names"),
]
KeyVariable = Annotated[str, typer.Option(help="The environment variable that holds the server's key.")]
MaxTokensSent = Annotated[int | None, typer.Option(help="Stop before sending more.", show_default=False)]
ScoreCache = Annotated[bool, typer.Option(help="Keep the server's scores on disk.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say how much a server would be sent at most, and score nothing.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.", show_default="the best there is")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="bfloat16 on CUDA, else float32")
]
Threads = Annotated[
    int | None, typer.Option(help="Threads on the processor.", show_default="as many as cores are idle")
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
Plain = Annotated[bool, typer.Option("--plain", help="Plain text, without the model's chat template.")]
TemplateArg = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg", help="An argument of the chat template, NAME=VALUE; repeatable.", show_default=False
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
"""An option of every command; `jopa.cli.main` reads it."""


def with_debug(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option `--debug`, which the command itself does not see."""

    @wraps(command)
    def run(*arguments: Any, debug: bool = False, **options: Any) -> None:
        del debug
        command(*arguments, **options)

    signature = inspect.signature(command, eval_str=True)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    extended = signature.replace(parameters=[*signature.parameters.values(), debug])
    run.__signature__ = extended  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {name: parameter.annotation for name, parameter in extended.parameters.items()}
    return run
