"""Forwards of many variants of one prompt: a cached prefix in front, the target's log-probabilities behind.

The key-value cache of what all variants share is computed once. Rows may end at different places: shorter ones are
padded at the right, where causality hides the padding. Logits are made at the target positions only, by a hook on the
language-model head; log-softmax is taken in float32 whatever the model's dtype. A batch that does not fit into memory
is halved.

Knows ids and positions, nothing of units and masks.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jopa.errors import ModelError, ScoringError
from jopa.model import LanguageModel, evaluating

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from transformers import Cache, PreTrainedModel

# A batch holds at most this many tokens and this many bytes of logits (in float32).
_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}
_BATCH_LOGIT_BYTES = {"cpu": 2**28, "cuda": 2**31}


class TargetForward:
    """Runs a model on variants of one input that share a prefix and an output.

    Args:
        model: the language model.
        prefix: the ids that every variant begins with; their key-value cache is computed once.
        targets: the target's ids.
        read: how far before its end each row predicts the first target token (1: at its last position).
        batch_size: rows in one forward; by default as many as pay.
    """

    def __init__(
        self,
        model: LanguageModel,
        prefix: Int[Tensor, "prefix"],
        targets: Int[Tensor, "out"],
        read: int,
        batch_size: int | None = None,
    ) -> None:
        self.model = model
        self.takes_positions = "position_ids" in inspect.signature(model.model.forward).parameters
        self.tokens_processed = 0
        self._prefix = prefix
        self._targets = targets
        self._read = read
        self._batch_size = batch_size
        self._cache: Cache | None = None

    def prefix_length(self) -> int:
        """Tokens that rows need not carry, since their key-value cache is there; 0 for a model without one."""
        import torch

        if self._cache is None and len(self._prefix):
            last = torch.tensor([[len(self._prefix) - 1]])
            inputs = {"input_ids": self._prefix[None].to(self.model.device)}
            with torch.no_grad(), evaluating(self.model.model), _reading_only(self.model, last):
                self._cache = self.model.model(**inputs, use_cache=True).past_key_values
            self.tokens_processed += len(self._prefix)
            if self._cache is None:
                self._prefix = self._prefix[:0]
        return len(self._prefix)

    def __call__(
        self,
        inputs: dict[str, Tensor],
        lengths: Sequence[int],
        attention_mask: Int[Tensor, "rows all"] | None = None,
    ) -> Float[Tensor, "rows out"]:
        """Log-probabilities of the target tokens: one forward, differentiable where gradients are enabled.

        Args:
            inputs: `input_ids` (`Int[rows, n]`) or `inputs_embeds` of what follows the prefix.
            lengths: how many positions of each row are no padding; each row ends with the output.
            attention_mask: 0 where no token may attend, prefix included; without it every token counts.

        Returns:
            float32, in nats, on the model's device.
        """
        import torch

        n_rows, width = next(iter(inputs.values())).shape[:2]
        start = self.prefix_length()
        reads = torch.tensor(lengths)[:, None] - self._read + torch.arange(len(self._targets))
        arguments: dict[str, Any] = dict(inputs)
        if self.takes_positions:
            positions = torch.arange(start, start + width, device=self.model.device)
            arguments["position_ids"] = positions.expand(n_rows, -1)
        if attention_mask is not None:
            arguments["attention_mask"] = attention_mask.to(self.model.device)
        if self._cache is not None:
            arguments["past_key_values"] = copy.deepcopy(self._cache)
            arguments["past_key_values"].batch_repeat_interleave(n_rows)
        with evaluating(self.model.model), _reading_only(self.model, reads):
            logits = self.model.model(**arguments, use_cache=self._cache is not None).logits
        self.tokens_processed += n_rows * width
        return torch.stack([_log_probs(row, self._targets) for row in logits])

    def embedded(self, ids: Int[Tensor, "rows n"], scale: Float[Tensor, "rows n"]) -> dict[str, Tensor]:
        """Input embeddings of `ids`, each multiplied by its factor."""
        embeddings = self.model.model.get_input_embeddings()(ids.to(self.model.device)).detach()
        return {"inputs_embeds": embeddings * scale.to(embeddings)[:, :, None]}

    def attentions(self, ids: Int[Tensor, "n"]) -> list[Float[Tensor, "heads out n"]]:
        """Attention weights of each layer, from the positions that predict the target; one forward, no prefix cache.

        transformers puts recording hooks of its own on a model that is asked for attentions the first time; they
        stay, and do nothing until asked again.

        Raises:
            ScoringError: the model does not give its attention weights.
        """
        import torch

        model = self.model.model
        reads = len(ids) - self._read + torch.arange(len(self._targets))
        inputs = {"input_ids": ids[None].to(self.model.device)}
        with torch.no_grad(), evaluating(model), _eager_attention(model), _reading_only(self.model, reads[None]):
            layers = model(**inputs, output_attentions=True, use_cache=False).attentions
        self.tokens_processed += len(ids)
        if not layers or any(layer is None for layer in layers):
            raise ScoringError(f"'{self.model.id}' does not give its attention weights; choose another method")
        return [layer[0, :, reads.to(layer.device)].float().cpu() for layer in layers]

    def in_batches(
        self, rows: Sequence[int], length: int, work: Callable[[list[int]], Any]
    ) -> Iterator[tuple[list[int], Any]]:
        """Do work on rows of at most `length` tokens, many at once; halve the batch when memory runs out.

        Raises:
            ScoringError: memory does not suffice for one row.
        """
        done = 0
        while done < len(rows):
            batch = list(rows[done : done + self._rows_per_batch(length)])
            try:
                result = work(batch)
            except RuntimeError as error:
                if not _out_of_memory(error):
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

    def _rows_per_batch(self, length: int) -> int:
        if self._batch_size is not None:
            return self._batch_size
        kind = "cuda" if self.model.device.type == "cuda" else "cpu"
        vocabulary = self.model.model.config.get_text_config().vocab_size
        by_logits = _BATCH_LOGIT_BYTES[kind] // (4 * vocabulary * len(self._targets))
        return max(1, min(_BATCH_TOKENS[kind] // max(1, length), by_logits))


@contextmanager
def _reading_only(model: LanguageModel, reads: Int[Tensor, "rows out"]) -> Iterator[None]:
    """Let the language-model head see only the given positions of each row, for the time of a block."""
    import torch

    head = model.model.get_output_embeddings()
    if head is None:
        raise ModelError(f"'{model.id}' has no language-model head")

    def select(_module: object, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = arguments
        index = reads.to(hidden.device)
        return hidden[torch.arange(len(index), device=hidden.device)[:, None], index], *others

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """An attention implementation that returns its weights, for the time of a block."""
    implementation: Any = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        yield
    finally:
        model.set_attn_implementation(implementation)


def _log_probs(logits: Float[Tensor, "out vocab"], targets: Int[Tensor, "out"]) -> Float[Tensor, "out"]:
    """log softmax(logits)[target] in float32, without a second array of the vocabulary's size for each row."""
    precise = logits.float()
    return precise.gather(1, targets.to(logits.device)[:, None])[:, 0] - precise.logsumexp(dim=1)


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
