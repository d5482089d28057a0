"""Citations for people: what there is to show, and one HTML page (or a piece of a notebook or page) that shows it.

A sentence of the answer that has the pointer or the keyboard's focus lights up its sources, and a source its sentences:
by style sheets alone, without a script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jopa.reports.in_place import in_place
from jopa.reports.sources import SHOWN_WORDS
from jopa.reports.wording import REMOVAL_WORDS, Piece, environment, glossary_of, made_with, nats, ratio_text, unit_name

if TYPE_CHECKING:
    from jopa.citation.result import Citation, Citations

STATUS_WORDS = {
    "cited": "from the documents",
    "spread": "from the documents, spread over more than {n} sources",
    "elsewhere": "not from the documents",
}
PROOF_WORDS = {
    "smallest": "no smaller set of sources does it",
    "minimal": "none of these can be left out; a smaller set of others was not ruled out",
    "none": "",
}
_QUOTED = 160
"""Characters of a source in a table."""


class ShownDocument(NamedTuple):
    """A document: its heading, and its text in pieces, each with the index of its unit (−1 for none)."""

    heading: str
    pieces: list[tuple[str, int]]
    cited: bool


def citations_html(
    citations: Citations, *, standalone: bool = True, styled: bool = True, title: str | None = None
) -> str:
    """Citations as a web page that needs nothing but itself, or as a fragment.

    Args:
        citations: what to show.
        standalone: a whole page; otherwise a fragment for notebooks and other pages.
        styled: with the style that all reports share; False for a fragment on a page that has it.
        title: the page's heading; by default the page has no other than its question.
    """
    c, shown = citations, citations_verdict(citations)
    return (
        environment()
        .get_template("citations.html.j2")
        .render(
            standalone=standalone,
            styled=styled,
            title=title or "".join(piece.text for piece in shown),
            heading=title,
            verdict=shown,
            c=c,
            numbers=source_numbers(c),
            answer=answer_pieces(c),
            documents=shown_documents(c),
            sentences=c.sentences_of,
            pairs=_pairs(c),
            rows=citation_rows(c),
            status=[status_of(c, citation) for citation in c.citations],
            in_place=in_place(c),
            facts=citations_facts(c),
        )
    )


def source_numbers(citations: Citations) -> dict[int, int]:
    """The number that each cited unit is called by, in reading order from 1."""
    return {unit: number for number, unit in enumerate(citations.cited, start=1)}


def _pairs(citations: Citations) -> list[tuple[int, list[int]]]:
    """The number of each sentence that has sources, and their numbers."""
    numbers = source_numbers(citations)
    return [(i, [numbers[u] for u in each.sources]) for i, each in enumerate(citations.citations, 1) if each.sources]


def status_of(citations: Citations, citation: Citation) -> str:
    """Where a sentence is from, in a few words."""
    return STATUS_WORDS[citation.status].format(n=citations.max_sources)


def citations_verdict(citations: Citations) -> list[Piece]:
    """What was found, in a few sentences; numbers of sentences have mark 2."""
    c, n = citations, len(citations.citations)
    count = {name: sum(each.status == name for each in c.citations) for name in STATUS_WORDS}
    n_documents = len({c.units[i].document for each in c.citations if each.status == "cited" for i in each.sources})
    endings = {
        "cited": f" cited from {n_documents} of the {len(c.documents)} documents",
        "spread": " " + STATUS_WORDS["spread"].format(n=c.max_sources),
        "elsewhere": " not from the documents",
    }
    if n == 1:
        return [Piece("The answer is"), Piece(endings[c.citations[0].status], 2), Piece(".")]
    pieces = [Piece(f"Of the {n} sentences of the answer ")]
    for name in (name for name in STATUS_WORDS if count[name]):
        gap = ", " if len(pieces) > 1 else ""
        pieces += [Piece(gap), Piece(str(count[name]), 2)]
        pieces.append(Piece((" is" if count[name] == 1 else " are") + endings[name]))
    return [piece for piece in [*pieces, Piece(".")] if piece.text]


def answer_pieces(citations: Citations) -> list[tuple[str, int]]:
    """The answer's text in pieces, each with the index of its sentence, −1 for text between them."""
    pieces, done = [], 0
    for number, citation in enumerate(citations.citations):
        start = citations.output.find(citation.part.text, done)
        if start < 0:  # the text was given, and its tokens spell it in another way
            pieces.append((citation.part.text + " ", number))
            continue
        end = start + len(citation.part.text)
        pieces += [(citations.output[done:start], -1), (citations.output[start:end], number)]
        done = end
    return [piece for piece in [*pieces, (citations.output[done:], -1)] if piece[0]]


def shown_documents(citations: Citations) -> list[ShownDocument]:
    """The documents, those with a cited unit first, each in reading order."""
    c, shown = citations, []
    for source in c.documents:
        pieces, done = [], source.start
        for i, unit in enumerate(c.units):
            if source.start <= unit.start < source.end:
                pieces += [(c.prompt[done : unit.start], -1), (c.prompt[unit.start : unit.end], i)]
                done = unit.end
        pieces = [piece for piece in [*pieces, (c.prompt[done : source.end], -1)] if piece[0]]
        heading = f"{source.document}: {source.title}" if source.title else f"{source.document}"
        shown.append(ShownDocument(heading, pieces, any(i in c.cited for _, i in pieces)))
    return sorted(shown, key=lambda document: not document.cited)


def citation_rows(citations: Citations) -> list[tuple[str, list[str], list[str], str]]:
    """For each sentence its text, its sources, its PR without them, with them alone and without all, and its status."""
    c, numbers, rows = citations, source_numbers(citations), []
    for citation in c.citations:
        sources = [
            f"[{numbers[i]}] {c.units[i].document}: {unit_name(c.units[i].text, _QUOTED)}"
            + (
                ""
                if len(citation.sources) == 1
                else f" (alone dropped {_pr(citation, dropped)}, kept {_pr(citation, kept)})"
            )
            for i, dropped, kept in zip(citation.sources, citation.alone_dropped, citation.alone_kept, strict=True)
        ]
        has = bool(citation.sources)
        values = [
            ratio_text(citation.necessity) if has else "–",
            ratio_text(citation.sufficiency) if has else "–",
            ratio_text(citation.without_documents),
        ]
        said = [status_of(c, citation), PROOF_WORDS[citation.proof] if citation.status == "cited" else ""]
        said.append("the sources are redundant: the sentence needs any one of them" if citation.stand_in else "")
        rows.append((citation.part.text, sources, values, "; ".join(words for words in said if words)))
    return rows


def _pr(citation: Citation, log_prob: float) -> str:
    return ratio_text(citation.ratio(log_prob))


def citations_facts(citations: Citations) -> list[tuple[str, str]]:
    """How the citations were made, as terms and plain words."""
    c = citations
    log_prob, none = (sum((getattr(each, name) for each in c.citations), 0.0) for name in ("log_prob", "log_prob_none"))
    return [
        ("Necessity", "PR of the sentence without its sources; low = it needs them"),
        ("Sufficiency", "PR with its sources alone, of all source units; about 1 = they are enough"),
        ("Cited", f"PR below {c.below:g} without the sources, none of which can be left out; at most {c.max_sources}"),
        (
            "Not from the documents",
            f"no set of at most {c.max_sources} units that was tried brings PR below {c.below:g}, and all source units "
            "together do not either; earlier sentences of the answer stay, so one that repeats them needs no source",
        ),
        ("log p(answer)", f"{nats(log_prob)} nats with the documents, {nats(none)} without all source units"),
        ("Sources", f"{len(c.units)} units ({c.details.get('unit', 'unit')}s) of {len(c.documents)} documents"),
        ("Documents shown", SHOWN_WORDS.get(str(c.details.get("documents_through")), "not recorded")),
        ("Removal", f"{c.removal}: {REMOVAL_WORDS.get(c.removal, '')}"),
        ("Cost", f"{c.evaluations:,} evaluations, {c.ffe:,.1f} FFE, {c.seconds:,.1f} seconds"),
        *made_with(c.model, c.versions),
        *glossary_of("nats", "PR", "FFE"),
    ]
