"""Scores of keep masks: log p(y | what is left of the prompt), for many masks at once.

`ModelScorer` asks a language model. It batches masks, reuses the key-value cache of everything before the first
removable position, computes logits at the target positions only, and halves its batch when memory runs out. None of
this changes a score by more than rounding.

The three removals, for a prompt of n tokens:

    delete   the tokens are cut out; later tokens move up           (what a person editing the prompt does)
    zero     their input embeddings are multiplied by 0; positions stay           (the paper's m ⊙ x, equation 3)
    hide     attention mask 0, so that no token attends to them; positions stay

Sees ids, units and masks; knows nothing of searching for a good mask.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jopa.errors import ModelError, PromptError, ScoringError, SettingError
from jopa.model import LanguageModel, evaluating

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import Cache, PreTrainedModel

    from jopa.prompt import Prompt

REMOVALS = ("delete", "zero", "hide")

# A batch holds at most this many tokens and this many bytes of logits (in float32); found to be past the knee of the
# throughput curve on a 2-core CPU, and small against any GPU's memory.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 32768}
_BATCH_LOGIT_BYTES = {"cpu": 2**28, "cuda": 2**31}
# A backward keeps every layer's activations, so its rows are counted as this many times longer.
_GRADIENT_MEMORY = 4


@dataclass(frozen=True)
class Output:
    """The token ids to explain.

    Attributes:
        ids: what the model generated, or the caller's own text.
        text: the same as text.
        target: `[start, end)`, the tokens of `ids` whose probability counts.
    """

    ids: tuple[int, ...]
    text: str
    target: tuple[int, int]

    def __post_init__(self) -> None:
        start, end = self.target
        if not 0 <= start < end <= len(self.ids):
            raise SettingError(f"the target must lie within the output's {len(self.ids)} tokens, got {start}:{end}")


@runtime_checkable
class Scorer(Protocol):
    """The seam between methods and models; a few lines fake it in tests."""

    @property
    def n_units(self) -> int:
        """Number of removable units."""
        ...

    @property
    def ffe(self) -> float:
        """Model work so far, in full-forward equivalents."""
        ...

    def log_probs(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out"]:
        """Log-probability of each target token under each keep mask, in nats, float32 or better."""
        ...


@runtime_checkable
class WhiteBoxScorer(Scorer, Protocol):
    """A scorer that also looks inside: gradients of the relaxed mask, and attention."""

    def mask_gradient(self, keep: Bool[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of Σ log p(y) by each unit's factor m at `keep`, in nats."""
        ...

    def relaxed_gradients(
        self, factors: Float[Tensor, "rows units"]
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows units"]]:
        """Σ log p(y) and its derivative by m at fractional masks m, in nats."""
        ...

    def attention(self) -> Float[Tensor, "layers units"]:
        """Mean attention that the tokens which predict the target pay to each unit, layer by layer."""
        ...


class ModelScorer:
    """Scores keep masks of one prompt and output under one removal with a language model.

    Args:
        model: the language model.
        prompt: its units are what masks speak of.
        output: its target tokens are what is scored.
        removal: "delete", "zero" or "hide".
        batch_size: masks in one forward; by default as many as pay. Halved when memory runs out.
        reuse_prefix: keep the key-value cache of everything before the first removable position.

    Raises:
        SettingError: a setting is out of range, or the model cannot do this removal.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Prompt,
        output: Output,
        removal: str,
        *,
        batch_size: int | None = None,
        reuse_prefix: bool = True,
    ) -> None:
        import torch

        if removal not in REMOVALS:
            raise SettingError(f"unknown removal '{removal}': choose one of {', '.join(REMOVALS)}")
        if batch_size is not None and batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, got {batch_size}")
        self._takes_positions = "position_ids" in inspect.signature(model.model.forward).parameters
        if removal == "hide" and not self._takes_positions:
            raise SettingError(
                f"'{model.id}' takes no position_ids, so removal 'hide' cannot leave positions unchanged"
            )
        self.model = model
        self.prompt = prompt
        self.removal = removal
        self.n_units = len(prompt.units)
        self._batch_size = batch_size
        self._tokens_processed = 0
        start, end = output.target
        n_prompt = len(prompt.ids)
        # The last target token predicts nothing that is asked for, so it never enters the model.
        self._ids = torch.tensor([*prompt.ids, *output.ids[: end - 1]])
        self._targets = torch.tensor(output.ids[start:end])
        self._full_length = n_prompt + len(output.ids)
        self._unit_of = torch.full((len(self._ids),), -1)
        for number, unit in enumerate(prompt.units):
            self._unit_of[list(unit.positions)] = number
        self._first_read = n_prompt - 1 + start
        # The position that predicts y_1 must be computed with every mask, even when all units before it are deleted.
        first_unit = min(prompt.units[0].positions)
        tail = n_prompt - 1 > max(prompt.units[-1].positions)
        self._prefix_length = max(0, first_unit if tail else first_unit - 1) if reuse_prefix else 0
        self._prefix_cache: Cache | None = None

    @property
    def ffe(self) -> float:
        """Tokens processed so far (a backward counts 2), over template + prompt + output."""
        return self._tokens_processed / self._full_length

    def log_probs(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out"]:
        """Log-probability of each target token under each keep mask.

        Args:
            keep: one mask a row; True where the unit stays.

        Returns:
            float32, in nats, on the CPU.

        Raises:
            ScoringError: the model gives NaN or infinity, or memory does not suffice for one mask.
            PromptError: a mask leaves nothing to predict the output from.
        """
        import torch

        self._prepare_prefix()
        rows = [self._kept_positions(mask) for mask in keep]
        scores = torch.empty(len(rows), len(self._targets))
        # Rows of like length share a batch, so that little of it is padding.
        for batch, score in self._in_batches(
            sorted(range(len(rows)), key=lambda i: len(rows[i])),
            max(map(len, rows), default=0),
            lambda batch: self._score([rows[i] for i in batch], keep[batch]),
        ):
            scores[batch] = score
        finite = scores.isfinite().all(dim=1)
        if not finite.all():
            worst = int((~finite).nonzero()[0])
            removed = [i for i in range(self.n_units) if not keep[worst, i]]
            raise ScoringError(
                f"the model gives {_first_strange(scores[worst])} as a log-probability with units {removed} removed "
                f"({self.removal}); try dtype float32"
            )
        return scores

    def mask_gradient(self, keep: Bool[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of Σ log p(y) by m at m = keep; see `relaxed_gradients`."""
        return self.relaxed_gradients(keep.float()[None])[1][0]

    def relaxed_gradients(
        self, factors: Float[Tensor, "rows units"]
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows units"]]:
        """Σ log p(y) and its derivative by m, where m scales the units' input embeddings (m ⊙ x, equation 3).

        Whatever the removal, this is the relaxation: one forward and one backward for each row.

        Args:
            factors: one fractional mask a row; 1 leaves a unit as it is, 0 removes it as removal "zero" does.

        Returns:
            Log-probabilities and derivatives, float32, in nats, on the CPU.

        Raises:
            ScoringError: a gradient is not finite, or memory does not suffice for one row.
        """
        import torch

        self._prepare_prefix()
        log_probs, gradients = torch.empty(len(factors)), torch.empty(len(factors), self.n_units)
        n_tokens = len(self._ids) - self._prefix_length
        for batch, (log_prob, gradient) in self._in_batches(
            range(len(factors)), n_tokens * _GRADIENT_MEMORY, lambda batch: self._differentiate(factors[batch])
        ):
            log_probs[batch], gradients[batch] = log_prob, gradient
        if not gradients.isfinite().all():
            raise ScoringError("the gradient of the log-probability is not finite; try dtype float32")
        return log_probs, gradients

    def _differentiate(
        self, factors: Float[Tensor, "rows units"]
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows units"]]:
        import torch

        factors = factors.clone().requires_grad_()
        positions = torch.arange(self._prefix_length, len(self._ids))
        units = self._unit_of[positions]
        scale = torch.where(units >= 0, factors[:, units.clamp(min=0)], torch.ones(()))
        ids, rows = self._ids[positions].expand(len(factors), -1), positions.expand(len(factors), -1)
        with evaluating(self.model.model), torch.enable_grad():
            logits = self._target_logits(self._embedded(ids, scale), rows, None, [len(positions)] * len(factors))
            totals = torch.stack([_log_probs(row, self._targets).sum() for row in logits])
            (gradients,) = torch.autograd.grad(totals.sum(), factors)
        self._tokens_processed += 2 * rows.numel()
        return totals.detach().cpu(), gradients

    def attention(self) -> Float[Tensor, "layers units"]:
        """Attention to each unit, averaged over heads and over the positions that predict the target tokens.

        Those are the last token of the input (it predicts the first output token) and every output token but the
        last. A unit's attention is the sum over its tokens. One forward without the prefix cache.

        Returns:
            float32, on the CPU; each entry between 0 and 1.

        Raises:
            ScoringError: the model does not give its attention weights.
        """
        import torch

        model = self.model.model
        reads = torch.arange(self._first_read, len(self._ids))
        with torch.no_grad(), evaluating(model), _eager_attention(model), _reading_only(self.model, reads[None]):
            layers = model(
                input_ids=self._ids[None].to(self.model.device), output_attentions=True, use_cache=False
            ).attentions
        self._tokens_processed += len(self._ids)
        if not layers or any(layer is None for layer in layers):
            raise ScoringError(f"'{self.model.id}' does not give its attention weights; choose another method")
        of_tokens = torch.stack(
            [layer[0, :, reads.to(layer.device)].float().mean(dim=(0, 1)).cpu() for layer in layers]
        )
        of_units = torch.zeros(len(layers), self.n_units)
        inside = self._unit_of >= 0
        return of_units.index_add(1, self._unit_of[inside], of_tokens[:, inside])

    def replaced_log_probs(self, ids: Int[Tensor, "rows prompt_tokens"]) -> Float[Tensor, "rows out"]:
        """Log-probability of each target token after other prompts of the same number of tokens, in nats.

        Args:
            ids: whole inputs, template included; the template before the first unit must be the prompt's own.
        """
        import torch

        self._prepare_prefix()
        n_prompt = len(self.prompt.ids)
        assert ids.shape[1] == n_prompt and bool(
            (ids[:, : self._prefix_length] == self._ids[: self._prefix_length]).all()
        )
        rows = torch.cat([ids, self._ids[n_prompt:].expand(len(ids), -1)], dim=1)[:, self._prefix_length :]
        positions = torch.arange(self._prefix_length, len(self._ids))
        scores = torch.empty(len(rows), len(self._targets))

        def score(batch: Sequence[int]) -> Float[Tensor, "rows out"]:
            inputs = {"input_ids": rows[list(batch)].to(self.model.device)}
            with torch.no_grad(), evaluating(self.model.model):
                logits = self._target_logits(
                    inputs, positions.expand(len(batch), -1), None, [len(positions)] * len(batch)
                )
                return torch.stack([_log_probs(row, self._targets).cpu() for row in logits])

        for batch, log_probs in self._in_batches(range(len(rows)), len(positions), score):
            scores[batch] = log_probs
        return scores

    def _in_batches(
        self, rows: Sequence[int], length: int, work: Callable[[list[int]], Any]
    ) -> Iterator[tuple[list[int], Any]]:
        """Do work on rows of at most `length` tokens, many at once; halve the batch when memory runs out."""
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
                        f"out of memory with one input of {len(self._ids)} tokens; use a smaller model or dtype, a "
                        "shorter prompt or fewer output tokens"
                    ) from error
                self._batch_size = len(batch) // 2
                continue
            yield batch, result
            done += len(batch)

    def removed_inputs(self, keep: Bool[Tensor, "units"]) -> dict[str, Tensor]:
        """The prompt under one mask as keyword arguments of `LanguageModel.generate`."""
        import torch

        n_prompt = len(self.prompt.ids)
        visible = self._visible(keep)[:n_prompt]
        device = self.model.device
        ids = self._ids[:n_prompt]
        if self.removal == "delete":
            ids = ids[visible]
        if len(ids) == 0 or (self.removal == "hide" and not visible.any()):
            raise _nothing_left(keep)
        inputs = {"input_ids": ids[None].to(device), "attention_mask": torch.ones_like(ids)[None].to(device)}
        if self.removal == "zero":
            inputs |= self._embedded(inputs.pop("input_ids"), visible.float()[None])
        elif self.removal == "hide":
            inputs["attention_mask"] = visible.long()[None].to(device)
        if self._takes_positions:
            inputs["position_ids"] = torch.arange(len(ids), device=device)[None]
        return inputs

    def _visible(self, keep: Bool[Tensor, "units"]) -> Bool[Tensor, "tokens"]:
        """Which tokens of the input stay: the template, the output, and the units of `keep`."""
        return (self._unit_of < 0) | keep[self._unit_of.clamp(min=0)]

    def _kept_positions(self, keep: Bool[Tensor, "units"]) -> Int[Tensor, "positions"]:
        """The positions that enter the model behind the cached prefix."""
        import torch

        visible = self._visible(keep)
        if self.removal != "zero" and not visible[: len(self.prompt.ids)].any():
            raise _nothing_left(keep)
        if self.removal == "delete":
            visible[: self._prefix_length] = False
            return visible.nonzero()[:, 0]
        return torch.arange(self._prefix_length, len(self._ids))

    def _rows_per_batch(self, length: int) -> int:
        """How many masks of at most `length` tokens go into one forward."""
        if self._batch_size is not None:
            return self._batch_size
        kind = "cuda" if self.model.device.type == "cuda" else "cpu"
        vocabulary = self.model.model.config.get_text_config().vocab_size
        by_logits = _BATCH_LOGIT_BYTES[kind] // (4 * vocabulary * len(self._targets))
        return max(1, min(_BATCH_TOKENS[kind] // max(1, length), by_logits))

    def _score(self, rows: Sequence[Int[Tensor, "_"]], keep: Bool[Tensor, "rows units"]) -> Float[Tensor, "rows out"]:
        """Score masks in one forward; shorter rows are padded at the right, where causality hides the padding."""
        import torch

        lengths = [len(row) for row in rows]
        ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = self._ids[row]
        positions = self._prefix_length + torch.arange(max(lengths)).expand(len(rows), -1)
        visible = torch.stack([self._visible(mask) for mask in keep])
        with torch.no_grad(), evaluating(self.model.model):
            inputs = {"input_ids": ids.to(self.model.device)}
            if self.removal == "zero":
                inputs = self._embedded(ids, visible[:, self._prefix_length :].float())
            logits = self._target_logits(inputs, positions, visible.long() if self.removal == "hide" else None, lengths)
            return torch.stack([_log_probs(row, self._targets).cpu() for row in logits])

    def _embedded(self, ids: Int[Tensor, "rows n"], scale: Float[Tensor, "rows n"]) -> dict[str, Tensor]:
        """Input embeddings of `ids`, each multiplied by its factor."""
        embeddings = self.model.model.get_input_embeddings()(ids.to(self.model.device)).detach()
        return {"inputs_embeds": embeddings * scale.to(embeddings)[:, :, None]}

    def _target_logits(
        self,
        inputs: dict[str, Tensor],
        positions: Int[Tensor, "rows n"],
        attention_mask: Int[Tensor, "rows all"] | None,
        lengths: Sequence[int],
    ) -> Float[Tensor, "rows out vocab"]:
        """One forward behind the cached prefix; logits where the target tokens are predicted."""
        import torch

        n_rows, device = len(lengths), self.model.device
        # Every row ends with the output, so the target's logits sit at the same distance from its end.
        behind = torch.arange(self._first_read, len(self._ids)) - len(self._ids)
        reads = torch.tensor(lengths)[:, None] + behind
        arguments: dict[str, Any] = dict(inputs)
        if self._takes_positions:
            arguments["position_ids"] = positions.to(device)
        if attention_mask is not None:
            arguments["attention_mask"] = attention_mask.to(device)
        if self._prefix_cache is not None:
            cache = copy.deepcopy(self._prefix_cache)
            cache.batch_repeat_interleave(n_rows)
            arguments["past_key_values"] = cache
        with _reading_only(self.model, reads):
            logits = self.model.model(**arguments, use_cache=self._prefix_cache is not None).logits
        self._tokens_processed += n_rows * positions.shape[1]
        return logits

    def _prepare_prefix(self) -> None:
        """Compute the key-value cache of the prefix, once; a model that has none goes without."""
        import torch

        if self._prefix_cache is not None or self._prefix_length == 0:
            return
        ids = self._ids[None, : self._prefix_length].to(self.model.device)
        last = torch.tensor([[self._prefix_length - 1]])
        with torch.no_grad(), evaluating(self.model.model), _reading_only(self.model, last):
            self._prefix_cache = self.model.model(input_ids=ids, use_cache=True).past_key_values
        self._tokens_processed += self._prefix_length
        if self._prefix_cache is None:
            self._prefix_length = 0


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


def _nothing_left(keep: Bool[Tensor, "units"]) -> PromptError:
    return PromptError(
        f"with all {int((~keep).sum())} units removed nothing is left to predict the output from; remove fewer units, "
        "or use removal 'zero'"
    )


def _first_strange(scores: Float[Tensor, "out"]) -> float:
    return float(scores[~scores.isfinite()][0])


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
