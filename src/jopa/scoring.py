"""Scores of keep masks: log p(y | what is left of the prompt), for many masks at once.

`ModelScorer` asks a language model. It turns masks into rows of a batch for `forward`, which caches everything before
the first removable position; batching, padding and caching change no score by more than rounding.

The three removals, for a prompt of n tokens:

    delete   the tokens are cut out; later tokens move up           (what a person editing the prompt does)
    zero     their input embeddings are multiplied by 0; positions stay           (the paper's m ⊙ x, equation 3)
    hide     attention mask 0, so that no token attends to them; positions stay

Sees ids, units and masks; knows nothing of searching for a good mask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jopa.errors import PromptError, ScoringError, SettingError
from jopa.forward import TargetForward
from jopa.model import LanguageModel

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from jopa.prompt import Prompt

REMOVALS = ("delete", "zero", "hide")

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

    def relaxed_log_probs(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
        """Σ log p(y) at fractional masks m, in nats."""
        ...

    def relaxed_gradients(
        self, factors: Float[Tensor, "rows units"]
    ) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows units"]]:
        """The same, and its derivative by m."""
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
        self.model = model
        self.prompt = prompt
        self.output = output
        self.removal = removal
        self.n_units = len(prompt.units)
        start, end = output.target
        n_prompt = len(prompt.ids)
        # The last target token predicts nothing that is asked for, so it never enters the model.
        self._ids = torch.tensor([*prompt.ids, *output.ids[: end - 1]])
        self._unit_of = torch.full((len(self._ids),), -1)
        for number, unit in enumerate(prompt.units):
            self._unit_of[list(unit.positions)] = number
        # The position that predicts y_1 must be computed with every mask, even when all units before it are deleted.
        first_unit = min(prompt.units[0].positions)
        tail = n_prompt - 1 > max(prompt.units[-1].positions)
        n_prefix = max(0, first_unit if tail else first_unit - 1) if reuse_prefix else 0
        targets = torch.tensor(output.ids[start:end])
        self._forward = TargetForward(model, self._ids[:n_prefix], targets, end - start, batch_size)
        if removal == "hide" and not self._forward.takes_positions:
            raise SettingError(
                f"'{model.id}' takes no position_ids, so removal 'hide' cannot leave positions unchanged"
            )

    @property
    def ffe(self) -> float:
        """Tokens processed so far (a backward counts 2), over template + prompt + output."""
        return self._forward.tokens_processed / (len(self.prompt.ids) + len(self.output.ids))

    def count(self, tokens: int) -> None:
        """Add model work that a method did past this scorer, in tokens processed (a backward counts 2)."""
        self._forward.tokens_processed += tokens

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
        rows = [self._kept_positions(mask) for mask in keep]
        # Rows of like length share a batch, so that little of it is padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = self._batched(
            order, max(map(len, rows), default=0), lambda i: self._score([rows[j] for j in i], keep[i])
        )
        finite = scores.isfinite().all(dim=1)
        if not finite.all():
            worst = int((~finite).nonzero()[0])
            strange = float(scores[worst][~scores[worst].isfinite()][0])
            removed = [i for i in range(self.n_units) if not keep[worst, i]]
            raise ScoringError(
                f"the model gives {strange} as a log-probability with units {removed} removed ({self.removal}); try "
                "dtype float32"
            )
        return scores

    def mask_gradient(self, keep: Bool[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of Σ log p(y) by m at m = keep; see `relaxed_gradients`."""
        return self.relaxed_gradients(keep.float()[None])[1][0]

    def relaxed_log_probs(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
        """Σ log p(y) where m scales the units' input embeddings (m ⊙ x, equation 3): one forward for each row.

        Args:
            factors: one fractional mask a row; 1 leaves a unit as it is, 0 removes it as removal "zero" does.

        Returns:
            float32, in nats, on the CPU.

        Raises:
            ScoringError: the model gives NaN or infinity, or memory does not suffice for one row.
        """
        import torch

        def score(batch: list[int]) -> Float[Tensor, "rows 1"]:
            with torch.no_grad():
                return self._relaxed(factors[batch])[:, None]

        length = len(self._ids) - self._forward.prefix_length()
        log_probs = self._batched(range(len(factors)), length, score, 1)[:, 0]
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
        length = _GRADIENT_MEMORY * (len(self._ids) - self._forward.prefix_length())
        both = self._batched(range(len(factors)), length, lambda i: self._differentiate(factors[i]), self.n_units + 1)
        if not both.isfinite().all():
            raise ScoringError("the gradient of the log-probability is not finite; try dtype float32")
        return both[:, 0], both[:, 1:]

    def attention(self) -> Float[Tensor, "layers units"]:
        """Attention to each unit, averaged over heads and over the positions that predict the target tokens.

        Those are, for the whole output, the last token of the input (it predicts the first output token) and every
        output token but the last. A unit's attention is the sum over its tokens.

        Returns:
            float32, on the CPU; each entry between 0 and 1.

        Raises:
            ScoringError: the model does not give its attention weights.
        """
        import torch

        of_tokens = torch.stack([layer.mean(dim=(0, 1)) for layer in self._forward.attentions(self._ids)])
        inside = self._unit_of >= 0
        of_units = torch.zeros(len(of_tokens), self.n_units)
        return of_units.index_add(1, self._unit_of[inside], of_tokens[:, inside])

    def replaced_log_probs(self, ids: Int[Tensor, "rows prompt_tokens"]) -> Float[Tensor, "rows out"]:
        """Log-probability of each target token after other prompts of the same number of tokens, in nats.

        Args:
            ids: whole inputs; the template before the first unit must be the prompt's own.

        Raises:
            ScoringError: the model gives NaN or infinity, or memory does not suffice for one row.
        """
        import torch

        prefix, n_prompt = self._forward.prefix_length(), len(self.prompt.ids)
        assert ids.shape[1] == n_prompt
        assert bool((ids[:, :prefix] == self._ids[:prefix]).all())
        rows = torch.cat([ids, self._ids[n_prompt:].expand(len(ids), -1)], dim=1)[:, prefix:]

        def score(batch: list[int]) -> Float[Tensor, "rows out"]:
            with torch.no_grad():
                return self._forward({"input_ids": rows[batch].to(self.model.device)}, [rows.shape[1]] * len(batch))

        scores = self._batched(range(len(rows)), rows.shape[1], score)
        if not scores.isfinite().all():
            raise ScoringError("the model gives NaN or infinity with some tokens replaced; try dtype float32")
        return scores

    def removed_inputs(self, keep: Bool[Tensor, "units"]) -> dict[str, Tensor]:
        """The prompt under one mask as keyword arguments of `LanguageModel.generate`."""
        import torch

        visible = self._visible(keep)[: len(self.prompt.ids)]
        ids = self._ids[: len(self.prompt.ids)]
        if self.removal == "delete":
            ids = ids[visible]
        if self.removal != "zero" and not visible.any():
            raise _nothing_left(keep)
        device = self.model.device
        inputs = {"input_ids": ids[None].to(device), "attention_mask": torch.ones_like(ids)[None].to(device)}
        if self.removal == "zero":
            inputs |= self._forward.embedded(inputs.pop("input_ids"), visible.float()[None])
        elif self.removal == "hide":
            inputs["attention_mask"] = visible.long()[None].to(device)
        if self._forward.takes_positions:
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
        positions = torch.arange(self._forward.prefix_length(), len(self._ids))
        return positions[visible[positions]] if self.removal == "delete" else positions

    def _score(self, rows: Sequence[Int[Tensor, "_"]], keep: Bool[Tensor, "rows units"]) -> Float[Tensor, "rows out"]:
        """Score masks in one forward, given the positions that each keeps."""
        import torch

        lengths = [len(row) for row in rows]
        ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = self._ids[row]
        visible = torch.stack([self._visible(mask) for mask in keep])
        inputs = {"input_ids": ids.to(self.model.device)}
        if self.removal == "zero":
            inputs = self._forward.embedded(ids, visible[:, self._forward.prefix_length() :].float())
        with torch.no_grad():
            return self._forward(inputs, lengths, visible.long() if self.removal == "hide" else None)

    def _differentiate(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows 1+units"]:
        """Σ log p(y) of each row, followed by its derivative by each unit's factor."""
        import torch

        factors = factors.clone().requires_grad_()
        with torch.enable_grad():
            totals = self._relaxed(factors)
            (gradients,) = torch.autograd.grad(totals.sum(), factors)
        self.count(2 * len(factors) * (len(self._ids) - self._forward.prefix_length()))
        return torch.cat([totals.detach()[:, None].to(gradients), gradients], dim=1)

    def _relaxed(self, factors: Float[Tensor, "rows units"]) -> Float[Tensor, "rows"]:
        """Σ log p(y) with the units' embeddings scaled, in one forward."""
        import torch

        positions = torch.arange(self._forward.prefix_length(), len(self._ids))
        units = self._unit_of[positions]
        scale = torch.where(units >= 0, factors[:, units.clamp(min=0)], torch.ones(()))
        ids = self._ids[positions].expand(len(factors), -1)
        return self._forward(self._forward.embedded(ids, scale), [len(positions)] * len(factors)).sum(dim=1)

    def _batched(
        self, rows: Sequence[int], length: int, work: Callable[[list[int]], Tensor], width: int | None = None
    ) -> Float[Tensor, "rows width"]:
        """What `work` gives for each row, computed in batches, in the rows' own order, on the CPU."""
        import torch

        start, end = self.output.target
        results = torch.empty(len(rows), end - start if width is None else width)
        for batch, result in self._forward.in_batches(rows, length, work):
            results[batch] = result.float().cpu()
        return results


def _nothing_left(keep: Bool[Tensor, "units"]) -> PromptError:
    return PromptError(
        f"with all {int((~keep).sum())} units removed nothing is left to predict the output from; remove fewer units, "
        "or use removal 'zero'"
    )
