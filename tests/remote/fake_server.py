"""Fake servers: one over a tiny model, as vLLM or SGLang answer, and one that chats; both do wrong what a test asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import torch

import jopa
from jopa.remote.chat_model import ChatModel

Fault = Callable[[httpx.Request, int], httpx.Response | None]
"""Given a request and its number; what it returns is answered instead of the right thing. It may raise, too."""


class FakeServer:
    """Counts requests and keeps their bodies; `transport` goes into `jopa.connect`."""

    def __init__(self, model, api: str = "vllm", *, fault: Fault | None = None, name: str = "tiny") -> None:
        self.model = model
        self.api = api
        self.fault = fault
        self.name = name
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []
        self.change: Callable[[Any], Any] = lambda answer: answer
        """What becomes of a right answer to a request for scores."""
        self.transport = httpx.MockTransport(self._answer)
        self._lock = threading.Lock()

    @property
    def scored(self) -> list[dict[str, Any]]:
        """The bodies that asked for scores."""
        return [body for body in self.bodies if "prompt_logprobs" in body or "logprob_start_len" in body]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            body = json.loads(request.content or b"{}")
            self.bodies.append(body)
            self.headers.append(request.headers)
            wrong = self.fault(request, len(self.bodies)) if self.fault else None
            if wrong is not None:
                return wrong
            if request.url.path == "/v1/models":
                card = {"id": self.name, "owned_by": self.api, "root": "somewhere", "max_model_len": 128}
                return httpx.Response(200, json={"data": [card]})
            answer = self._vllm(body) if request.url.path == "/v1/completions" else self._sglang(body)
            if "prompt_logprobs" in body or "logprob_start_len" in body:
                answer = self.change(answer)
            return httpx.Response(200, text=json.dumps(answer))

    def _vllm(self, body: dict[str, Any]) -> dict[str, Any]:
        if isinstance(body["prompt"], str):
            return {"usage": {"prompt_tokens": len(self.model.tokenizer.encode(body["prompt"]))}, "choices": []}
        choices: list[dict[str, Any]] = []
        for index, ids in enumerate(body["prompt"]):
            choice: dict[str, Any] = {"index": index}
            if "prompt_logprobs" in body:
                found = zip(ids[1:], self._prompt_log_probs(ids), strict=True)
                choice["prompt_logprobs"] = [None, *({str(i): {"logprob": value, "rank": 1}} for i, value in found)]
            else:
                new, values, stopped = self._generate(ids, body["max_tokens"])
                choice |= {
                    "token_ids": new,
                    "text": self.model.tokenizer.decode(new, skip_special_tokens=True),
                    "finish_reason": "stop" if stopped else "length",
                    "logprobs": {"tokens": [f"token_id:{i}" for i in new], "token_logprobs": values},
                }
            choices.append(choice)
        return {"choices": choices}

    def _sglang(self, body: dict[str, Any]) -> Any:
        """The form that SGLang documents for its native generation."""
        if "text" in body:
            return {"text": "", "meta_info": {"prompt_tokens": len(self.model.tokenizer.encode(body["text"]))}}
        if "logprob_start_len" in body:
            answers = []
            for ids, start in zip(body["input_ids"], body["logprob_start_len"], strict=True):
                values = self._prompt_log_probs(ids)[start:]
                entries = [
                    [None, ids[start], None],
                    *([v, i, None] for v, i in zip(values, ids[start + 1 :], strict=True)),
                ]
                answers.append({"text": "", "meta_info": {"input_token_logprobs": entries, "prompt_tokens": len(ids)}})
            return answers
        new, values, stopped = self._generate(body["input_ids"], body["sampling_params"]["max_new_tokens"])
        return {
            "text": self.model.tokenizer.decode(new, skip_special_tokens=True),
            "meta_info": {
                "output_token_logprobs": [[v, i, None] for v, i in zip(values, new, strict=True)],
                "finish_reason": {"type": "stop" if stopped else "length"},
            },
        }

    def _log_softmax(self, ids) -> torch.Tensor:
        with torch.no_grad():
            return self.model.model(torch.tensor([list(ids)])).logits[0].float().log_softmax(-1)

    def _prompt_log_probs(self, ids) -> list[float]:
        return self._log_softmax(ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()

    def _generate(self, ids, max_new: int) -> tuple[list[int], list[float], bool]:
        ids, new, values = list(ids), [], []
        while len(new) < max_new:
            value, token = self._log_softmax(ids)[-1].max(0)
            ids.append(int(token))
            new.append(int(token))
            values.append(float(value))
            if int(token) == self.model.tokenizer.eos_token_id:
                return new, values, True
        return new, values, False


def connect(server: FakeServer, **settings: Any) -> jopa.RemoteModel:
    """A model behind a fake server, without a cache unless one is asked for."""
    settings = {"model": "tiny", "tokenizer": server.model.tokenizer, "cache": False} | settings
    return jopa.connect("http://fake:8000/v1", transport=server.transport, **settings)


class FakeChat:
    """A chat API whose answer is a function of the messages; counts a word as a token."""

    def __init__(self, say: Callable[[list[dict[str, Any]]], str], *, fault: Fault | None = None) -> None:
        self.say = say
        self.fault = fault
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []
        self.transport = httpx.MockTransport(self._answer)
        self._lock = threading.Lock()

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies that asked for an answer."""
        return [body for body in self.bodies if body]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            body = json.loads(request.content or b"{}")
            self.bodies.append(body)
            self.headers.append(request.headers)
            wrong = self.fault(request, len(self.bodies)) if self.fault else None
            if wrong is not None:
                return wrong
            if request.url.path == "/v1/models":
                return httpx.Response(200, json={"data": [{"id": "tiny", "owned_by": "somebody"}]})
            assert request.url.path == "/v1/chat/completions"
            text = self.say(body["messages"])
            asked = sum(len(message["content"].split()) for message in body["messages"])
            usage = {"prompt_tokens": asked, "completion_tokens": len(text.split())}
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            return httpx.Response(200, json={"choices": [choice], "usage": usage})


def connect_chat(server: FakeChat, **settings: Any) -> ChatModel:
    """A model behind a fake chat API."""
    settings = {"model": "tiny", "api": "chat", "cache": False} | settings
    return jopa.connect("http://fake:8000/v1", transport=server.transport, **settings)
