"""The seam between methods and models: what is explained, and what a scorer can be asked.

A `Scorer` gives log-probabilities of the target under keep masks, a few lines fake it in tests; others also look inside
the model, or know words. `model_scorer` has the one that asks a language model.

Sees units and masks; knows no model, and nothing of searching for a good mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jopa.prompt.repeated_tokens import RepeatedToken

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


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

    def gradient_norms(self) -> Float[Tensor, "units"]:
        """L2 norm of the derivative of Σ log p(y) by each unit's input embeddings, at the full prompt."""
        ...

    def attention_gradient(self, factors: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
        """Derivative of Σ log p(y) by log a, where a multiplies the attention paid to each unit, in nats."""
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


@runtime_checkable
class TextScorer(Scorer, Protocol):
    """A scorer that knows what the prompt and the answer say."""

    def repeated_tokens(self) -> list[RepeatedToken]:
        """The words that units and target share."""
        ...
