"""Forwards of the few rows that a model is tried with.

Knows ids, caches and logits, nothing of units, nor of what is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from jopa.model.agreement import probe_ids
from jopa.model.language_model import LanguageModel
from jopa.scoring.batch_input import BatchInput, BatchOutput, CallOptions, forward, without_gradients
from jopa.scoring.plain_forward import plain_logits
from jopa.scoring.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from torch import Tensor

_LENGTHS = (12, 9)
"""Tokens of the two rows."""
_LONG = 48
"""Tokens of a row that is tried where two short ones say too little."""


class ProbeForwards:
    """Runs rows as they run in scoring, and by the model's own plain forward.

    Args:
        model: the language model.

    Attributes:
        rows: the ids of two rows.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.rows = [self._ids(n, seed) for seed, n in enumerate(_LENGTHS)]

    @cached_property
    def long_row(self) -> list[int]:
        """The ids of one longer row."""
        return self._ids(_LONG, seed=2)

    def _ids(self, n: int, seed: int) -> list[int]:
        return probe_ids(self._model.model, self._model.tokenizer, min(n, self._model.context_length or n), seed)

    @cached_property
    def expected(self) -> list[Tensor]:
        """Logits `[tokens, vocab]` of both rows by plain forwards."""
        return [plain_logits(self._model, row) for row in self.rows]

    def run(
        self,
        rows: Sequence[Sequence[int]],
        options: CallOptions,
        prefixes: Sequence[PrefixCache] | None = None,
        *,
        embedded: bool = False,
        hidden: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Logits `[tokens, vocab]` of each row after its beginning, by the forward that scores rows."""
        part = self.part(rows, options, prefixes, embedded=embedded, hidden=hidden)
        logits = self.without_gradients(part)[0].logits
        return [own[: len(row)].clone() for own, row in zip(logits, rows, strict=True)]

    def part(
        self,
        rows: Sequence[Sequence[int]],
        options: CallOptions,
        prefixes: Sequence[PrefixCache] | None = None,
        *,
        embedded: bool = False,
        hidden: Sequence[int] | None = None,
        keep: Sequence[int] = (),
    ) -> BatchInput:
        """Rows after their beginnings, read at all their positions; of row i, token `hidden[i]` is masked (-1: none;
        beginnings counted)."""
        import torch

        width = max(map(len, rows))
        prefixes = prefixes or [PrefixCache(0)] * len(rows)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self._model.device)
        positions = torch.stack([torch.arange(width).clamp(max=len(row) - 1) for row in rows])
        mask = None
        if hidden is not None:
            mask = torch.ones(len(rows), prefixes[0].length + width, dtype=torch.long)
            for number, token in enumerate(hidden):
                if token >= 0:
                    mask[number, token] = 0
        inputs = {"inputs_embeds": self._model.model.get_input_embeddings()(ids)} if embedded else {"input_ids": ids}
        return BatchInput(inputs, positions, prefixes, mask, keep, options=options)

    def caches(self, rows: Sequence[Sequence[int]], options: CallOptions) -> list[PrefixCache]:
        """The caches of rows that ran in one forward."""
        return self.without_gradients(self.part(rows, options, keep=[len(row) for row in rows]))[0].prefixes

    def without_gradients(self, *parts: BatchInput) -> list[BatchOutput]:
        """One forward of these rows."""
        with without_gradients(self._model.model):
            return self.forward(*parts)

    def forward(self, *parts: BatchInput) -> list[BatchOutput]:
        """The same; differentiable where gradients are enabled."""
        return forward(self._model, parts)
