"""A model behind a chat API, which gives answers and no log-probabilities of a prompt.

    POST /v1/chat/completions   {"model", "messages", "max_tokens", "temperature"}   choices[0].message.content

What counts is what the model says: `chat_scorer` asks again without some units and compares the answers. Texts are sent
and edited; nothing is known of the model's tokens, so where ids are called for, they are characters' code points (see
`conversation`). A model that refuses `max_tokens` or a temperature of 0 is asked by the other name, or without one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jopa.errors import PromptError, ScoringError
from jopa.model.generation import GREEDY, Generation
from jopa.prompt.messages import require_text
from jopa.prompt.output import Output
from jopa.remote.allowance import CostAtMost
from jopa.remote.client import Client, RefusedError
from jopa.remote.conversation import character_tokenizer, messages_of
from jopa.remote.score_cache import ScoreCache
from jopa.remote.served import ServedModel

if TYPE_CHECKING:
    from jopa.prompt.building import Prompt
    from jopa.scoring.protocols import PromptScorer

PATH = "/v1/chat/completions"
_CHARACTERS_PER_TOKEN = 3.0
"""What is assumed of a text before the server has counted one; fewer than most texts have."""
_LIMITS = ("max_tokens", "max_completion_tokens")
"""What the most tokens of an answer are called; some models take the second name alone."""
_NO_ANSWER = {
    "length": "the limit cut it off; if the model thinks first, raise max_new_tokens",
    "content_filter": "a filter of the server took it away",
    "tool_calls": "the model called a tool instead, which nobody answers here",
    "error": "the server failed while it wrote",
}
"""Why an answer holds no text that the model would say, by its `finish_reason`."""
_ALL_THOUGHTS = "the server took all that the model said for thoughts; switch off that it takes them apart"


@dataclass(frozen=True)
class ChatRequest:
    """What one answer is asked for with.

    Attributes:
        text: the conversation, as `conversation` writes it.
        max_new_tokens: the most tokens of the answer.
        temperature: 0 for greedy.
        seed: of the sampling; not sent when greedy.
    """

    text: str
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0

    def body(self, model: str, limit: str, greedy: bool) -> dict[str, Any]:
        """The JSON to send; without `greedy` a temperature of 0 is left out."""
        sampling: dict[str, Any] = {"temperature": 0} if greedy else {}
        if self.temperature:
            sampling = {"temperature": self.temperature, "seed": self.seed}
        return {"model": model, "messages": messages_of(self.text), limit: self.max_new_tokens, **sampling}


@dataclass(frozen=True)
class ChatAnswer:
    """What the model said.

    Attributes:
        text: the answer.
        tokens: those of the conversation and the answer together, as the server counted them, or an estimate.
    """

    text: str
    tokens: int


class ChatModel(ServedModel):
    """A model behind a chat API; `jopa.connect(..., api="chat")` makes one.

    Args:
        client: sends the requests.
        id: the model's name at the server.
        cache: of scores; None keeps none.
        served: names server and model, for the cache.
        max_tokens_sent: a search that would send more ends; None for no limit. Answers count, too, since they are paid.
        unlisted: that the server's list lacks the model, and what it holds; said where the server refuses a request.
    """

    objective = "text-similarity"
    """What its scores are; see `jopa.choices.Objective`."""
    context_length = None
    """Nobody says; the server refuses what is too long."""

    def __init__(
        self,
        client: Client,
        id: str,
        *,
        cache: ScoreCache | None = None,
        served: str = "",
        max_tokens_sent: int | None = None,
        unlisted: str = "",
    ) -> None:
        super().__init__(client, id, "chat", max_tokens_sent)
        self._unlisted = unlisted
        self.tokenizer = character_tokenizer()
        self.cache = cache
        self.served = served or f"{client.url} chat {id}"
        self.takes_temperature = True
        """Whether the model can be asked for greedy answers; some take no temperature but their own."""
        self._limit_name = _LIMITS[0]
        self._per_token: float | None = None
        """Characters a token, as the server counted the longest text so far."""
        self._longest = 0

    def decode(self, ids: Sequence[int]) -> str:
        """The text of code points."""
        return "".join(map(chr, ids))

    def encode_continuation(self, text: str) -> tuple[int, ...]:
        """The code points of an answer.

        Raises:
            PromptError: it is empty.
        """
        require_text("output to explain", text)
        if not text:
            raise PromptError("the output to explain is empty; give a text of at least one character")
        return tuple(map(ord, text))

    def scorer(self, prompt: Prompt, output: Output, removal: str) -> PromptScorer:
        """A scorer whose answers are of the default length; `answer_scorer` knows how the output was generated."""
        return self.answer_scorer(prompt, output, removal, GREEDY)

    def answer_scorer(self, prompt: Prompt, output: Output, removal: str, generation: Generation) -> PromptScorer:
        """A scorer that asks for answers as the output was asked for, greedily.

        Raises:
            SettingError: the removal is not "delete", or only a part of the output counts.
        """
        from jopa.remote.chat_scorer import ChatScorer  # upwards: a model makes its own scorers

        return ChatScorer(self, prompt, output, removal, generation.max_new_tokens)

    def generate_ids(
        self,
        ids: Sequence[int],
        generation: Generation = GREEDY,
        *,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """The code points of an answer. The callbacks are told once, at the end.

        Raises:
            ModelError, PromptError, ScoringError, LimitError: as `ask`.
        """
        most = generation.max_new_tokens
        (answer,) = self.ask([ChatRequest(self.decode(ids), most, generation.temperature, generation.seed)])
        new = tuple(map(ord, answer.text))
        if on_token:
            on_token(min(len(new), most))
        if on_ids:
            on_ids(new)
        return new

    def ask(
        self, requests: Sequence[ChatRequest], on_answer: Callable[[int, ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        """The answers to several requests, in their order.

        Args:
            requests: what to ask.
            on_answer: called with a request's number and its answer as soon as that is there, in another thread.

        Raises:
            ModelError, PromptError: as `Client.post_all`.
            ScoringError: an answer has no text.
            LimitError: the requests might take more tokens than are left.
        """
        expected = sum(self.tokens_at_most(request) for request in requests)
        self.allowance.take(expected)
        used = 0
        answers: dict[int, ChatAnswer] = {}

        def read(number: int, found: Any) -> None:
            nonlocal used
            request = requests[number]
            answers[number] = self._read(request, found)
            used += answers[number].tokens
            if on_answer:
                on_answer(number, answers[number])

        try:
            while len(answers) < len(requests):
                way = self._limit_name, self.takes_temperature
                try:
                    self.client.post_all(PATH, [request.body(self.id, *way) for request in requests], read)
                except RefusedError as error:
                    greedy = not any(request.temperature for request in requests)
                    if not answers and self._adapt(way, str(error), greedy):
                        continue
                    if self._unlisted:
                        raise RefusedError(f"{error}; {self._unlisted}") from error
                    raise
        finally:
            self.allowance.give_back(expected - used)
        return [answers[number] for number in range(len(requests))]

    def cost_at_most(self, prompt: Prompt, n_output: int, masks: int | None, ffe: float, answers: int) -> CostAtMost:
        """What asking about a prompt may take, the repeats of the unchanged prompt included; see `RemoteModel`.

        Args:
            prompt: the prompt.
            n_output: the most tokens of an answer.
            masks: the most masks; None where `ffe` alone bounds them.
            ffe: the most model work, in full-forward equivalents.
            answers: how many answers are asked for besides.
        """
        from jopa.remote.chat_scorer import REPEATS

        whole = self.tokens_of(self.decode(prompt.ids)) + n_output
        removable = self.tokens_of("".join(unit.text for unit in prompt.units))
        if masks is None:
            masks = math.floor(ffe * whole / max(1, whole - removable))
        answers += REPEATS
        return CostAtMost(masks + answers, math.ceil((ffe + answers) * whole))

    def tokens_at_most(self, request: ChatRequest) -> int:
        """The most tokens that a conversation and its answer have, estimated by the server's last count."""
        return self.tokens_of(request.text) + request.max_new_tokens

    def tokens_of(self, text: str) -> int:
        """About how many tokens a text has."""
        return round(len(text) / (self._per_token or _CHARACTERS_PER_TOKEN)) + 1

    def _adapt(self, way: tuple[str, bool], refusal: str, greedy: bool) -> bool:
        """Whether to ask in another way: the one that a refusal names, or that another thread has found meanwhile."""
        if _LIMITS[1] in refusal:
            self._limit_name = _LIMITS[1]
        elif greedy and "temperature" in refusal:
            self.takes_temperature = False
        return way != (self._limit_name, self.takes_temperature)

    def _read(self, request: ChatRequest, found: Any) -> ChatAnswer:
        choices = found.get("choices") if isinstance(found, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        message = choice.get("message")
        text, reason = _text_of(message), str(choice.get("finish_reason") or "")
        why = _NO_ANSWER.get(
            reason, _ALL_THOUGHTS if _thinks(message) else "raise max_new_tokens if the model thinks first"
        )
        # By the limit, while it still thought; or the server took all that it said for thoughts.
        cut = (reason in _NO_ANSWER or _thinks(message)) and not (text or "").strip()
        if text is None or cut or reason in ("content_filter", "error"):
            named = f" (finish_reason: {reason})" if reason else ""
            raise ScoringError(f"the answer of '{self.id}' at {self.client.url} has no text{named}: {why}")
        usage = found.get("usage")
        asked, said = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        if asked is not None and len(request.text) > self._longest:
            self._per_token, self._longest = len(request.text) / asked, len(request.text)
        return ChatAnswer(text, (asked or self.tokens_of(request.text)) + (said or self.tokens_of(text)))


def _text_of(message: Any) -> str | None:
    """What the model says: a text, the texts among several parts (its thoughts are none), or why it refuses."""
    if not isinstance(message, dict):
        return None
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        content = "".join(texts) if texts else None
    if content is None:
        content = message.get("refusal")
    # Half a surrogate pair, of a character that the limit cut, cannot be written to any file.
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else None


def _thinks(message: Any) -> bool:
    """Whether the server says that the model thought first."""
    return isinstance(message, dict) and any(message.get(name) for name in ("reasoning_content", "reasoning"))


def _count(usage: Any, name: str) -> int | None:
    """A number of tokens, if the server says it."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count > 0 else None


def answer_key(model: ChatModel, request: ChatRequest, output: str, measure: str) -> str:
    """What a score depends on, as one text for the cache."""
    asked = [messages_of(request.text), request.max_new_tokens, output, measure]
    return json.dumps([model.served, *asked])
