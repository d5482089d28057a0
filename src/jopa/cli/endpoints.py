"""The options that name a model behind a server, and what is said of its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jopa.explanation.request import ExplanationRequest
    from jopa.method import Method
    from jopa.model.generation import Generation
    from jopa.remote.chat_model import ChatModel
    from jopa.remote.remote_model import RemoteModel


@dataclass(frozen=True)
class Connection:
    """The options of a command that name a model behind a server, as the user gave them."""

    endpoint: str | None
    model: str | None
    api: str | None
    tokenizer: str | None
    key_variable: str
    max_tokens_sent: int | None
    score_cache: bool

    def check(self, **local: object) -> None:
        """Refuse options that do not fit together.

        Args:
            local: options of a model in this process, by name; None where they were not given.

        Raises:
            typer.BadParameter: naming the option.
        """
        of_server = {
            "--endpoint-model": self.model,
            "--api": self.api,
            "--tokenizer": self.tokenizer,
            "--max-tokens-sent": self.max_tokens_sent,
        }
        given = [name for name, value in of_server.items() if value is not None]
        if self.endpoint is None:
            if given:
                raise typer.BadParameter(f"{given[0]} needs --endpoint")
            return
        if self.model is None:
            raise typer.BadParameter("--endpoint needs --endpoint-model: the model's name at the server")
        for name, value in local.items():
            if value is not None:
                raise typer.BadParameter(f"--endpoint asks a server: leave out --{name.replace('_', '-')}")

    def connect(self) -> RemoteModel | ChatModel | None:
        """The model behind the server, or None where no server is named."""
        if self.endpoint is None or self.model is None:
            return None
        from jopa.remote.connecting import connect

        return connect(
            self.endpoint,
            model=self.model,
            api=self.api,
            tokenizer=self.tokenizer,
            key_variable=self.key_variable,
            max_tokens_sent=self.max_tokens_sent,
            cache=self.score_cache,
        )


def print_most_sent(
    model: object, request: ExplanationRequest, methods: Sequence[Method] | None, output: str | Generation
) -> None:
    """How much a run would send to a server at most, on stdout; without methods, a diagnosis."""
    from jopa.explanation.explaining import cost_at_most, output_length
    from jopa.preparation import prepare_prompt
    from jopa.remote.chat_model import ChatModel
    from jopa.remote.remote_model import RemoteModel

    assert isinstance(model, RemoteModel | ChatModel)
    if methods is None:
        built = prepare_prompt(model, request.prompt, request.options, unit=request.unit)
        masks, answers = len(built.units) + 3, 0 if isinstance(output, str) else 1
        cost = model.cost_at_most(built, output_length(model, output), masks, float(masks), answers)
    else:
        cost = cost_at_most(
            request.prompt,
            methods,
            k=request.k,
            model=model,
            unit=request.unit,
            output=output,
            options=request.options,
            search=request.search,
        )
    typer.echo(
        f"at most {cost.requests:,} requests with {cost.tokens:,} tokens would be sent to {model.client.url}, one that "
        "has to be tried again counted once; nothing was scored"
    )


def print_sent(model: object) -> None:
    """What was sent to a server, on stderr; nothing for a model in this process."""
    from jopa.remote.chat_model import ChatModel
    from jopa.remote.remote_model import RemoteModel

    if isinstance(model, RemoteModel | ChatModel):
        requests, tokens = model.requests_sent, model.tokens_sent
        typer.echo(f"{requests:,} requests with {tokens:,} tokens were sent to {model.client.url}", err=True)
