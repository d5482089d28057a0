"""An Attribution for people: what there is to show, and one HTML page (or a piece of a notebook) that shows it.

The page and the terminal view show the same things in the same order: a verdict in one sentence, the prompt with the
removed units marked, what each unit does alone and all do together, the output beside the output without them, and how
the answer was found.

Prompts and outputs are text from strangers. They are never read as markup, and characters that a reader cannot see
(control, direction and zero-width characters) are shown as escapes, so that nothing hides in a report or steers a
terminal. Runs no model; sees Attributions only.
"""

from __future__ import annotations

import math
import re
from difflib import SequenceMatcher
from functools import cache
from itertools import accumulate, chain, groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

    from jopa.attribution import Attribution
    from jopa.diagnosis import Diagnosis

REMOVAL_WORDS = {
    "delete": "the tokens of removed units are cut out and later tokens move up, as if a person had edited the prompt",
    "zero": "the input embeddings of removed units are multiplied by zero; every position stays where it was",
    "hide": "no other token attends to removed units; every position stays where it was",
}
CERTIFICATE_WORDS = {
    "none": "nothing is proved; another set of {k} may do more",
    "one-swap-optimal": "every set that differs in a single unit was scored, and none does more",
    "optimal": "all sets of {k} of the {n} units were scored ({sets}), and none does more",
}
NOTHING = "(nothing: it stops at once)"
_NAMED = 4  # so many units are named in the verdict

# Unseen characters, but not what joins letters and emoji (U+200C, U+200D, U+FE0F), nor newline and tab.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e01ef]"
)
_BLANKS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+)|\s+")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Piece(NamedTuple):
    """A run of text; `mark` is 0, or what sets the run apart: a removed unit's rank, 1 where outputs differ."""

    text: str
    mark: int = 0


class Heat(NamedTuple):
    """A cell of a heat map: its value, its strength as a fraction of the largest, and whether the request drives it."""

    value: float
    strength: float
    peak: bool


class Bar(NamedTuple):
    """A row of the effects picture: its value in nats, and where its bar lies, as fractions of the width."""

    label: str
    value: float
    start: float
    end: float


def to_html(attribution: Attribution, *, standalone: bool = True, styled: bool = True) -> str:
    """The attribution as a web page that needs nothing but itself.

    Args:
        attribution: what to show.
        standalone: a whole page; otherwise a fragment for notebooks, whose style touches nothing around it.
        styled: with its style; False for a fragment on a page that has it.
    """
    shown = _shown(attribution)
    title = "".join(piece.text for piece in shown["verdict"])
    template = environment().get_template("attribution.html.j2")
    return template.render(standalone=standalone, styled=styled, title=title, **shown)


def parts_html(attribution: Attribution) -> dict[str, str]:
    """The parts of `to_html`'s page for a page that has its own place for each: verdict, effects, outputs, found."""
    shown = {**_shown(attribution), "h2": "h2", "h3": "h3"}
    return {
        name: environment().get_template(f"{name}.html.j2").render(shown)
        for name in ("verdict", "effects", "outputs", "found")
    }


def page_html(setup: dict[str, Any]) -> str:
    """The live page, which shows these parts as they are found; `setup` is what it knows from the start."""
    return environment().get_template("page.html.j2").render(setup=setup)


def _shown(attribution: Attribution) -> dict[str, Any]:
    """What the templates of an attribution show."""
    return {
        "a": attribution,
        "verdict": verdict(attribution),
        "prompt": prompt_pieces(attribution),
        "bars": bars(attribution),
        "meaning": meaning(attribution),
        "span": target_span(attribution),
        "outputs": word_diff(attribution.output, attribution.counterfactual_output),
        "nothing": NOTHING,
        "facts": facts(attribution),
        "trace": _trace_line(attribution),
    }


def comparison_html(attributions: Sequence[Attribution]) -> str:
    """Several methods on the same prompt and output as one page: a table, then each attribution to unfold."""
    from markupsafe import Markup

    parts = [
        (a.method["name"], Markup(to_html(a, standalone=False, styled=False)))  # its template has escaped it
        for a in attributions
    ]
    title = f"{len(attributions)} methods, one output"
    table = Markup(comparison_table_html(attributions))  # as above
    return environment().get_template("comparison.html.j2").render(title=title, table=table, parts=parts)


def comparison_table_html(attributions: Sequence[Attribution]) -> str:
    """The table of a comparison by itself."""
    header, rows = comparison(attributions)
    template = environment().get_template("comparison_table.html.j2")
    return template.render(header=header, rows=rows, removal=attributions[0].removal)


def comparison(attributions: Sequence[Attribution]) -> tuple[list[str], list[tuple[list[str], bool]]]:
    """The header and rows of a comparison; a row's flag says that no method found a larger joint effect."""
    header = ["method", "units", "joint effect", "PR", "evaluations", "FFE", "seconds"]
    best = max(round(a.joint, 4) for a in attributions)
    rows = [
        (
            [
                a.method["name"],
                " · ".join(unit_name(a.units[i].text) for i in sorted(a.removed)),
                nats(a.joint, signed=True),
                _ratio(a.probability_ratio),
                f"{a.evaluations:,}",
                f"{a.ffe:,.1f}",
                f"{a.seconds:,.1f}",
            ],
            round(a.joint, 4) == best,
        )
        for a in attributions
    ]
    return header, rows


def diagnosis_html(diagnosis: Diagnosis, *, standalone: bool = True) -> str:
    """A diagnosis as a web page that needs nothing but itself, or as a fragment for notebooks."""
    shown = diagnosis_verdict(diagnosis)
    return (
        environment()
        .get_template("diagnosis.html.j2")
        .render(
            standalone=standalone,
            title="".join(piece.text for piece in shown),
            verdict=shown,
            d=diagnosis,
            requests=requests(diagnosis),
            heat=heat(diagnosis),
            facts=diagnosis_facts(diagnosis),
        )
    )


def diagnosis_verdict(diagnosis: Diagnosis) -> list[Piece]:
    """What the answer makes of the requests, in a sentence or two; names of requests and sentences have mark 1.

    A request that is ignored as a whole may drive a sentence all the same; that is said apart.
    """
    d, together = diagnosis, diagnosis.ignored_ratio
    ignored = [f"R{i + 1}" for i in d.ignored]
    pieces: list[Piece] = []
    if not ignored:
        pieces.append(Piece(f"The answer ignores none of the {len(d.units)} requests."))
    elif together is not None and together < d.band[0]:
        pieces += [Piece("Without any one of "), *_listed(ignored), Piece(" the answer stays as likely; without all ")]
        pieces.append(Piece(f"of them it is less so (PR {_ratio(together)}): some stand in for others."))
    else:
        pieces += [Piece("The answer ignores "), *_listed(ignored), Piece(f" of {len(d.units)} requests.")]
    driving = [(i in d.ignored, f"R{i + 1} drives S{part + 1}") for i, part in enumerate(d.drives) if part is not None]
    for lead, among_ignored in ((" ", False), (" Yet ", True)):
        words = [pair for is_ignored, pair in driving if is_ignored == among_ignored]
        pieces += [Piece(lead), *_listed(words), Piece(".")] if words else []
    return pieces if driving else [*pieces, Piece(" None drives a sentence.")]


def _listed(names: Sequence[str]) -> list[Piece]:
    """Names as a list in a sentence."""
    gaps = ["", *[", "] * (len(names) - 2), " and "][: len(names)]
    parts = (part for gap, name in zip(gaps, names, strict=True) for part in (Piece(gap), Piece(name, 1)))
    return [part for part in parts if part.text]


def requests(diagnosis: Diagnosis) -> tuple[list[str], list[list[str]]]:
    """The header and rows of the table of requests, the joint effect of all of them last."""
    d = diagnosis
    shares: Sequence[float | None] = d.shares or [None] * len(d.units)
    rows = [
        [
            f"R{i + 1}",
            unit.text.strip() or unit_name(unit.text),
            nats(d.individual[i], signed=True),
            _percent(shares[i]),
            _ratio(d.ratios[i]),
            ", but ".join([*(["ignored"] if i in d.ignored else []), *_driven(d.drives[i])]) or "–",
        ]
        for i, unit in enumerate(d.units)
    ]
    synergy = d.synergy / d.joint if d.shares else None
    rows.append(["", "synergy", nats(d.synergy, signed=True), _percent(synergy), "", ""])
    whole = 1.0 if d.shares else None
    rows.append(["", "all removed together", nats(d.joint, signed=True), _percent(whole), _ratio(d.joint_ratio), ""])
    return ["#", "request", "nats", "share", "PR", "verdict"], rows


def _driven(part: int | None) -> list[str]:
    return [] if part is None else [f"drives S{part + 1}"]


def _percent(share: float | None) -> str:
    """A share for reading, with a true minus sign; a dash where there is none."""
    return "–" if share is None else f"{round(100 * share) + 0:,} %".replace("-", "−")


def heat(diagnosis: Diagnosis) -> list[list[Heat]]:
    """One row a sentence of the answer, one column a request: nats per token."""
    columns, most = diagnosis.per_token, max(abs(value) for row in diagnosis.per_token for value in row) or 1.0
    return [
        [Heat(column[part], abs(column[part]) / most, diagnosis.drives[i] == part) for i, column in enumerate(columns)]
        for part in range(len(diagnosis.parts))
    ]


def diagnosis_facts(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """How the diagnosis was made, as terms and plain words."""
    d, (low, high) = diagnosis, diagnosis.band
    together = d.ignored_ratio
    return [
        (
            "log p(output)",
            f"{nats(d.log_prob)} nats with the whole prompt, {nats(d.log_prob_removed)} without requests",
        ),
        ("Target", f"tokens {d.target[0]}:{d.target[1]} of the output's {len(d.output_ids)}"),
        ("Ignored", f"PR from {low:g} to {high:g} when the request is removed alone"),
        ("Ignored together", "fewer than two are ignored" if together is None else f"PR {_ratio(together)}"),
        (
            "Share",
            "of the joint effect of all requests; with the synergy, shares make 100 %"
            if d.shares
            else "none: removing all requests does not bring PR below the band",
        ),
        ("Drives", f"the sentence that falls most per token without the request, by more than PR {low:g}"),
        ("Removal", f"{d.removal}: {REMOVAL_WORDS.get(d.removal, '')}"),
        ("Cost", f"{d.evaluations:,} evaluations, {d.ffe:,.1f} FFE, {d.seconds:,.1f} seconds"),
        ("Model", " · ".join(d.model.get(key) or "" for key in ("id", "dtype", "device"))),
        ("Revision", d.model.get("revision") or "not recorded"),
        ("Versions", " · ".join(f"{name} {number}" for name, number in d.versions.items())),
    ]


def word_diff(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Mark the words in which two texts differ; the pieces of each side, joined, are that text exactly.

    Words are compared without the blanks before them; blanks that differ are marked by themselves.
    """
    left, right = _WORD.findall(before), _WORD.findall(after)
    matcher = SequenceMatcher(None, [w.lstrip() for w in left], [w.lstrip() for w in right], autojunk=False)
    marked: tuple[list[Piece], list[Piece]] = ([], [])
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        words = left[i1:i2], right[j1:j2]
        n_paired = {"equal": i2 - i1, "replace": 1}.get(tag, 0)
        for pair in zip(words[0][:n_paired], words[1][:n_paired], strict=True):
            blanks = [word[: len(word) - len(word.lstrip())] for word in pair]
            for side, word, blank in zip(marked, pair, blanks, strict=True):
                side.append(Piece(blank, int(blanks[0] != blanks[1])))
                side.append(Piece(word[len(blank) :], int(tag != "equal")))
        for side, rest in zip(marked, words, strict=True):
            side.extend(Piece(word, 1) for word in rest[n_paired:])
    return _merged(marked[0]), _merged(marked[1])


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbours with the same mark become one piece."""
    runs = groupby((piece for piece in pieces if piece.text), key=lambda piece: piece.mark)
    return [Piece("".join(piece.text for piece in run), mark) for mark, run in runs]


def visible(text: str) -> str:
    """The text with unseen characters as escapes, such as `\\x1b`; newlines and tabs stay."""
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def unit_name(text: str, width: int = 32) -> str:
    """A unit on one line, without the blanks around it; of a unit that is all blanks, signs for them."""
    core = visible(text.strip()).replace("\n", "⏎").replace("\t", "⇥")
    name = core or "".join(_BLANKS.get(char, ascii(char)[1:-1]) for char in text)
    return name if len(name) <= width else name[: width - 1] + "…"


def nats(value: float, *, signed: bool = False) -> str:
    """A number of nats with two decimals and a true minus sign; zero has no sign."""
    rounded = round(value, 2) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.2f}".replace("-", "−")


def _ratio(value: float) -> str:
    """A ratio for reading: two decimals, none when large, a power of ten when very large or small."""
    if value >= 1e6 or 0 < value < 0.01:
        digits, power = f"{value:.1e}".split("e") if math.isfinite(value) else ("1", "308")
        return f"{digits} × 10{str(int(power)).translate(_SUPERSCRIPT)}"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def verdict(attribution: Attribution) -> list[Piece]:
    """The answer as one sentence; unit names have mark 1, the strength mark 2."""
    ratio, units, span = attribution.probability_ratio, attribution.chosen, target_span(attribution)
    pieces = [Piece("Without ")]
    for number, unit in enumerate(units[:_NAMED], start=1):
        gap = "" if number == 1 else " and " if number == len(units) else ", "
        pieces += [Piece(f"{gap}“"), Piece(unit_name(unit.text), 1), Piece("”")]
    more = f" and {len(units) - _NAMED} more" if len(units) > _NAMED else ""
    strength = _ratio(max(ratio, 1 / ratio) if ratio else math.inf)
    times = f"{strength} times {'less' if ratio < 1 else 'more'} likely" if strength != "1.00" else "about as likely"
    return [
        *pieces,
        Piece(f"{more} together, the model is " if len(units) > 1 else ", the model is "),
        Piece(times, 2),
        Piece(f" per token to say {f'output tokens {span}' if span else 'this'} (PR {_ratio(ratio)})."),
    ]


def target_span(attribution: Attribution) -> str:
    """The output tokens that count, as start:end; empty if all do."""
    start, end = attribution.target
    return "" if end - start == len(attribution.output_ids) else f"{start}:{end}"


def prompt_pieces(attribution: Attribution) -> list[Piece]:
    """The prompt with the visible part of each removed unit marked by its rank."""
    pieces, done = [], 0
    for index, rank in sorted(zip(attribution.removed, range(1, len(attribution.removed) + 1), strict=True)):
        unit = attribution.units[index]
        core = unit.text.strip()
        start = unit.start + unit.text.index(core)
        pieces += [Piece(attribution.prompt[done:start]), Piece(core or unit_name(unit.text), rank)]
        # A line break that is removed is named and still breaks the line.
        done = start + len(core) if core or "\n" in unit.text else unit.end
    return [piece for piece in [*pieces, Piece(attribution.prompt[done:])] if piece.text]


def _share(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, from 0 to 1."""
    return (value - low) / ((high - low) or 1.0)


def bars(attribution: Attribution) -> list[Bar]:
    """Individual effects and synergy, each from where the last one ended, and the joint effect they add up to."""
    values = [*attribution.individual, attribution.synergy]
    ends = [0.0, *accumulate(values)]
    labels = [*(unit.text for unit in attribution.chosen), "synergy", "joint effect"]
    spans = [sorted(span) for span in [*pairwise(ends), (0.0, attribution.joint)]]
    low, high = min(first for first, _ in spans), max(last for _, last in spans)
    return [
        Bar(label, value, _share(first, low, high), _share(last, low, high))
        for label, value, (first, last) in zip(labels, [*values, attribution.joint], spans, strict=True)
    ]


def meaning(attribution: Attribution) -> str:
    """What the synergy says, in words."""
    if attribution.k == 1:
        return "One unit alone: there is nothing joint about it."
    amount = nats(abs(attribution.synergy))
    if amount == "0.00":
        return "The joint effect is the sum of the individual effects."
    if attribution.synergy > 0:
        return f"Together they do {amount} nats more than the sum of each alone."
    return f"They overlap: together they do {amount} nats less than the sum of each alone."


def _trace_line(attribution: Attribution) -> dict[str, Any] | None:
    """The search as a stepped line in a 100 × 100 box; None without two steps to join."""
    steps = [(step.ffe, step.log_prob) for step in attribution.trace]
    if len(steps) < 2:
        return None
    heights = [attribution.log_prob, *(height for _, height in steps)]
    low, high, right = min(heights), max(heights), steps[-1][0]
    turns = [[(ffe, before), (ffe, height)] for (_, before), (ffe, height) in pairwise(steps) if height != before]
    return {
        "points": " ".join(
            f"{100 * _share(ffe, 0, right):.2f},{100 * _share(height, high, low):.2f}"
            for ffe, height in [steps[0], *chain.from_iterable(turns), steps[-1]]
        ),
        "whole": f"{100 * _share(attribution.log_prob, high, low):.2f}",
        **{"low": low, "high": high, "right": right, "first": steps[0][1], "last": steps[-1][1]},
    }


def facts(attribution: Attribution) -> list[tuple[str, str]]:
    """How the answer was found, as terms and plain words."""
    a, span, n_output, n_units = (
        attribution,
        target_span(attribution),
        len(attribution.output_ids),
        len(attribution.units),
    )
    given = {name: value for name, value in a.method.items() if name != "name" and value is not None}
    settings = ", ".join(f"{name} = {value}" for name, value in given.items())
    certificate = CERTIFICATE_WORDS.get(a.certificate, "").format(k=a.k, n=n_units, sets=f"{math.comb(n_units, a.k):,}")
    return [
        (
            "log p(output)",
            f"{nats(a.log_prob)} nats with the whole prompt, {nats(a.log_prob_removed)} without the units",
        ),
        ("Target", f"tokens {span} of the output's {n_output}" if span else f"tokens 0:{n_output}, the whole output"),
        ("Removal", f"{a.removal}: {REMOVAL_WORDS.get(a.removal, '')}"),
        ("Certificate", f"{a.certificate}: {certificate}"),
        ("Method", a.method["name"] + (f" ({settings})" if settings else "")),
        ("Asked for", f"k = {a.k} of {n_units} units, seed {a.seed}"),
        *sufficient_facts(a),
        ("Stopped", a.stop),
        ("Cost", f"{a.evaluations:,} evaluations, {a.ffe:,.1f} FFE, {a.seconds:,.1f} seconds"),
        ("Model", " · ".join(a.model.get(key) or "" for key in ("id", "dtype", "device"))),
        ("Revision", a.model.get("revision") or "not recorded"),
        ("Versions", " · ".join(f"{name} {number}" for name, number in a.versions.items())),
    ]


def sufficient_facts(attribution: Attribution) -> list[tuple[str, str]]:
    """What a search for the smallest sufficient set tried; nothing if there was none."""
    record = (attribution.details or {}).get("until_pr")
    if record is None:
        return []
    tried = "; ".join(
        f"k = {step['k']}: PR {_ratio(step['pr'])}" + (" (optimal)" if step["certificate"] == "optimal" else "")
        for step in record["tried"]
    )
    return [(f"Until PR < {record['pr']:g}", f"{'reached' if record['reached'] else 'not reached'}: {tried}")]


@cache
def environment() -> Environment:
    """Templates that escape every value, after its unseen characters became visible."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jopa"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {"nats": nats, "ratio": _ratio, "unit_name": unit_name}
    return environment
