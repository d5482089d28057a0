"""Forwards of many variants of one prompt: a cached prefix before, the target's log-probabilities after.

The key-value cache of what all variants share is computed once; rows may begin with the cache of another row instead.
`batch_input` runs them; logits are made at the target positions only, and log-softmax is taken in float32 whatever the
model's dtype. A batch that does not fit into memory is halved. `Work` counts what all of this costs.

Knows ids and positions, nothing of units and masks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jopa.errors import ScoringError, SettingError
from jopa.model.agreement import out_of_memory
from jopa.model.language_model import LanguageModel, evaluating
from jopa.model.state import eager_attention, hooks_kept
from jopa.scoring.batch_input import (
    BatchInput,
    BatchOutput,
    Runner,
    forward,
    logits_only_at,
    without_gradients,
)
from jopa.scoring.batch_planning import BatchLimits
from jopa.scoring.plain_forward import whole_cache
from jopa.scoring.prefix_cache import PrefixCache, new_cache
from jopa.scoring.probe import probe_of
from jopa.scoring.slow_paths import SLOW_PATHS
from jopa.scoring.work import Work

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

# A batch holds at most this many tokens and this many bytes of logits (in float32). On a CPU larger batches are slower.
_BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
_BATCH_LOGIT_BYTES = {"cpu": 2**28, "cuda": 2**31}
# What reading all weights once costs, in tokens computed meanwhile.
LAUNCH_TOKENS = {"cpu": 32, "cuda": 256}
# Rows whose caches are kept hold at most this many tokens together.
_KEPT_TOKENS = {"cpu": 8192, "cuda": 16384}


class _Counter:
    """Where several count the work that they do for one scorer."""

    def __init__(self) -> None:
        self.work = Work()


class TargetForward:
    """Runs a model on variants of one input that share a prefix and an output.

    Args:
        model: the language model; its `batch_size` is the most rows in one forward, halved when memory runs out.
        prefix: the ids that every variant begins with; their key-value cache is computed once.
        targets: the target's ids.
        target_offset: how far before its end each row predicts the first target token (1: at its last position).
        longest: tokens of the longest row, prefix included.
        runner: runs the forwards that score rows.

    Attributes:
        probe: what the model can do; nothing else is asked of it.
        alone: each row needs a forward of its own, without a cache: its length changes the model's scores.
    """

    def __init__(
        self,
        model: LanguageModel,
        prefix: Int[Tensor, "prefix"],
        targets: Int[Tensor, "out"],
        target_offset: int,
        longest: int,
        runner: Runner | None = None,
    ) -> None:
        self.model = model
        with model.lock:  # another thread may have its own attention implementation in the model for a moment
            self.probe = probe_of(model)
            self.alone = model.changes_with_length(longest)
            self.options = self.probe.options if self.alone else self.probe.cached_options
        if self.alone:
            self.options = replace(self.options, restore=model.length_dependence.restore)
        self._counter = _Counter()
        self._ids = prefix
        self._targets = targets
        self._target_offset = target_offset
        self._longest = longest
        self._batch_size = 1 if self.alone or not self.probe.batches else model.batch_size
        self._runner = runner or Runner()
        self._prefix: PrefixCache | None = None

    def limit_rows(self, n: int) -> None:
        """Run at most n rows in one forward, in place of the model's own setting.

        Raises:
            SettingError: n is below 1.
        """
        if n < 1:
            raise SettingError(f"batch_size must be at least 1, got {n}")
        if not self.alone and self.probe.batches:
            self._batch_size = n

    @property
    def work(self) -> Work:
        """What has been done so far, here and by what follows other beginnings (`after_prefix`)."""
        return self._counter.work

    @property
    def crops_caches(self) -> bool:
        """Whether the cache of a row can serve as the beginning of others."""
        return not self.alone and self.probe.crops_caches

    @property
    def scales_attention(self) -> bool:
        """Whether attention to single tokens can be made weaker."""
        return not self.alone and self.probe.scales_attention

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """One line for each fast path that was wanted and is not taken."""
        refused = self.model.generation_probe.refused
        found = {
            "alone": self.alone,
            "generation": any(not kind.several for kind in refused),
            "generated batches": any(kind.several for kind in refused),
        }
        return (*(SLOW_PATHS[name] for name, slow in found.items() if slow), *self.probe.slow_paths)

    def after_prefix(self, prefix: Int[Tensor, "prefix"]) -> TargetForward:
        """The same target after another beginning; its work is counted here."""
        other = TargetForward(self.model, prefix, self._targets, self._target_offset, self._longest, self._runner)
        other._batch_size = self._batch_size
        other._counter = self._counter
        return other

    @property
    def prefix_length(self) -> int:
        """Tokens that every variant begins with."""
        return len(self._ids)

    @property
    def n_targets(self) -> int:
        """Tokens of the target."""
        return len(self._targets)

    def begin_with(self, prefix: PrefixCache) -> None:
        """Take a cache of what every variant begins with, unless it is there already."""
        assert prefix.length == len(self._ids)
        self._prefix = self._prefix or prefix

    def prefix(self) -> PrefixCache:
        """What rows need not carry, since its key-value cache is there; of no length for a model without caches.

        Raises:
            ScoringError: memory does not suffice for it.
        """
        import torch

        if self._prefix is not None:
            return self._prefix
        found, length = PrefixCache(0), len(self._ids)
        if length and self.crops_caches:
            rows = BatchInput(
                {"input_ids": self._ids[None].to(self.model.device)},
                torch.tensor([[length - 1]]),
                [PrefixCache(0)],
                keep=[length],
                options=self.options,
            )
            # Without inference mode: gradients begin here, too.
            with self.timed("prefix"), torch.no_grad(), self.in_model():
                ((_, (found,)),) = self.in_batches([0], length, lambda _: forward(self.model, [rows])[0].prefixes)
            self._count(forwards=1, tokens=length)
        elif length and not self.alone and self.probe.repeats_caches:
            with self.model.lock, self.timed("prefix"), self.in_model():
                prefix = whole_cache(self.model, self._ids.tolist())
                if prefix.length and self.probe.verify_prefix(prefix, self._ids):
                    found = prefix
            self._count(forwards=1, tokens=length)
        self._prefix = found
        return found

    def __call__(
        self, inputs: dict[str, Tensor], lengths: Sequence[int], log_factors: Float[Tensor, "all"] | None = None
    ) -> Float[Tensor, "rows out"]:
        """Log-probabilities of the target tokens after the common prefix; differentiable where gradients are enabled.

        One forward, at once.

        Args:
            inputs: `input_ids` (`Int[rows, n]`) or `inputs_embeds` of what follows the prefix.
            lengths: how many positions of each row are no padding; each row ends with the output.
            log_factors: of the attention paid to each token of a single row of `inputs_embeds`, prefix included.

        Returns:
            float32, in nats, on the model's device.
        """
        prefix_caches = [self.prefix()] * len(lengths)
        positions = self.target_positions(lengths)
        rows = BatchInput(inputs, positions, prefix_caches, log_factors=log_factors, options=self.options)
        return self.log_probs(self._counted(rows, lengths, forward(self.model, [rows])[0]))

    def logits(
        self,
        inputs: dict[str, Tensor],
        lengths: Sequence[int],
        prefix_caches: Sequence[PrefixCache],
        attention_mask: Int[Tensor, "rows all"] | None = None,
        keep: Sequence[int] = (),
    ) -> tuple[Float[Tensor, "rows out vocab"], list[PrefixCache]]:
        """What the language-model head says at the target positions, without gradients: one forward by the runner.

        Args:
            inputs: `input_ids` (`Int[rows, n]`) or `inputs_embeds` of what follows the cached beginnings.
            lengths: how many positions of each row are no padding; each row ends with the output.
            prefix_caches: what each row begins with, all of one length.
            attention_mask: 0 where no token may attend, the beginning included; without it every token counts.
            keep: keep the cache of this many tokens of each row, the beginning included; by default none.

        Returns:
            Logits in the model's dtype, on its device; and the caches that were to be kept.
        """
        assert not keep or self.crops_caches
        positions = self.target_positions(lengths)
        rows = BatchInput(inputs, positions, prefix_caches, attention_mask, keep, options=self.options)
        result = self._runner.read(self.model, rows, self.limits(rows.begin + rows.width))
        return self._counted(rows, lengths, result), result.prefixes

    def target_positions(self, lengths: Sequence[int]) -> Int[Tensor, "rows out"]:
        """The positions that predict the target, in rows of these lengths."""
        import torch

        return torch.tensor(lengths)[:, None] - self._target_offset + torch.arange(len(self._targets))

    def _counted(
        self, rows: BatchInput, lengths: Sequence[int], result: BatchOutput
    ) -> Float[Tensor, "rows out vocab"]:
        """The logits of a forward, after it is counted as if these rows had been alone in it."""
        padding = rows.tokens - sum(lengths)
        reused = len(rows.prefix_caches) * rows.begin
        self._count(forwards=1, tokens=rows.tokens, padding=padding, reused=reused, in_model=result.seconds)
        return result.logits

    def log_probs(self, logits: Float[Tensor, "rows out vocab"]) -> Float[Tensor, "rows out"]:
        """log softmax(logits)[target] in float32, without a second array of all logits' size."""
        import torch

        return torch.stack([_log_probs(row, self._targets) for row in logits])

    def count_backward(self, tokens: int) -> None:
        """Count a backward through forwards of `tokens` tokens."""
        self._count(backwards=1, tokens=2 * tokens)

    def count_rows(self, n_rows: int, tokens: int, reused: int, seconds: float) -> None:
        """Count a forward that was run elsewhere: `n_rows` rows of `tokens` tokens, each after `reused` cached ones."""
        self._count(forwards=1, tokens=n_rows * tokens, reused=n_rows * reused, in_model=seconds)

    def count(self, *, tokens: int = 0, evaluations: int = 0) -> None:
        """Count work that was done elsewhere."""
        self._count(tokens=tokens, evaluations=evaluations)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the wall-clock time of a block to a phase; phases do not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = dict(self.work.seconds)
            seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
            self._counter.work = replace(self.work, seconds=seconds)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Count the wall-clock time of a block as the model's own."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._count(in_model=time.perf_counter() - start)

    def _count(self, **more: int | float) -> None:
        work = self.work
        self._counter.work = replace(work, **{name: getattr(work, name) + n for name, n in more.items()})

    def embedded(self, ids: Int[Tensor, "rows n"], scale: Float[Tensor, "rows n"]) -> dict[str, Tensor]:
        """Input embeddings of `ids`, each multiplied by its factor."""
        embeddings = self.model.model.get_input_embeddings()(ids.to(self.model.device)).detach()
        return {"inputs_embeds": embeddings * scale.to(embeddings)[:, :, None]}

    def attentions(self, ids: Int[Tensor, "n"]) -> list[Float[Tensor, "heads out n"]]:
        """Attention weights of each layer, from the positions that predict the target; one forward over all of `ids`.

        Where the model's caches allow it, what stands before these positions runs by itself and gives no weights: those
        from every token to every other do not fit into memory on a long prompt.

        Raises:
            ScoringError: the model does not give its attention weights.
        """
        import torch

        model, device = self.model.model, self.model.device
        start = len(ids) - self._target_offset
        before, own = (ids[:start], ids[start:]) if self.crops_caches else (ids[:0], ids)
        target_positions = start - len(before) + torch.arange(len(self._targets))
        arguments: dict[str, Any] = {"use_cache": False}
        with without_gradients(model), evaluating(model), hooks_kept(model), self.in_model():
            if self.options.restore is not None:
                self.options.restore()
            if len(before):
                arguments = {"use_cache": True, self.probe.cached_options.cache_argument: new_cache()}
                with logits_only_at(self.model, [torch.tensor([len(before) - 1])]):
                    model(input_ids=before[None].to(device), **arguments)
                self._count(forwards=1, tokens=len(before))
            with eager_attention(model), logits_only_at(self.model, [target_positions]):
                layers = model(input_ids=own[None].to(device), output_attentions=True, **arguments).attentions
        self._count(forwards=1, tokens=len(own))
        if not layers or any(layer is None for layer in layers):
            raise ScoringError(f"'{self.model.id}' does not give its attention weights; choose another method")
        return [layer[0, :, target_positions.to(layer.device)].float().cpu() for layer in layers]

    def in_batches(
        self, rows: Sequence[int], length: int, work: Callable[[list[int]], Any], rows_per_batch: int | None = None
    ) -> Iterator[tuple[list[int], Any]]:
        """Do work on rows of at most `length` tokens, many at once; halve the batch when memory runs out.

        Args:
            rows: their numbers.
            length: tokens of the longest.
            work: called with the numbers of some rows.
            rows_per_batch: the most rows at once; by default as many as their tokens and logits allow.

        Yields:
            The numbers of some rows, and what `work` gives for them.

        Raises:
            ScoringError: memory does not suffice for one row.
        """
        done = 0
        while done < len(rows):
            size = self._rows_per_batch(length)
            if rows_per_batch is not None:
                size = min(rows_per_batch, self._batch_size or rows_per_batch)
            batch = list(rows[done : done + size])
            try:
                result = work(batch)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise ScoringError(
                        f"out of memory with one input of {length} tokens; use a smaller model or dtype, a shorter "
                        "prompt or fewer output tokens"
                    ) from error
                self._batch_size = len(batch) // 2
                continue
            yield batch, result
            done += len(batch)

    def limits(self, length: int, keep_rows: bool = True) -> BatchLimits:
        """What a batch may hold of rows whose prompt has `length` tokens, and what a forward costs."""
        kind = self.kind
        kept_tokens = _KEPT_TOKENS[kind] // self._runner.members
        new_caches = kept_tokens // max(1, length) if keep_rows and self.crops_caches else 0
        if self._batch_size is not None:
            return BatchLimits(self._batch_size, None, LAUNCH_TOKENS[kind], new_caches)
        return BatchLimits(self._rows_of_logits(), _BATCH_TOKENS[kind], LAUNCH_TOKENS[kind], new_caches)

    def _rows_per_batch(self, length: int) -> int:
        if self._batch_size is not None:
            return self._batch_size
        return max(1, min(_BATCH_TOKENS[self.kind] // max(1, length), self._rows_of_logits()))

    def _rows_of_logits(self) -> int:
        """Rows whose logits do not take too much memory."""
        vocabulary = self.model.model.config.get_text_config().vocab_size
        return max(1, _BATCH_LOGIT_BYTES[self.kind] // (4 * vocabulary * len(self._targets)))

    @property
    def kind(self) -> str:
        """What limits go by: "cuda", or "cpu" for all else."""
        return "cuda" if self.model.device.type == "cuda" else "cpu"


def _log_probs(logits: Float[Tensor, "out vocab"], targets: Int[Tensor, "out"]) -> Float[Tensor, "out"]:
    """log softmax(logits)[target] in float32, without a second array of the vocabulary's size for each row."""
    precise = logits.float()
    return precise.gather(1, targets.to(logits.device)[:, None])[:, 0] - precise.logsumexp(dim=1)
