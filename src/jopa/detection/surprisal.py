"""How surprising each unit of a prompt is to a model, and how likely a fixed refusal is after it, in one forward.

A model in this process is run here; one behind a server is asked for the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jopa.errors import ScoringError, SettingError
from jopa.model.language_model import LanguageModel
from jopa.scoring.forward import TargetForward

if TYPE_CHECKING:
    from jopa.prompt.building import Prompt
    from jopa.scoring.protocols import Model


@runtime_checkable
class SequenceModel(Protocol):
    """A model that gives the log-probabilities of ids given those before them, as one behind a server does."""

    def sequence_log_probs(self, ids: Sequence[int], n_scored: int) -> list[float]:
        """Log-probability of each of the last `n_scored` ids, in nats."""
        ...


def read_surprisals(model: Model, prompt: Prompt, refusal: Sequence[int]) -> tuple[tuple[float, ...], float, float]:
    """Surprisal of each unit, log p of the refusal, and what it cost in forwards of the prompt.

    The first token of a model without a template before it has no context: it gets the mean of the others.

    Raises:
        SettingError: the model gives no log-probabilities of a prompt.
        ScoringError: it gives NaN or infinity for a token.
    """
    first = max(1, min(min(unit.positions) for unit in prompt.units))
    log_probs, cost = _log_probs(model, (*prompt.ids, *refusal), first)
    if not all(map(math.isfinite, log_probs)):
        raise ScoringError("the model gives NaN or infinity for a token of the prompt; try dtype float32")
    of_prompt, of_refusal = log_probs[: -len(refusal)], log_probs[-len(refusal) :]
    known = {position: -value for position, value in enumerate(of_prompt, start=first)}
    mean = -math.fsum(of_prompt) / len(of_prompt) if of_prompt else 0.0
    of_units = tuple(math.fsum(known.get(position, mean) for position in unit.positions) for unit in prompt.units)
    return of_units, math.fsum(of_refusal), cost


def _log_probs(model: Model, ids: tuple[int, ...], first: int) -> tuple[list[float], float]:
    """Log-probability of each id from place `first` on, and what it cost in forwards of all of them."""
    import torch

    if isinstance(model, SequenceModel):
        return model.sequence_log_probs(ids, len(ids) - first), 1.0
    if not isinstance(model, LanguageModel):
        raise SettingError("detect needs the log-probabilities of a prompt, which this model does not give")
    row = torch.tensor(ids)
    targets = row[first:]
    forward = TargetForward(model, row[: first - 1], targets, len(targets), longest=len(row))
    rest = row[None, forward.prefix().length : -1].to(model.device)
    with torch.no_grad():
        log_probs = forward({"input_ids": rest}, [rest.shape[1]])[0].double().cpu()
    return log_probs.tolist(), forward.work.tokens / len(row)
