"""A model behind a server, as what `explain`, `compare`, `diagnose` and the benchmark take in place of a loaded one.

Token ids go to the server, never text, so no text is tokenised twice. Knows ids and rows; `servers` knows the forms of
requests, `client` sends them, `connecting` finds out what is behind an address.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jopa.errors import SettingError
from jopa.model.generation import GREEDY, Generation, until_stop
from jopa.prompt.continuation import decoded, encode_continuation
from jopa.prompt.output import Output
from jopa.remote.allowance import CostAtMost
from jopa.remote.client import Client
from jopa.remote.score_cache import ScoreCache, cache_key
from jopa.remote.served import ServedModel
from jopa.remote.servers import Answer, Row, Server

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from jopa.prompt.building import Prompt
    from jopa.scoring.protocols import PromptScorer

_REQUEST_TOKENS = 16384
"""The most tokens that one request carries, unless a single row has more."""


@dataclass(frozen=True)
class RequestCost:
    """What a call cost.

    Attributes:
        requests: requests that were answered.
        tokens: tokens that these sent.
        reused: tokens of rows that were in the cache.
    """

    requests: int
    tokens: int
    reused: int


class RemoteModel(ServedModel):
    """A causal language model behind a server; `jopa.connect` makes one.

    Args:
        client: sends the requests.
        server: their form.
        id: the model's name at the server.
        tokenizer: the served model's own, a fast one.
        context_length: the most tokens of prompt and output together, if known.
        cache: of scores; None keeps none.
        served: names server, model and weights, for the cache.
        rows_per_request: the most masks in one request.
        max_tokens_sent: a search that would send more ends; None for no limit.
    """

    def __init__(
        self,
        client: Client,
        server: Server,
        id: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_length: int | None = None,
        cache: ScoreCache | None = None,
        served: str = "",
        rows_per_request: int = 16,
        max_tokens_sent: int | None = None,
    ) -> None:
        if rows_per_request < 1:
            raise SettingError(f"rows_per_request must be at least 1, got {rows_per_request}")
        super().__init__(client, id, server.api, max_tokens_sent)
        self.server = server
        self.tokenizer = tokenizer
        self.context_length = context_length
        self._cache = cache
        self._served = served or f"{client.url} {server.api} {id}"
        self._rows_per_request = rows_per_request

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer, as far as the tokenizer knows them."""
        end: Any = self.tokenizer.eos_token_id
        return frozenset() if end is None else frozenset({int(end)})

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        return decoded(self.tokenizer, ids)

    def encode_continuation(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that follows other text; see `jopa.prompt.continuation.encode_continuation`."""
        return encode_continuation(self.tokenizer, text)

    def scorer(self, prompt: Prompt, output: Output, removal: str) -> PromptScorer:
        """A scorer of keep masks of one prompt and output.

        Raises:
            SettingError: the removal is not "delete".
        """
        from jopa.remote.scorer import RemoteScorer  # upwards: a model makes its own scorers

        return RemoteScorer(self, prompt, output, removal)

    def generate_ids(
        self,
        ids: Sequence[int],
        generation: Generation = GREEDY,
        *,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """Continue token ids; greedy unless a temperature is given. The callbacks are told once, at the end.

        Returns:
            The new token ids, without the stop token.

        Raises:
            ModelError, PromptError, ScoringError: as `Client.post_all` and `Server.read_answer`.
        """
        answer = self.continue_ids(ids, generation.max_new_tokens, generation.temperature, generation.seed)
        new = self._until_stop(answer)
        if on_token:
            on_token(len(answer.ids))
        if on_ids:
            on_ids(new)
        return new

    def continue_ids(self, ids: Sequence[int], max_new_tokens: int, temperature: float = 0.0, seed: int = 0) -> Answer:
        """What the server generates, its stop token included.

        Raises:
            ModelError, PromptError, ScoringError: as `Client.post_all` and `Server.read_answer`.
            LimitError: the ids are more than `max_tokens_sent` leaves.
        """
        body = self.server.generate_request(self.id, ids, max_new_tokens, temperature, seed)
        self.allowance.take(len(ids))
        try:
            found = self.client.post(self.server.path, body)
        except BaseException:
            self.allowance.give_back(len(ids))
            raise
        return self.server.read_answer(found)

    def cost_at_most(self, prompt: Prompt, n_output: int, masks: int | None, ffe: float, answers: int) -> CostAtMost:
        """What scoring masks of a prompt and answering may take.

        Args:
            prompt: the prompt.
            n_output: the most tokens of the output.
            masks: the most masks; None where `ffe` alone bounds them.
            ffe: the most model work, in full-forward equivalents.
            answers: how many answers are generated.
        """
        whole = len(prompt.ids) + n_output
        removable = sum(len(unit.positions) for unit in prompt.units)
        if masks is None:
            masks = math.floor(ffe * whole / (whole - removable))
        return CostAtMost(masks + answers, math.ceil(ffe * whole) + answers * len(prompt.ids))

    def sequence_log_probs(self, ids: Sequence[int], n_scored: int) -> list[float]:
        """Log-probability of each of the last ids given those before it, in nats.

        Raises:
            ModelError, PromptError, ScoringError, LimitError: as `score`.
        """
        (log_probs,), _ = self.score([Row(tuple(ids), n_scored)])
        return log_probs

    def _until_stop(self, answer: Answer) -> tuple[int, ...]:
        """The ids before the first stop token."""
        new = until_stop(answer.ids, self.stop_ids)
        # A model may have further stop tokens, which the server knows: the last token of what one ended is special.
        if answer.stopped and len(new) == len(answer.ids) and new and new[-1] in self.tokenizer.all_special_ids:
            return new[:-1]
        return new

    def score(self, rows: Sequence[Row]) -> tuple[list[list[float]], RequestCost]:
        """The log-probabilities of each row's scored ids in nats, in the rows' order; what is in the cache is not sent.

        Raises:
            ModelError, PromptError, ScoringError: as `Client.post_all` and `Server.read_scores`.
            LimitError: the rows would send more tokens than `max_tokens_sent`; none is sent.
        """
        keys = [cache_key(self._served, row.ids, row.n_scored) for row in rows]
        known = {key: self._cache.get(key) for key in set(keys)} if self._cache else {}
        scores = {key: found for key, found in known.items() if found is not None}
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in scores}
        to_send = sum(len(row.ids) for row in new.values())
        self.allowance.take(to_send)
        unsent = to_send
        batches = list(self._batches(new))

        def read(number: int, answer: Any) -> None:
            nonlocal unsent
            batch = batches[number]
            unsent -= sum(len(new[key].ids) for key in batch)
            found = self.server.read_scores(answer, [new[key] for key in batch])
            scores.update(zip(batch, found, strict=True))
            if self._cache:
                self._cache.put(list(zip(batch, found, strict=True)))

        bodies = [self.server.score_request(self.id, [new[key] for key in batch]) for batch in batches]
        try:
            self.client.post_all(self.server.path, bodies, read)
        finally:
            self.allowance.give_back(unsent)
        reused = sum(len(row.ids) for row in rows) - to_send
        return [scores[key] for key in keys], RequestCost(len(bodies), to_send, reused)

    def _batches(self, new: dict[bytes, Row]) -> Iterator[list[bytes]]:
        """The rows of each request."""
        batch: list[bytes] = []
        n_tokens = 0
        for key, row in new.items():
            if batch and (len(batch) == self._rows_per_request or n_tokens + len(row.ids) > _REQUEST_TOKENS):
                yield batch
                batch, n_tokens = [], 0
            batch.append(key)
            n_tokens += len(row.ids)
        if batch:
            yield batch
