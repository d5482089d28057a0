"""Which sources each sentence of an answer depends on, and the JSON form.

    PR          exp((log p(sentence | something removed) − log p(sentence | everything)) / tokens of the sentence);
                1 = nothing changed
    necessity   PR without the sources: how little is left of the sentence. Low = it needs them
    sufficiency PR with the sources alone, of all source units. About 1 = they are enough

    cited       the sources bring PR below the value that was asked for, and none of them can be left out
    spread      without all source units PR falls below the value, but no set within the limit was found that does it
    elsewhere   not from the documents: no set within the limit that was tried brings PR below the value, and all of
                them together do not either

Knows values alone: no scorer, tokenizer or model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from jopa.choices import Removal
from jopa.evaluation.metrics import probability_ratio
from jopa.json_values import Record, converted, plain
from jopa.prompt.answer_parts import Part
from jopa.prompt.building import Source, Unit
from jopa.prompt.fixed_parts import FixedPart
from jopa.prompt.records import Cost, Count, OutputRecord, Positive, PromptRecord, result_fields
from jopa.results.result import Result, printable, require_readable

SCHEMA = 1
Status = Literal["cited", "spread", "elsewhere"]
Proof = Literal["smallest", "minimal", "none"]
"""What is proved of a set: no smaller set brings PR below the value; it does, and no unit can be left out; nothing."""


@dataclass(frozen=True)
class Citation:
    """The sources of one sentence of the answer.

    Log-probabilities are of the sentence, in nats, summed over its tokens.

    Attributes:
        part: the sentence.
        sources: indices of units, the one with the largest effect of its own first; none where the sentence is not
            from the documents.
        proof: "smallest" (no smaller set does it), "minimal" (no unit can be left out) or "none".
        log_prob: with everything in place.
        log_prob_dropped: without the sources.
        log_prob_kept: with the sources alone, of all source units.
        log_prob_none: without all source units.
        alone_dropped: without each source alone.
        alone_kept: with each source alone, of all source units.
    """

    part: Part
    sources: tuple[int, ...]
    proof: Proof
    log_prob: float
    log_prob_dropped: float
    log_prob_kept: float
    log_prob_none: float
    alone_dropped: tuple[float, ...]
    alone_kept: tuple[float, ...]

    def ratio(self, log_prob: float) -> float:
        """PR of the sentence's log-probability under some removal."""
        return probability_ratio(self.log_prob, log_prob, self.part.end - self.part.start)

    @property
    def status(self) -> Status:
        """ "cited", "spread" or "elsewhere"; see the module's docstring."""
        if self.proof != "none":
            return "cited"
        return "spread" if self.sources else "elsewhere"

    @property
    def necessity(self) -> float:
        """PR without the sources."""
        return self.ratio(self.log_prob_dropped)

    @property
    def sufficiency(self) -> float:
        """PR with the sources alone, of all source units."""
        return self.ratio(self.log_prob_kept)

    @property
    def without_documents(self) -> float:
        """PR without all source units."""
        return self.ratio(self.log_prob_none)

    @property
    def stand_in(self) -> bool:
        """Whether sources are redundant: together they do much more than the sum of what each does alone."""
        joint = self.log_prob - self.log_prob_dropped
        return len(self.sources) > 1 and 2 * sum(self.log_prob - alone for alone in self.alone_dropped) < joint


@dataclass(frozen=True)
class Citations(Result):
    """The sources of every sentence of an answer.

    Attributes:
        model: id, revision, dtype and device of the model.
        prompt: the text of the documents.
        input_ids: the model's whole input, template included.
        units: the source units, by default sentences.
        documents: the documents that they are of.
        output: the answer's text.
        output_ids: its token ids.
        target: `[start, end)` of `output_ids`, the tokens that count.
        citations: one a sentence of the answer, in reading order.
        removal: how units were removed: "delete", "zero" or "hide".
        below: what PR had to fall below.
        max_sources: the most units that a sentence could be cited from.
        seed: of the generation.
        evaluations: masks scored.
        ffe: model work in full-forward equivalents.
        seconds: wall-clock time of the scoring.
        versions: of jopa and its main dependencies.
        details: further facts of prompt and scorer.
        fixed: what stayed in place beside the documents: the question, system message, other turns.
        rendered: the model's whole input as text; empty where it is not recorded.
    """

    _noun = "citations"

    model: dict[str, str | None]
    prompt: str
    input_ids: tuple[int, ...]
    units: tuple[Unit, ...]
    documents: tuple[Source, ...]
    output: str
    output_ids: tuple[int, ...]
    target: tuple[int, int]
    citations: tuple[Citation, ...]
    removal: Removal
    below: float
    max_sources: int
    seed: int
    evaluations: int
    ffe: float
    seconds: float
    versions: dict[str, str]
    details: dict[str, Any]
    fixed: tuple[FixedPart, ...] = ()
    rendered: str = ""

    @property
    def cited(self) -> tuple[int, ...]:
        """Indices of the units that any sentence is cited from or spread over, in reading order."""
        return tuple(sorted({unit for citation in self.citations for unit in citation.sources}))

    def sentences_of(self, unit: int) -> tuple[int, ...]:
        """The sentences of the answer that have a unit among their sources."""
        return tuple(i for i, citation in enumerate(self.citations) if unit in citation.sources)

    def to_dict(self) -> dict[str, Any]:
        """The citations as JSON holds them (schema 1); indices are those of `units`."""
        prompt = PromptRecord(self.prompt, self.input_ids, self.units, self.fixed, self.rendered, self.documents)
        return {
            "schema": SCHEMA,
            "kind": "citations",
            "model": self.model,
            "prompt": plain(prompt),
            "output": {"text": self.output, "ids": list(self.output_ids), "target": list(self.target)},
            "citations": [
                {
                    **asdict(citation),
                    "status": citation.status,
                    "documents": [self.units[i].document for i in citation.sources],
                    "necessity": citation.necessity,
                    "sufficiency": citation.sufficiency,
                    "without_documents": citation.without_documents,
                    "stand_in": citation.stand_in,
                }
                for citation in self.citations
            ],
            "removal": self.removal,
            "below": self.below,
            "max_sources": self.max_sources,
            "seed": self.seed,
            "evaluations": self.evaluations,
            "ffe": self.ffe,
            "seconds": self.seconds,
            "versions": self.versions,
            "details": self.details,
        }

    @classmethod
    def from_dict(cls, record: Record) -> Citations:
        """Rebuild citations from `to_dict`'s form; what follows from the other fields is computed again."""
        require_readable(record, SCHEMA, "these citations")
        form = converted(record, _CitationsRecord, "these citations")
        flat = {name: getattr(form, name) for name in form.__struct_fields__}
        prompt, output = flat.pop("prompt"), flat.pop("output")
        del flat["kind"], flat["schema"]
        return cls(**result_fields(prompt, output), documents=prompt.sources, **flat)

    def __repr__(self) -> str:
        n = {name: sum(c.status == name for c in self.citations) for name in ("cited", "spread", "elsewhere")}
        return (
            f"<Citations: of {len(self.citations)} sentences {n['cited']} cited, {n['spread']} spread over many "
            f"sources, {n['elsewhere']} not from the documents; {printable(self.model.get('id'))}>"
        )


class _CitationsRecord(Struct, frozen=True, kw_only=True):
    """What is read of the JSON form, with the types and ranges that are checked."""

    schema: int
    kind: Literal["citations"]
    model: dict[str, str | None]
    prompt: PromptRecord
    output: OutputRecord
    citations: tuple[Citation, ...]
    removal: Removal
    below: Annotated[float, Meta(gt=0, le=1)]
    max_sources: Positive
    seed: int
    evaluations: Count
    ffe: Cost
    seconds: Cost
    versions: dict[str, str]
    details: dict[str, Any]

    def __post_init__(self) -> None:
        for number, citation in enumerate(self.citations):
            n, units = len(citation.sources), set(citation.sources)
            if len(units) < n or not units <= set(range(len(self.prompt.units))):
                raise ValueError(f"'sources' of citation {number} must be different units of the prompt")
            if len(citation.alone_dropped) != n or len(citation.alone_kept) != n:
                raise ValueError(f"citation {number} must have {n} numbers for its {n} sources")
            if not 0 <= citation.part.start < citation.part.end <= len(self.output.ids):
                raise ValueError(f"citation {number} lies outside the output's {len(self.output.ids)} tokens")
