"""Units hidden only from what follows the context, whose cache is reused: cheap, and an approximation.

    context     everything up to the last unit, or a little less, so that some of the prompt follows it
    the rest    the question, the template after it, and the output: computed anew under every mask

The exact removals change what the context's own tokens say of one another. Here they do not: the context runs once, and
a mask only decides which of its units the rest may attend to. A row costs as much as the rest is long, which is a few
hundredths of a full forward where the context is long. With nothing hidden its scores are exact.

What a removal really does must be scored by a real removal; this only says where to look.

Sees ids, units and masks; knows nothing of searching for a good mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jopa.errors import ScoringError
from jopa.scoring.masking import MaskedForward
from jopa.scoring.packed_rows import packed_logits, packs_rows
from jopa.scoring.slow_paths import SLOW_PATHS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_MIN_REST = 16
"""Tokens of the prompt that follow the context at least: the position that answers must see what was hidden."""
_PACKED_TOKENS = {"cpu": 256, "cuda": 4096}
"""The most tokens of rows in one forward."""
_MASK_NUMBERS = {"cpu": 2**22, "cuda": 2**27}
"""The most entries of a forward's attention mask."""
_ATTENTION_WEIGHTS = {"cpu": 2**25, "cuda": 2**31}
"""The most attention weights, of all layers and heads, that a gradient keeps; each takes some ten bytes. On a processor
an eighth of what a gradient of exact scores may keep (`model_scorer`)."""


class ContextForward:
    """Forwards of what follows the context of one prompt, with units hidden from it.

    Args:
        masked: the exact forwards of the same prompt and output; a context that they have cached is not run again.

    Attributes:
        forward: runs the model on what follows the context, and counts.
        start: tokens of the context.
    """

    def __init__(self, masked: MaskedForward) -> None:
        last = int((masked.unit_of >= 0).nonzero()[-1])
        self.start = max(0, min(last + 1, masked.n_prompt - _MIN_REST))
        self.forward = masked.forward.after_prefix(masked.ids[: self.start])
        self._model = masked.forward.model
        self._masked = masked
        self._rest = masked.ids[self.start :]
        self._copied = False
        """Whether rows were scored that each copied the context's cache."""

    @property
    def offered(self) -> bool:
        """Whether the model can do it: its cache can be cut, and a mask hides tokens in it."""
        forward, shared = self.forward, self._masked.forward.prefix_length
        return self.start > shared and not forward.alone and forward.crops_caches and forward.probe.hides_behind_prefix

    @property
    def packed(self) -> bool:
        """Whether rows share one copy of the context's cache."""
        return packs_rows(self._model)

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """One line if rows had to copy the context's cache."""
        return (SLOW_PATHS["packed rows"],) if self._copied else ()

    @property
    def ffe(self) -> float:
        """What one mask costs, in full-forward equivalents."""
        return len(self._rest) / self._masked.n_full

    def log_probs(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out"]:
        """Log-probability of each target token with units hidden from what follows the context, whatever the removal.

        Args:
            keep: one mask a row; True where the unit is seen.

        Returns:
            float32, in nats, on the CPU; exact with nothing hidden.

        Raises:
            ScoringError: the model gives NaN or infinity, or memory does not suffice for one mask.
        """
        import torch

        self._run_context()
        scores = torch.empty(len(keep), self.forward.n_targets, dtype=torch.float32)

        def work(rows: list[int]) -> Float[Tensor, "rows out"]:
            return self.forward.log_probs(self._logits(self._masked.visible(keep[rows])))

        with self.forward.timed("approximation"):
            for rows, result in self.forward.in_batches(
                range(len(keep)), len(self._masked.ids), work, self._rows_per_forward()
            ):
                scores[rows] = result.float().cpu()
        if not scores.isfinite().all():
            raise ScoringError("the model gives NaN or infinity with units hidden from the output; try dtype float32")
        return scores

    def gradient(self, factors: Float[Tensor, "units"]) -> Float[Tensor, "units"] | None:
        """Derivative of Σ log p(y) by log a, where a multiplies the attention that the rest pays to each unit, in nats.

        One forward and one backward of the rest alone.

        Args:
            factors: a of each unit, more than 0.

        Returns:
            float32, on the CPU; None where the model's attention takes no factors or keeping it takes too much memory.
        """
        import torch

        self._run_context()
        config = self._model.model.config.get_text_config()
        weights = config.num_hidden_layers * config.num_attention_heads * len(self._rest) * len(self._masked.ids)
        if not self.forward.scales_attention or weights > _ATTENTION_WEIGHTS[self.forward.kind]:
            return None
        unit_of = self._masked.unit_of
        with self.forward.timed("gradients"), torch.enable_grad():
            log_factors = factors.log().requires_grad_()
            by_position = torch.where(unit_of >= 0, log_factors[unit_of.clamp(min=0)], 0.0)
            inputs = self.forward.embedded(self._rest[None], torch.ones(1, len(self._rest), dtype=torch.float32))
            total = self.forward(inputs, [len(self._rest)], log_factors=by_position).sum()
            with self.forward.in_model():
                (gradient,) = torch.autograd.grad(total, log_factors)
        self.forward.count_backward(len(self._rest))
        return gradient if bool(gradient.isfinite().all()) else None

    def _run_context(self) -> None:
        """Take the context's cache from an exact forward that has it, else run it once; a phase of its own."""
        cached = self._masked.cache_of_whole(self.start)
        if cached is not None:
            self.forward.begin_with(cached)
        self.forward.prefix()

    def _rows_per_forward(self) -> int:
        kind, n = self.forward.kind, len(self._rest)
        rows = max(1, _PACKED_TOKENS[kind] // n)
        while rows > 1 and rows * n * (self.start + rows * n) > _MASK_NUMBERS[kind]:
            rows -= 1
        return rows

    def _logits(self, visible: Bool[Tensor, "rows tokens"]) -> Float[Tensor, "rows out vocab"]:
        context, lengths = self.forward.prefix(), [len(self._rest)] * len(visible)
        if not self.packed:
            self._copied = True
            inputs = {"input_ids": self._rest.expand(len(visible), -1).to(self._model.device)}
            return self.forward.logits(inputs, lengths, [context] * len(visible), visible.long())[0]
        targets = self.forward.target_positions(lengths[:1])[0]
        logits, seconds = packed_logits(self._model, self._rest, visible, targets, context, self.forward.options)
        self.forward.count_rows(len(visible), len(self._rest), context.length, seconds)
        return logits
