"""Two prompts explained with the same options: what the change of the prompt changed, and its JSON form."""

from __future__ import annotations

from dataclasses import dataclass

from jopa.errors import InputFileError
from jopa.json_values import Record
from jopa.results.attribution import Attribution
from jopa.results.result import Result, require_readable

SCHEMA = 1


@dataclass(frozen=True)
class PromptComparison(Result):
    """Two prompts explained with the same options: what the change of the prompt changed.

    Attributes:
        first: the attribution of the prompt to compare with.
        second: that of the other prompt.
    """

    _noun = "comparison of two prompts"

    first: Attribution
    second: Attribution

    @property
    def same_output(self) -> bool:
        """Whether the model gave the same answer to both."""
        return self.first.output == self.second.output

    @property
    def in_both(self) -> tuple[str, ...]:
        """Texts of units that were found for both prompts, without the blanks around them."""
        return tuple(text for text in _texts(self.first) if text in _texts(self.second))

    @property
    def only_first(self) -> tuple[str, ...]:
        """Texts of units that were found for the first prompt only."""
        return tuple(text for text in _texts(self.first) if text not in _texts(self.second))

    @property
    def only_second(self) -> tuple[str, ...]:
        """Texts of units that were found for the second prompt only."""
        return tuple(text for text in _texts(self.second) if text not in _texts(self.first))

    def to_dict(self) -> Record:
        """Both attributions, and what follows from them, as JSON holds them (schema 1)."""
        return {
            "schema": SCHEMA,
            "kind": "prompts",
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "same_output": self.same_output,
            "in_both": list(self.in_both),
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
        }

    @classmethod
    def from_dict(cls, record: Record) -> PromptComparison:
        """Rebuild a comparison from `to_dict`'s form; see `Result.from_dict`."""
        require_readable(record, SCHEMA, "this comparison of two prompts")
        if not isinstance(first := record.get("first"), dict) or not isinstance(second := record.get("second"), dict):
            raise InputFileError("this JSON is no comparison of two prompts: it lacks 'first' or 'second'")
        return cls(Attribution.from_dict(first), Attribution.from_dict(second))

    def __repr__(self) -> str:
        answers = "the same answer" if self.same_output else "different answers"
        return (
            f"<PromptComparison: {answers}, {len(self.in_both)} units found for both, {len(self.only_first)} only for "
            f"the first, {len(self.only_second)} only for the second>"
        )


def _texts(attribution: Attribution) -> tuple[str, ...]:
    """The texts of the chosen units without the blanks around them, each once."""
    return tuple(dict.fromkeys(unit.text.strip() or unit.text for unit in attribution.chosen))
