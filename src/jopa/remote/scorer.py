"""Scores keep masks of one prompt and output through a server: log p(y | what is left of the prompt).

Units are cut out of the prompt's ids (removal `delete`; a server offers no other), the output's ids follow, and the
server gives the log-probabilities of the target. Rows that are in the cache on disk are not sent. What counts as model
work is the tokens sent.

Sees ids, units and masks; knows neither a text nor how a server is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jopa.errors import PromptError
from jopa.model.generation import GREEDY, Generation
from jopa.prompt.output import Output
from jopa.prompt.repeated_tokens import RepeatedToken, find_repeated_tokens
from jopa.remote.served import ServedWork
from jopa.remote.servers import Row
from jopa.scoring.work import Work

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from jopa.prompt.building import Prompt
    from jopa.remote.remote_model import RemoteModel


class RemoteScorer:
    """Scores keep masks of one prompt and output with a model behind a server.

    Args:
        model: the model behind a server.
        prompt: masks keep or remove its units.
        output: its target tokens are what is scored.
        removal: "delete".

    Raises:
        SettingError: another removal.
    """

    def __init__(self, model: RemoteModel, prompt: Prompt, output: Output, removal: str = "delete") -> None:
        model.require_removal(removal, len(prompt.ids))
        self.prompt = prompt
        self.output = output
        self.removal = removal
        self.n_units = len(prompt.units)
        self._model = model
        self._unit_of = {position: number for number, unit in enumerate(prompt.units) for position in unit.positions}
        self._done = ServedWork()
        self._kept = 0

    @property
    def ffe(self) -> float:
        """Tokens sent so far, over template + prompt + output."""
        return self._done.sent / (len(self.prompt.ids) + len(self.output.ids))

    @property
    def ffe_left(self) -> float:
        """How much more model work the limit of tokens allows; infinite without one."""
        return self._model.allowance.left / (len(self.prompt.ids) + len(self.output.ids))

    @property
    def work(self) -> Work:
        """What has been done so far: `forwards` are requests, `tokens` were sent, `reused` came from the cache."""
        return self._done.record

    @property
    def details(self) -> dict[str, dict[str, int]]:
        """What results say of the cost: requests and tokens that scores took, and tokens that the cache stood for."""
        return {"server": self._done.cost}

    def log_probs(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out"]:
        """Log-probability of each target token under each keep mask.

        Args:
            keep: one mask a row; True where the unit stays.

        Returns:
            float64, in nats, on the CPU.

        Raises:
            ModelError: the server cannot be reached, or refuses.
            ScoringError: it gives no log-probabilities, or a wrong number of them.
            PromptError: a mask leaves nothing to predict the output from, or a row is too long for the server.
            LimitError: the rows would send more tokens than the model's `max_tokens_sent`.
        """
        import torch

        start, end = self.output.target
        rows = [Row((*self.kept_ids(mask), *self.output.ids[:end]), end - start) for mask in keep]
        began = time.perf_counter()
        try:
            scores, spent = self._model.score(rows)
        finally:
            self._done.seconds += time.perf_counter() - began
        self._done.evaluations += len(rows)
        self._done.requests += spent.requests
        self._done.sent += spent.tokens
        self._done.reused += spent.reused
        return torch.tensor(scores, dtype=torch.float64).reshape(len(rows), end - start)

    def reserve(self, masks: int) -> None:
        """Reserve enough of the allowance to score `masks` masks and to answer once after the search; 0 ends it."""
        self._model.allowance.keep(-self._kept)
        n_prompt = len(self.prompt.ids)
        self._kept = masks * (n_prompt + len(self.output.ids)) + n_prompt if masks else 0
        self._model.allowance.keep(self._kept)

    def kept_ids(self, keep: Bool[Tensor, "units"]) -> tuple[int, ...]:
        """The prompt's ids without those of the removed units.

        Raises:
            PromptError: nothing is left.
        """
        kept = keep.tolist()
        unit_of = self._unit_of
        ids = tuple(
            token for place, token in enumerate(self.prompt.ids) if place not in unit_of or kept[unit_of[place]]
        )
        if not ids:
            raise PromptError(
                f"with all {self.n_units} units removed nothing is left to predict the output from; remove fewer units"
            )
        return ids

    def repeated_tokens(self) -> list[RepeatedToken]:
        """The words that units and target share; no model work."""
        start, end = self.output.target
        return find_repeated_tokens(self.prompt, self.output.ids[start:end], self._model.decode)

    def generate(
        self,
        keep: Bool[Tensor, "units"],
        generation: Generation = GREEDY,
        *,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """The ids that the model answers to the prompt under one mask; see `RemoteModel.generate_ids`."""
        return self._model.generate_ids(
            self.kept_ids(keep),
            generation,
            on_token=on_token,
            on_ids=on_ids,
        )
