"""A language model as a scorer: log p(y | what is left of the prompt) under many keep masks at once, its gradients and
its attention.

`masking` removes units, `forward` runs the model.

Sees ids, units and masks; knows nothing of searching for a good mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from jopa.errors import ScoringError
from jopa.model.generation import GREEDY, Generation
from jopa.model.language_model import LanguageModel
from jopa.prompt.output import Output
from jopa.prompt.repeated_tokens import RepeatedToken, find_repeated_tokens
from jopa.scoring.batch_input import Runner, without_gradients
from jopa.scoring.context_forward import ContextForward
from jopa.scoring.masking import MaskedForward
from jopa.scoring.work import Work

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from jopa.prompt.building import Prompt

# A backward keeps every layer's activations, so its rows are counted as this many times longer.
_GRADIENT_ROW_COST = 2
# The most attention weights, of all layers and heads, that a gradient by them may keep; each takes some ten bytes.
_MAX_ATTENTION_WEIGHTS = {"cpu": 2**28, "cuda": 2**31}


class ModelScorer:
    """Scores keep masks of one prompt and output under one removal with a language model.

    Args:
        model: the language model.
        prompt: masks keep or remove its units.
        output: its target tokens are what is scored.
        removal: "delete", "zero" or "hide".
        batch_size: masks in one forward; by default the model's own setting. Halved when memory runs out.
        reuse_prefix: keep key-value caches: of everything before the first removable position, and of rows that others
            begin like.
        runner: runs the forwards under masks; by default each by itself, at once.

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
        runner: Runner | None = None,
    ) -> None:
        self.model = model
        self.prompt = prompt
        self.output = output
        self.removal = removal
        self.n_units = len(prompt.units)
        self._masked = MaskedForward(model, prompt, output.ids, output.target, removal, reuse_prefix, runner)
        self._forward = self._masked.forward
        if batch_size is not None:
            self._forward.limit_rows(batch_size)
        self._context: ContextForward | None = None

    @property
    def ffe(self) -> float:
        """Tokens processed so far (a backward counts 2), over template + prompt + output."""
        return self._forward.work.tokens / (len(self.prompt.ids) + len(self.output.ids))

    @property
    def work(self) -> Work:
        """What has been done so far: evaluations, forwards, tokens, padding and seconds by phase."""
        return self._forward.work

    @property
    def slow_paths(self) -> tuple[str, ...]:
        """One line for each fast path that was wanted and that this model cannot take."""
        return (*self._forward.slow_paths, *(self._context.slow_paths if self._context else ()))

    @cached_property
    def noise(self) -> float:
        """By how much the rounding of the model's dtype may change a score, in nats; 0 for float32 and better."""
        return self._masked.rounding()

    def _require_gradients(self) -> None:
        if not self._forward.probe.gradients:
            raise ScoringError(
                f"scores of '{self.model.id}' cannot be differentiated by its input embeddings; choose a method that "
                "needs scores alone"
            )

    def count(self, tokens: int) -> None:
        """Add model work that a method did past this scorer, in tokens processed (a backward counts 2)."""
        self._forward.count(tokens=tokens)

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
        start, end = self.output.target
        scores = self._masked.under_masks(keep, self._forward.log_probs, (end - start,))
        self._require_finite(scores, keep)
        return scores

    def log_distributions(self, keep: Bool[Tensor, "masks units"]) -> Float[Tensor, "masks out vocab"]:
        """Log-probability of every token of the vocabulary at each target position under each keep mask.

        Computed as `log_probs` computes those of the target tokens. The result itself takes
        4 × masks × out × vocabulary bytes: ask for few masks at once.

        Args:
            keep: one mask a row; True where the unit stays.

        Returns:
            float32, in nats, on the CPU; the exponentials of each row sum to 1.

        Raises:
            ScoringError: the model gives NaN or infinity for a target token, or memory does not suffice for one mask.
            PromptError: a mask leaves nothing to predict the output from.
        """
        import torch

        start, end = self.output.target
        vocabulary = self.model.model.config.get_text_config().vocab_size
        distributions = self._masked.under_masks(
            keep, lambda logits: logits.float().log_softmax(-1), (end - start, vocabulary)
        )
        targets = torch.tensor(self.output.ids[start:end]).expand(len(keep), -1)
        self._require_finite(distributions.gather(2, targets[:, :, None])[:, :, 0], keep)
        return distributions

    def _require_finite(self, scores: Float[Tensor, "masks out"], keep: Bool[Tensor, "masks units"]) -> None:
        finite = scores.isfinite().all(dim=1)
        if not finite.all():
            first_bad = int((~finite).nonzero()[0])
            strange = float(scores[first_bad][~scores[first_bad].isfinite()][0])
            removed = [i for i in range(self.n_units) if not keep[first_bad, i]]
            raise ScoringError(
                f"the model gives {strange} as a log-probability with units {removed} removed ({self.removal}); try "
                "dtype float32"
            )

    def mask_gradient(self, keep: Bool[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of Σ log p(y) by m at m = keep; see `relaxed_gradients`."""
        return self.relaxed_gradients(keep.float()[None])[1][0]

    def gradient_norms(self) -> Float[Tensor, "units"]:
        """L2 norm of ∂ Σ log p(y) / ∂ e over all input embeddings e of each unit, with nothing removed.

        Embeddings are what the model's embedding layer gives, at whatever scale that is. Costs what `mask_gradient`
        costs, one forward and one backward, and is a better guide to what removing a unit does. float32, on the CPU.

        Raises:
            ScoringError: a gradient is not finite, or memory does not suffice.
        """
        import torch

        self._require_gradients()
        start = self._forward.prefix().length
        ids, units = self._masked.ids[start:], self._masked.unit_of[start:]

        def differentiate(_batch: list[int]) -> Float[Tensor, "1 tokens"]:
            inputs = self._forward.embedded(ids[None], torch.ones(1, len(ids), dtype=torch.float32))
            embeddings = inputs["inputs_embeds"].requires_grad_()
            with torch.enable_grad():
                total = self._forward(inputs, [len(ids)]).sum()
                with self._forward.in_model():
                    (gradient,) = torch.autograd.grad(total, embeddings)
            self._forward.count_backward(len(ids))
            return gradient.float().square().sum(dim=2)

        squares = self._batched("gradients", [0], _GRADIENT_ROW_COST * len(ids), differentiate, (len(ids),))[0]
        if not squares.isfinite().all():
            raise ScoringError("the gradient of the log-probability is not finite; try dtype float32")
        return (
            torch.zeros(self.n_units, dtype=torch.float32).index_add(0, units[units >= 0], squares[units >= 0]).sqrt()
        )

    def attention_gradient(self, factors: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of Σ log p(y) by log a, where a multiplies the attention paid to each unit.

        That is what all later tokens pay to the unit's tokens, in every layer, before it is normalised: with 1 the
        prompt is as it is, with 0 the unit is hidden. Between the two the derivative says far better what removing a
        unit does than the derivative by its embeddings. One forward and one backward, whatever the removal.

        Args:
            factors: a of each unit, more than 0.

        Returns:
            float32, in nats, on the CPU.

        Raises:
            ScoringError: the model's attention takes no such factors, the gradient is not finite, or memory does not
                suffice.
        """
        import torch

        if not self._forward.scales_attention:
            raise ScoringError(f"attention of '{self.model.id}' cannot be made weaker; choose another method")
        n_tokens = len(self._masked.ids)
        config = self.model.model.config.get_text_config()
        n_weights = config.num_hidden_layers * config.num_attention_heads * n_tokens**2
        if n_weights > _MAX_ATTENTION_WEIGHTS[self._forward.kind]:
            raise ScoringError(f"{n_tokens} tokens are too many to keep the attention that each pays to each other")
        n_own = n_tokens - self._forward.prefix().length

        def differentiate(_batch: list[int]) -> Float[Tensor, "1 units"]:
            log_factors = factors.log().requires_grad_()
            with torch.enable_grad():
                total = self._masked.attention_scaled_log_probs(log_factors).sum()
                with self._forward.in_model():
                    (gradient,) = torch.autograd.grad(total, log_factors)
            self._forward.count_backward(n_own)
            return gradient[None]

        gradient = self._batched("gradients", [0], _GRADIENT_ROW_COST * n_own, differentiate, (self.n_units,))[0]
        if not gradient.isfinite().all():
            raise ScoringError("the gradient of the log-probability is not finite; try dtype float32")
        return gradient

    def relaxed_log_probs(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
        """Σ log p(y) where m scales the units' input embeddings (m ⊙ x, equation 3): one forward for each row.

        Args:
            factors: one fractional mask a row; 1 leaves a unit as it is, 0 removes it as removal "zero" does.

        Returns:
            float32, in nats, on the CPU.

        Raises:
            ScoringError: the model gives NaN or infinity, or memory does not suffice for one row.
        """

        def score(batch: list[int]) -> Float[Tensor, "rows 1"]:
            with without_gradients(self.model.model):
                return self._relaxed(factors[batch])[:, None]

        length = len(self._masked.ids) - self._forward.prefix().length
        log_probs = self._batched("scores", range(len(factors)), length, score, (1,))[:, 0]
        if not log_probs.isfinite().all():
            raise ScoringError("the model gives NaN or infinity with some embeddings scaled; try dtype float32")
        return log_probs

    def relaxed_gradients(
        self, factors: Float[Tensor, "rows units"]
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows units"]]:
        """`relaxed_log_probs` and their derivative by m: one forward and one backward for each row.

        Whatever the removal, gradients are those of the relaxation m ⊙ x.

        Args:
            factors: as for `relaxed_log_probs`.

        Returns:
            Log-probabilities and derivatives, float32, in nats, on the CPU.

        Raises:
            ScoringError: a gradient is not finite, or memory does not suffice for one row.
        """
        self._require_gradients()
        length = _GRADIENT_ROW_COST * (len(self._masked.ids) - self._forward.prefix().length)
        width = (1 + self.n_units,)
        both = self._batched("gradients", range(len(factors)), length, lambda i: self._differentiate(factors[i]), width)
        if not both.isfinite().all():
            raise ScoringError("the gradient of the log-probability is not finite; try dtype float32")
        return both[:, 0], both[:, 1:]

    def attention(self) -> Float[Tensor, "layers units"]:
        """Attention to each unit, averaged over heads and over the positions that predict the target tokens.

        Those are, for the whole output, the last token of the input (it predicts the first output token) and every
        output token but the last. A unit's attention is the sum over its tokens: float32, on the CPU.

        Raises:
            ScoringError: the model does not give its attention weights.
        """
        import torch

        with self._forward.timed("attention"):
            of_tokens = self._masked.attention(torch.ones(self.n_units, dtype=torch.bool))
        inside = self._masked.unit_of >= 0
        of_units = torch.zeros(len(of_tokens), self.n_units, dtype=torch.float32)
        return of_units.index_add(1, self._masked.unit_of[inside], of_tokens[:, inside])

    def token_attention(self, keep: Bool[Tensor, "units"]) -> list[Float[Tensor, "tokens"]]:
        """The same averaged over all layers, a row a unit for its tokens, with the other units deleted."""
        with self._forward.timed("attention"):
            weights = self._masked.attention(keep).mean(dim=0)
        return [weights[self._masked.visible(keep) & (self._masked.unit_of == i)] for i in range(self.n_units)]

    def replaced_log_probs(self, ids: Int[Tensor, "rows prompt_tokens"]) -> Float[Tensor, "rows out"]:
        """Log-probability of each target token after other prompts of the same number of tokens, in nats.

        Args:
            ids: whole inputs; the template before the first unit must be the prompt's own.

        Raises:
            ScoringError: the model gives NaN or infinity, or memory does not suffice for one row.
        """
        import torch

        prefix, n_prompt = self._forward.prefix().length, len(self.prompt.ids)
        assert ids.shape[1] == n_prompt
        assert bool((ids[:, :prefix] == self._masked.ids[:prefix]).all())
        rows = torch.cat([ids, self._masked.ids[n_prompt:].expand(len(ids), -1)], dim=1)[:, prefix:]

        def score(batch: list[int]) -> Float[Tensor, "rows out"]:
            with without_gradients(self.model.model):
                return self._forward({"input_ids": rows[batch].to(self.model.device)}, [rows.shape[1]] * len(batch))

        start, end = self.output.target
        scores = self._batched("scores", range(len(rows)), rows.shape[1], score, (end - start,))
        if not scores.isfinite().all():
            raise ScoringError("the model gives NaN or infinity with some tokens replaced; try dtype float32")
        return scores

    def approximation(self) -> ContextForward | None:
        """Scores with units hidden only from what follows the context; None where the model cannot do it."""
        self._context = self._context or ContextForward(self._masked)
        return self._context if self._context.offered else None

    def repeated_tokens(self) -> list[RepeatedToken]:
        """The words that units and target share; no model work."""
        start, end = self.output.target
        return find_repeated_tokens(self.prompt, self.output.ids[start:end], self.model.decode)

    def generate(
        self,
        keep: Bool[Tensor, "units"],
        generation: Generation = GREEDY,
        *,
        on_token: Callable[[int], None] | None = None,
        on_ids: Callable[[tuple[int, ...]], None] | None = None,
    ) -> tuple[int, ...]:
        """The ids that the model answers to the prompt under one mask; see `LanguageModel.generate`."""
        return self.model.generate(self.removed_inputs(keep), **vars(generation), on_token=on_token, on_ids=on_ids)

    def removed_inputs(self, keep: Bool[Tensor, "units"]) -> dict[str, Tensor]:
        """The prompt under one mask as keyword arguments of `LanguageModel.generate`."""
        return self._masked.removed_inputs(keep)

    def _differentiate(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows 1+units"]:
        """Σ log p(y) of each row, followed by its derivative by each unit's factor."""
        import torch

        factors = factors.clone().requires_grad_()
        with torch.enable_grad():
            totals = self._relaxed(factors)
            with self._forward.in_model():
                (gradients,) = torch.autograd.grad(totals.sum(), factors)
        self._forward.count_backward(len(factors) * (len(self._masked.ids) - self._forward.prefix().length))
        return torch.cat([totals.detach()[:, None].to(gradients), gradients], dim=1)

    def _relaxed(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
        """Σ log p(y) with the units' embeddings scaled, in one forward."""
        import torch

        positions = torch.arange(self._forward.prefix().length, len(self._masked.ids))
        units = self._masked.unit_of[positions]
        scale = torch.where(units >= 0, factors[:, units.clamp(min=0)], torch.ones((), dtype=torch.float32))
        ids = self._masked.ids[positions].expand(len(factors), -1)
        return self._forward(self._forward.embedded(ids, scale), [len(positions)] * len(factors)).sum(dim=1)

    def _batched(
        self,
        phase: str,
        rows: Sequence[int],
        length: int,
        work: Callable[[list[int]], Tensor],
        shape: tuple[int, ...],
    ) -> Float[Tensor, "rows ..."]:
        """What `work` gives for each row, `shape` numbers each, in batches, in the rows' own order, on the CPU."""
        import torch

        results = torch.empty(len(rows), *shape, dtype=torch.float32)
        with self._forward.timed(phase):
            for batch, result in self._forward.in_batches(rows, length, work):
                results[batch] = result.float().cpu()
        return results
