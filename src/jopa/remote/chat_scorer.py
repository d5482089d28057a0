"""Scores keep masks by what a model says: how alike are its answer and its answer to the prompt without some units?

    score of a mask    similarity of the new answer, asked for greedily where the model allows it, and the output: F1 of
                       ROUGE-L, 0 to 1
    whole prompt       asked `REPEATS` times, never from the cache; the score is the mean
    noise              the difference of the highest and the lowest of these: what two equal requests may differ by

This is another objective than log p(y | x), and every result says so ("text-similarity").

Sees texts, units and masks.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jopa.errors import SettingError
from jopa.evaluation.metrics import rouge_l
from jopa.model.generation import GREEDY, Generation
from jopa.prompt.output import Output
from jopa.remote.chat_model import ChatAnswer, ChatModel, ChatRequest, answer_key
from jopa.remote.served import ServedWork
from jopa.scoring.work import Work

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from jopa.prompt.building import Prompt

MEASURE = "ROUGE-L F1"
REPEATS = 3
"""How often the unchanged prompt is asked again."""


class ChatScorer:
    """Scores keep masks of one prompt and output with a model behind a chat API.

    Args:
        model: the model.
        prompt: masks keep or remove its units; its ids are characters of the conversation.
        output: the answer that others are compared with.
        removal: "delete".
        max_new_tokens: the most tokens of an answer.

    Raises:
        SettingError: another removal, or only a part of the output counts.
    """

    objective = "text-similarity"

    def __init__(
        self, model: ChatModel, prompt: Prompt, output: Output, removal: str = "delete", max_new_tokens: int = 100
    ) -> None:
        model.require_removal(removal, len(prompt.ids))
        if output.target != (0, len(output.ids)):
            raise SettingError("a text score compares whole answers; leave out the target")
        self.prompt = prompt
        self.output = output
        self.removal = removal
        self.n_units = len(prompt.units)
        self.noise = 0.0
        """By how much the score of the unchanged prompt differs from request to request; 0 before it was scored."""
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._unit_of = {position: number for number, unit in enumerate(prompt.units) for position in unit.positions}
        self._repeats: tuple[float, ...] = ()
        self._whole = float(model.tokens_of(model.decode(prompt.ids)) + model.tokens_of(output.text))
        """Tokens of the whole prompt and its answer: estimated until the server has counted them."""
        self._answers: dict[str, str] = {}
        self._done = ServedWork()
        self._kept = 0

    @property
    def ffe(self) -> float:
        """Tokens of conversations and answers so far, over those of the whole prompt and output."""
        return self._done.sent / self._whole

    @property
    def ffe_left(self) -> float:
        """How much more model work the limit of tokens allows, with the longest answers; infinite without one."""
        text = self._model.decode(self.prompt.ids)
        most = self._model.tokens_at_most(ChatRequest(text, self._max_new_tokens))
        return self._model.allowance.left / max(self._whole, most)

    @property
    def work(self) -> Work:
        """What has been done so far: `forwards` are requests, `tokens` went and came, `reused` were in the cache."""
        return self._done.record

    @property
    def details(self) -> dict[str, dict[str, Any]]:
        """What results say of the measure, of its noise, and of the cost."""
        greedy = self._model.takes_temperature
        similarity = {"measure": MEASURE, "unchanged": list(self._repeats), "greedy": greedy}
        return {"similarity": similarity, "server": self._done.cost}

    def log_probs(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out"]:
        """Similarity of the output and the answer under each keep mask, in one column; no log-probability.

        Args:
            keep: one mask a row; True where the unit stays.

        Returns:
            float64, 0 to 1, on the CPU.

        Raises:
            SettingError: rouge-score is not installed.
            ModelError, PromptError, ScoringError, LimitError: as `ChatModel.ask`.
        """
        import torch

        requests = [self._request(mask) for mask in keep]
        whole = self._request(torch.ones(self.n_units, dtype=torch.bool))
        if not self._repeats:
            self._measure(whole)
        scores = self._scored([request for request in requests if request != whole])
        mean = math.fsum(self._repeats) / len(self._repeats)
        self._done.evaluations += len(requests)
        found = [mean if request == whole else scores[request] for request in requests]
        return torch.tensor(found, dtype=torch.float64)[:, None]

    def reserve(self, masks: int) -> None:
        """Reserve enough of the allowance to score `masks` masks and to answer once after the search; 0 ends it."""
        self._model.allowance.keep(-self._kept)
        text = self._model.decode(self.prompt.ids)
        self._kept = (masks + 1) * self._model.tokens_at_most(ChatRequest(text, self._max_new_tokens)) if masks else 0
        self._model.allowance.keep(self._kept)

    def generate(
        self,
        keep: Bool[Tensor, "units"],
        generation: Generation = GREEDY,
        *,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """The answer under one mask as code points; the one that was scored, where it is asked for in the same way."""
        request = self._request(keep)
        known = self._answers.get(request.text)
        if known is not None and generation.temperature == 0 and generation.max_new_tokens == self._max_new_tokens:
            new = tuple(map(ord, known))
            if on_ids:
                on_ids(new)
            return new
        return self._model.generate_ids(
            [ord(character) for character in request.text],
            generation,
            on_token=on_token,
            on_ids=on_ids,
        )

    def _request(self, keep: Bool[Tensor, "units"]) -> ChatRequest:
        """The conversation without the removed units."""
        kept, unit_of = keep.tolist(), self._unit_of
        ids = [token for place, token in enumerate(self.prompt.ids) if place not in unit_of or kept[unit_of[place]]]
        return ChatRequest(self._model.decode(ids), self._max_new_tokens)

    def _measure(self, whole: ChatRequest) -> None:
        """Ask the unchanged prompt again."""
        answers = self._counted_answers([whole] * REPEATS)
        self._repeats = tuple(self._similarity(answer.text) for answer in answers)
        self._whole = math.fsum(answer.tokens for answer in answers) / REPEATS
        self.noise = max(self._repeats) - min(self._repeats)

    def _scored(self, requests: Sequence[ChatRequest]) -> dict[ChatRequest, float]:
        """The score of each request; what is in the cache is not sent."""
        cache, scores = self._model.cache, {}
        keys = {request: self._key(request) for request in requests}
        for request, key in keys.items():
            known = cache.get(key) if cache else None
            if known is not None:
                scores[request] = known[0]
                self._done.reused += self._model.tokens_of(request.text)
        new = [request for request in keys if request not in scores]

        def note(number: int, answer: ChatAnswer) -> None:
            request = new[number]
            scores[request] = self._similarity(answer.text)
            self._answers[request.text] = answer.text
            if cache:
                cache.put([(keys[request], [scores[request]])])

        self._counted_answers(new, note)
        return scores

    def _counted_answers(
        self, requests: Sequence[ChatRequest], note: Callable[[int, ChatAnswer], None] | None = None
    ) -> list[ChatAnswer]:
        """Answers, whose cost is counted."""
        began = time.perf_counter()
        try:
            answers = self._model.ask(requests, note)
        finally:
            self._done.seconds += time.perf_counter() - began
        self._done.requests += len(answers)
        self._done.sent += sum(answer.tokens for answer in answers)
        return answers

    def _similarity(self, answer: str) -> float:
        return rouge_l(self.output.text, answer)[2]

    def _key(self, request: ChatRequest) -> bytes:
        return hashlib.sha256(answer_key(self._model, request, self.output.text, MEASURE).encode()).digest()
