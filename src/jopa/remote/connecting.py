"""Finding out what is behind an address: the kind of server, the model, its tokenizer; and checking that they fit.

A chat API (`CHAT`) gives texts alone; it has to be asked for by name, because its scores are of another kind.

Once, at the beginning: the server's own count of a probe's tokens must be the tokenizer's, and the log-probabilities of
a greedy answer, which the server gave as it wrote, must be those that it gives for the same ids as a prompt, and such
as the likeliest tokens can have, for servers can give logits in their place. What it gives for the probe tells the
cache of scores which weights are served: others may take the same name later.

Knows no units or masks.
"""

from __future__ import annotations

import hashlib
import math
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from jopa.errors import ModelError, SettingError, reason_of
from jopa.model.language_model import quiet_transformers
from jopa.model.loading import cache_folder
from jopa.remote.allowance import Allowance
from jopa.remote.chat_model import ChatModel
from jopa.remote.client import KEY_VARIABLE, Client, RefusedError
from jopa.remote.remote_model import RemoteModel
from jopa.remote.score_cache import ScoreCache, cache_key
from jopa.remote.servers import SERVERS, Row

if TYPE_CHECKING:
    import httpx
    from transformers import PreTrainedTokenizerBase

PROBE = "Why is the sky blue? Çok güzel: 你好, 3.14159 — and so on."
"""Tokenizers of different models cut this into different numbers of tokens."""
_PROBE_TOKENS = 8
_MAX_DISAGREEMENT = 0.25
"""Nats a token, in the mean, by which a server's two ways to a log-probability may differ; bfloat16 rounds coarsely."""
_PADDED_VOCABULARY = 2.0
"""Nats by which the likeliest token may be less likely than one of all that the tokenizer knows: models know more."""
_SAME_WEIGHTS = 0.01
"""Nats a token, in the mean over the probe, by which the same weights differ from connection to connection at most."""
CHAT = "chat"
APIS = (*SERVERS, CHAT)
_TEXT_ONLY = {"llamacpp": "llama.cpp's server", "library": "Ollama"}
"""Servers that give no log-probabilities of a prompt, by what they call the owner of their models."""
_ANY_NAME = "llamacpp"
"""The owner of models whose server answers to any name with the model that it has."""
_UNLISTED = "unlisted"


def connect(
    url: str,
    *,
    model: str,
    api: str | None = None,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    key_variable: str = KEY_VARIABLE,
    timeout: float = 120.0,
    attempts: int = 6,
    in_flight: int = 4,
    rows_per_request: int = 16,
    max_tokens_sent: int | None = None,
    cache: bool = True,
    transport: httpx.AsyncBaseTransport | None = None,
) -> RemoteModel | ChatModel:
    """Connect to a model behind a server.

    Args:
        url: the server's address, as `http://localhost:8000`.
        model: the model's name at the server.
        api: "vllm" or "sglang"; by default the server is asked. "chat" takes any OpenAI-compatible chat API for what it
            says: its scores are text similarities, no log-probabilities.
        tokenizer: the served model's own: a folder, a hub id, or a loaded one. By default what the server names; of no
            use with "chat".
        key_variable: the environment variable that holds the server's key, if it wants one.
        timeout: seconds that one answer may take.
        attempts: how often a request is tried.
        in_flight: the most requests at once.
        rows_per_request: the most masks in one request.
        max_tokens_sent: the most tokens to send; a search that would send more ends, as at the end of its budget. With
            "chat" the answers' tokens count, too.
        cache: keep scores on disk (in `$JOPA_CACHE` or the platform's cache folder), so that none is paid for twice.
        transport: how requests travel, for tests; by default over the network.

    Raises:
        SettingError: a setting is out of range, or tokenizer and server disagree.
        ModelError: the server cannot be reached, has no such model, or gives no log-probabilities of a prompt.
    """
    if api is not None and api not in APIS:
        raise SettingError(f"unknown api '{api}': choose one of {', '.join(APIS)}")
    if api == CHAT and tokenizer is not None:
        raise SettingError("a chat API is sent texts, which need no tokenizer: leave it out")
    Allowance(max_tokens_sent)  # refuses a limit before anything is sent
    client = Client(
        url,
        key_variable=key_variable,
        timeout=timeout,
        attempts=attempts,
        in_flight=in_flight,
        transport=transport,
    )
    try:
        card = _model_card(client, model, required=api != CHAT)
        scores = ScoreCache(cache_folder() / "scores.sqlite3") if cache else None
        if api == CHAT:
            served = f"{client.url} {CHAT} {model} {card.get('root')}"
            return ChatModel(
                client,
                model,
                cache=scores,
                served=served,
                max_tokens_sent=max_tokens_sent,
                unlisted=str(card.get(_UNLISTED, "")),
            )
        server = SERVERS[api or _api_of(client, card)]()
        remote = RemoteModel(
            client,
            server,
            model,
            _tokenizer(tokenizer, card, model),
            context_length=_context_length(card),
            rows_per_request=rows_per_request,
        )
        served = f"{client.url} {server.api} {model} {card.get('root')}"
        probe, log_probs = _check(remote)
        return RemoteModel(
            client,
            server,
            model,
            remote.tokenizer,
            context_length=remote.context_length,
            cache=scores,
            served=f"{served} {_weights(served, probe, log_probs, scores)}" if scores else served,
            rows_per_request=rows_per_request,
            max_tokens_sent=max_tokens_sent,
        )
    except BaseException:
        client.close()
        raise


def _model_card(client: Client, model: str, *, required: bool) -> dict[str, Any]:
    """What the server says of the model.

    Unless a list is required: nothing where it keeps none, and only that the model is not there where it keeps one, for
    gateways take more names than they list (`openai/gpt-5.2:nitro` at OpenRouter, deployments at Azure).
    """
    try:
        answer = client.get("/v1/models")
    except RefusedError:
        if required:
            raise
        return {}
    cards = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(cards, list):
        raise ModelError(f"the server {client.url} lists no models at /v1/models; is this the address of its API?")
    by_id = {card["id"]: card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)}
    if model in by_id:
        return by_id[model]
    closest = get_close_matches(model, by_id, 5, cutoff=0.0)
    offered = ", ".join(f"'{name}'" for name in closest) or "none"
    if not required and not any(card.get("owned_by") == _ANY_NAME for card in by_id.values()):
        return {_UNLISTED: f"its list has no model '{model}'; it offers {offered}"}
    raise ModelError(f"the server {client.url} has no model '{model}'; it offers {offered}")


def _api_of(client: Client, card: dict[str, Any]) -> str:
    """The kind of server, by what it says of its models."""
    owner = str(card.get("owned_by", "")).lower()
    if owner in SERVERS:
        return owner
    if owner in _TEXT_ONLY:
        raise ModelError(
            f"{_TEXT_ONLY[owner]} gives no log-probabilities of a prompt: give the model's GGUF file as the model, "
            f"serve it with vLLM or SGLang, or compare its answers as texts (api '{CHAT}')"
        )
    raise ModelError(
        f"the server {client.url} does not say what it is (its models belong to '{owner}'); name its kind (api): "
        f"{' or '.join(SERVERS)}, or '{CHAT}' to compare its answers as texts"
    )


def _context_length(card: dict[str, Any]) -> int | None:
    """The most tokens of a row; one more is always generated."""
    longest = card.get("max_model_len")
    return longest - 1 if isinstance(longest, int) and longest > 1 else None


def _tokenizer(
    given: str | Path | PreTrainedTokenizerBase | None, card: dict[str, Any], model: str
) -> PreTrainedTokenizerBase:
    """The tokenizer that is given, or that of the model that the server names."""
    if given is not None and not isinstance(given, str | Path):
        return given
    root = card.get("root")
    source = str(given or (root if isinstance(root, str) and root else model))
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            try:
                return AutoTokenizer.from_pretrained(source, local_files_only=True)
            except (OSError, ValueError):
                if Path(source).is_dir():
                    raise
                return AutoTokenizer.from_pretrained(source)
    except Exception as error:  # readers of damaged files raise anything
        raise ModelError(
            f"cannot load the tokenizer '{source}' of the served model '{model}': {reason_of(error):.200}; give its "
            "folder or hub id (tokenizer)"
        ) from error


def _check(remote: RemoteModel) -> tuple[tuple[int, ...], list[float]]:
    """Refuse a tokenizer that is not the served model's, and a server whose log-probabilities do not agree.

    Returns:
        The probe's ids, and the log-probabilities of all but the first.
    """
    client, server, tokenizer = remote.client, remote.server, remote.tokenizer
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    ids = tuple(tokenizer.encode(PROBE))
    counted = server.read_count(client.post(server.path, server.count_request(remote.id, PROBE)))
    if counted != len(ids):
        raise SettingError(
            f"the tokenizer '{name}' cuts a probe into {len(ids)} tokens and the served model '{remote.id}' into "
            f"{counted}; give the served model's own tokenizer"
        )
    answer = remote.continue_ids(ids, _PROBE_TOKENS)
    if not answer.ids:
        raise ModelError(f"the served model '{remote.id}' at {client.url} generates no tokens")
    decoded = _letters(str(tokenizer.decode(list(answer.ids), skip_special_tokens=True)))
    said = _letters(answer.text)
    if said != decoded:
        raise SettingError(
            f"the tokenizer '{name}' reads an answer as {decoded!r:.60} and the served model '{remote.id}' as "
            f"{said!r:.60}; give the served model's own tokenizer"
        )
    least = -math.log(len(tokenizer)) - _PADDED_VOCABULARY
    if any(not least <= value <= _MAX_DISAGREEMENT for value in answer.log_probs):
        raise ModelError(
            f"the server {client.url} gives no log-probabilities: those of a greedy answer of '{remote.id}' are from "
            f"{min(answer.log_probs):.2f} to {max(answer.log_probs):.2f}, beyond what likely tokens can have; it must "
            "give raw ones (vLLM: --logprobs-mode raw_logprobs)"
        )
    row = (*ids, *answer.ids)
    (scores,), _ = remote.score([Row(row, len(row) - 1)])
    differences = [abs(one - other) for one, other in zip(scores[-len(answer.ids) :], answer.log_probs, strict=True)]
    if fmean(differences) > _MAX_DISAGREEMENT:
        raise ModelError(
            f"the server {client.url} gives a greedy answer of '{remote.id}' other log-probabilities as it writes "
            f"than as a prompt ({max(differences):.2f} nats apart); it must give raw ones (vLLM: --logprobs-mode "
            "raw_logprobs)"
        )
    return ids, scores[: len(ids) - 1]


def _weights(served: str, probe: tuple[int, ...], log_probs: list[float], cache: ScoreCache) -> str:
    """A name of the weights that are served, by what they give the probe: others under the same name get another."""
    for number in count():
        name = f"{hashlib.sha256(repr(probe).encode()).hexdigest()[:16]} {number}"
        key = cache_key(f"{served} {name} probe", probe, len(log_probs))
        known = cache.get(key)
        if known is None:
            cache.put([(key, log_probs)])
            return name
        if fmean(abs(one - other) for one, other in zip(known, log_probs, strict=True)) <= _SAME_WEIGHTS:
            return name
    raise AssertionError("numbers do not end")


def _letters(text: str) -> str:
    """A text without what streaming decoders treat differently: blanks and broken characters."""
    return "".join(text.replace("\N{REPLACEMENT CHARACTER}", "").split())
