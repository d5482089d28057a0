"""What each server is asked, and how its answers are read.

    vLLM    POST /v1/completions  prompt: rows of ids, prompt_logprobs: 0    choices[i].prompt_logprobs[position][id]
    SGLang  POST /generate        input_ids: rows, logprob_start_len         [i].meta_info.input_token_logprobs

Every answer is checked: as many rows and log-probabilities as asked for, of the ids that were sent, none of them
null or not finite. Knows ids and JSON, nothing of units or masks.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jopa.errors import ScoringError


@dataclass(frozen=True)
class Row:
    """Token ids to send, and how many at their end are scored."""

    ids: tuple[int, ...]
    n_scored: int


@dataclass(frozen=True)
class Answer:
    """What a server generated.

    Attributes:
        ids: the new token ids; the stop token, if there was one, is the last.
        text: the same as the server writes it.
        log_probs: of each id, in nats.
        stopped: whether a stop token ended it.
    """

    ids: tuple[int, ...]
    text: str
    log_probs: tuple[float, ...]
    stopped: bool


class Server(ABC):
    """The form of one kind of server's requests and answers."""

    api: ClassVar[str]
    path: ClassVar[str]
    """Where scores and answers are asked for."""

    @abstractmethod
    def score_request(self, model: str, rows: Sequence[Row]) -> dict[str, Any]:
        """The body that asks for the log-probabilities of rows."""

    @abstractmethod
    def read_scores(self, answer: Any, rows: Sequence[Row]) -> list[list[float]]:
        """The log-probabilities of each row's scored ids, in nats.

        Raises:
            ScoringError: the answer does not hold them.
        """

    @abstractmethod
    def generate_request(
        self, model: str, ids: Sequence[int], max_new_tokens: int, temperature: float, seed: int
    ) -> dict[str, Any]:
        """The body that asks for a continuation of ids."""

    @abstractmethod
    def read_answer(self, answer: Any) -> Answer:
        """The continuation.

        Raises:
            ScoringError: the answer does not hold it.
        """

    @abstractmethod
    def count_request(self, model: str, text: str) -> dict[str, Any]:
        """The body that makes the server tokenise a text."""

    @abstractmethod
    def read_count(self, answer: Any) -> int:
        """How many tokens the text had."""


class Vllm(Server):
    """vLLM's OpenAI-compatible completions."""

    api = "vllm"
    path = "/v1/completions"

    def score_request(self, model: str, rows: Sequence[Row]) -> dict[str, Any]:
        """See `Server.score_request`."""
        return {
            "model": model,
            "prompt": [list(row.ids) for row in rows],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }

    def read_scores(self, answer: Any, rows: Sequence[Row]) -> list[list[float]]:
        """See `Server.read_scores`."""
        choices = _ordered(_field(answer, "choices", list), len(rows))
        return [self._row(choice, row) for choice, row in zip(choices, rows, strict=True)]

    def _row(self, choice: Any, row: Row) -> list[float]:
        found = choice.get("prompt_logprobs")
        if found is None:
            raise ScoringError(
                "the server gives no prompt log-probabilities; jopa needs a vLLM server that allows them"
            )
        _require_length(found, len(row.ids))
        scored = zip(row.ids[-row.n_scored :], found[-row.n_scored :], strict=True)
        return [_log_prob(_of_id(entry, token), token) for token, entry in scored]

    def generate_request(
        self, model: str, ids: Sequence[int], max_new_tokens: int, temperature: float, seed: int
    ) -> dict[str, Any]:
        """See `Server.generate_request`; settings of the model's own generation_config are switched off."""
        return {
            "model": model,
            "prompt": [list(ids)],
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": 0,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }

    def read_answer(self, answer: Any) -> Answer:
        """See `Server.read_answer`."""
        (choice,) = _ordered(_field(answer, "choices", list), 1)
        log_probs = _field(choice, "logprobs", dict)
        if choice.get("token_ids") is None:  # servers before vLLM 0.10.2
            ids = tuple(_marked_id(token) for token in _field(log_probs, "tokens", list))
        else:
            ids = tuple(_id(token) for token in _field(choice, "token_ids", list))
        values = _field(log_probs, "token_logprobs", list)
        _require_length(values, len(ids))
        checked = tuple(_log_prob(value, token) for token, value in zip(ids, values, strict=True))
        return Answer(ids, str(choice.get("text", "")), checked, choice.get("finish_reason") == "stop")

    def count_request(self, model: str, text: str) -> dict[str, Any]:
        """See `Server.count_request`."""
        return {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0}

    def read_count(self, answer: Any) -> int:
        """See `Server.read_count`."""
        return _field(_field(answer, "usage", dict), "prompt_tokens", int)


class Sglang(Server):
    """SGLang's native generation; the beginning that rows share stays in its cache."""

    api = "sglang"
    path = "/generate"

    def score_request(self, model: str, rows: Sequence[Row]) -> dict[str, Any]:
        """See `Server.score_request`."""
        return {
            "input_ids": [list(row.ids) for row in rows],
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": [len(row.ids) - row.n_scored - 1 for row in rows],
        }

    def read_scores(self, answer: Any, rows: Sequence[Row]) -> list[list[float]]:
        """See `Server.read_scores`."""
        answers = answer if isinstance(answer, list) else [answer]
        _require_length(answers, len(rows))
        return [self._row(_field(each, "meta_info", dict), row) for each, row in zip(answers, rows, strict=True)]

    def _row(self, information: dict[str, Any], row: Row) -> list[float]:
        found = information.get("input_token_logprobs")
        if found is None:
            raise ScoringError("the server gives no prompt log-probabilities (input_token_logprobs); is it SGLang?")
        _require_length(found, row.n_scored + 1)  # the first is of the token at the start, which nothing predicts
        scores = []
        for token, entry in zip(row.ids[-row.n_scored :], found[1:], strict=True):
            value, given = _pair(entry)
            if given != token:
                raise ScoringError(f"the server gives the log-probability of token {given} where {token} was sent")
            scores.append(_log_prob(value, token))
        return scores

    def generate_request(
        self, model: str, ids: Sequence[int], max_new_tokens: int, temperature: float, seed: int
    ) -> dict[str, Any]:
        """See `Server.generate_request`."""
        settings = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        return {
            "input_ids": list(ids),
            "sampling_params": {"max_new_tokens": max_new_tokens, "temperature": temperature, **settings},
            "return_logprob": True,
        }

    def read_answer(self, answer: Any) -> Answer:
        """See `Server.read_answer`."""
        information = _field(answer, "meta_info", dict)
        entries = [_pair(entry) for entry in _field(information, "output_token_logprobs", list)]
        reason = information.get("finish_reason")
        stopped = isinstance(reason, dict) and reason.get("type") == "stop"
        ids = tuple(token for _, token in entries)
        values = tuple(_log_prob(value, token) for value, token in entries)
        return Answer(ids, str(answer.get("text", "")), values, stopped)

    def count_request(self, model: str, text: str) -> dict[str, Any]:
        """See `Server.count_request`."""
        return {"text": text, "sampling_params": {"max_new_tokens": 1, "temperature": 0}}

    def read_count(self, answer: Any) -> int:
        """See `Server.read_count`."""
        return _field(_field(answer, "meta_info", dict), "prompt_tokens", int)


SERVERS: dict[str, type[Server]] = {kind.api: kind for kind in (Vllm, Sglang)}


def _field(answer: Any, name: str, kind: type) -> Any:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise ScoringError(f"the server's answer has no '{name}'; is its kind (api) the right one?")
    return value


def _ordered(choices: Sequence[Any], n: int) -> list[Any]:
    """Choices by their own index, which must be 0 to n − 1."""
    numbered = [choice for choice in choices if isinstance(choice, dict) and isinstance(choice.get("index"), int)]
    by_index = {choice["index"]: choice for choice in numbered}
    if len(choices) != n or set(by_index) != set(range(n)):
        raise ScoringError(
            f"the server answers {len(choices)} rows, or rows without their numbers, where {n} were asked for"
        )
    return [by_index[number] for number in range(n)]


def _require_length(found: Any, n: int) -> None:
    if not isinstance(found, list) or len(found) != n:
        got = len(found) if isinstance(found, list) else "no list of"
        raise ScoringError(
            f"the server gives {got} log-probabilities where {n} were asked for; its scores cannot be used"
        )


def _pair(entry: Any) -> tuple[Any, int]:
    """SGLang's entry of one token: its log-probability and its id."""
    if not isinstance(entry, list) or len(entry) < 2:
        raise ScoringError(f"the server gives {entry!r:.60} where a log-probability and an id belong")
    return entry[0], _id(entry[1])


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ScoringError(f"the server gives {value!r:.60} where a token's id belongs; jopa needs ids")
    return value


def _marked_id(token: Any) -> int:
    """The id in `token_id:7`; a token that is given as its text could be several."""
    found = re.fullmatch(r"token_id:([0-9]+)", token) if isinstance(token, str) else None
    if found is None:
        raise ScoringError(
            f"the server gives {token!r:.60} where a token's id belongs; jopa needs a vLLM that returns token ids"
        )
    return int(found[1])


def _of_id(entry: Any, token: int) -> Any:
    found = entry.get(str(token)) if isinstance(entry, dict) else None
    return found.get("logprob") if isinstance(found, dict) else None


def _log_prob(value: Any, token: int) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ScoringError(
            f"the server gives {value} as the log-probability of token {token}; its scores cannot be used: "
            "update it, or ask for fewer rows a request"
        )
    return float(value)
