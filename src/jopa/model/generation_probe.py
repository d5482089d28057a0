"""Whether transformers' own `generate`, with a cache, continues inputs as plain forwards do; found by trying it.

Inputs differ in kind: ids or embeddings, with hidden tokens or without, one row or several padded at the left, longer
than a window of attention or not. Each kind is tried once, when it is first wanted. Knows ids and logits, nothing of
text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jopa.model.agreement import agree, probe_ids, tried
from jopa.model.attention_windows import last_logits
from jopa.model.requirements import context_length, input_device
from jopa.model.state import evaluating, quiet_transformers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LENGTHS = (8, 5)
"""Tokens of the rows that are tried."""
_BEYOND = (5, 0)
"""Tokens of the rows after a window that they cross: one in what is given, the other in what is generated."""
_N_NEW = 3
_HIDDEN = 2


@dataclass(frozen=True)
class InputKind:
    """What decides whether `generate` continues an input rightly.

    Attributes:
        embedded: embeddings stand in place of ids.
        hidden: an attention mask hides some tokens.
        several: rows of different length, padded at the left.
        masked: an attention mask is given; without one nothing can be hidden or padded.
        positions: positions are given.
        window: the window of attention, in tokens, that it is longer than, of those that were not tried yet; 0 if none.
    """

    embedded: bool = False
    hidden: bool = False
    several: bool = False
    masked: bool = True
    positions: bool = True
    window: int = 0


class GenerationProbe:
    """Tries each kind of input once.

    Args:
        model: the model.
        tokenizer: its special tokens are left out of what is tried.
        packed: a context in which weights are as they are when answers are generated.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        packed: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._packed = packed
        self._known: dict[InputKind, bool] = {}

    def agrees(self, kind: InputKind) -> bool:
        """Whether `generate` gives inputs of this kind the logits of plain forwards."""
        if (kind.several or kind.hidden) and not kind.masked:
            return False
        if kind not in self._known:
            with quiet_transformers(), evaluating(self._model):
                self._known[kind] = tried(lambda: self._continues(kind))
        return self._known[kind]

    @property
    def refused(self) -> tuple[InputKind, ...]:
        """The kinds that were wanted and are not continued rightly."""
        return tuple(kind for kind, agreed in self._known.items() if not agreed)

    def _continues(self, kind: InputKind) -> bool:
        lengths = [kind.window + n for n in _BEYOND] if kind.window else _LENGTHS
        if (limit := context_length(self._model.config.get_text_config())) is not None:
            lengths = [min(length, max(1, limit - _N_NEW)) for length in lengths]
        if kind.several or not kind.window:
            return self._agree(kind, lengths[: 1 + kind.several])
        return all(self._agree(kind, [length]) for length in lengths)

    def _agree(self, kind: InputKind, lengths: Sequence[int]) -> bool:
        """Whether rows of these lengths, the longest first, are continued in one batch as each by itself."""
        import torch
        from transformers import GenerationConfig

        model, device = self._model, input_device(self._model)
        rows = [probe_ids(model, self._tokenizer, n, seed) for seed, n in enumerate(lengths)]
        missing = [lengths[0] - len(row) for row in rows]
        ids = torch.tensor([[0] * n + row for n, row in zip(missing, rows, strict=True)], device=device)
        mask = torch.ones_like(ids)
        for row, n in enumerate(missing):
            mask[row, :n] = 0
            mask[row, n + _HIDDEN] = int(not kind.hidden)
        inputs = self._embedded(ids) if kind.embedded else {"input_ids": ids}
        if kind.masked:
            inputs["attention_mask"] = mask
        if kind.positions:
            first = torch.tensor(missing, device=device)[:, None]
            inputs["position_ids"] = (torch.arange(lengths[0], device=device) - first).clamp(min=0)
        settings = GenerationConfig(
            max_new_tokens=_N_NEW, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True
        )
        declared = model.generation_config
        try:
            model.generation_config = settings
            with torch.no_grad(), self._packed():
                found: Any = model.generate(**inputs, generation_config=settings)  # type: ignore[operator]
        finally:
            model.generation_config = declared
        new = found.sequences[:, -_N_NEW:]
        logits = torch.stack(found.logits, dim=1)
        return all(
            agree(logits[row], self._plain(kind, torch.cat([ids[row, n:], new[row]]))) for row, n in enumerate(missing)
        )

    def _plain(self, kind: InputKind, ids: Tensor) -> Tensor:
        """Logits `[new, vocab]` of the new tokens, the last ones of a row, by a plain forward."""
        import torch

        inputs: dict[str, Any] = {"input_ids": ids[None]}
        with torch.no_grad():
            if kind.embedded:
                inputs = self._embedded(ids[None])
            if kind.hidden:
                inputs["attention_mask"] = torch.ones_like(ids[None])
                inputs["attention_mask"][0, _HIDDEN] = 0
                if kind.positions:
                    inputs["position_ids"] = torch.arange(len(ids), device=ids.device)[None]
            if kind.window:
                return last_logits(self._model, _N_NEW + 1, **inputs)[:-1]
            return self._model(**inputs, use_cache=False).logits[0, -_N_NEW - 1 : -1]

    def _embedded(self, ids: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": self._model.get_input_embeddings()(ids).detach()}
