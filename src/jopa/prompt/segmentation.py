"""Words, sentences, lines and paragraphs of a text, as character spans that tile it.

Sentences are found by `sentencex` inside each line, so a line break ends one. Words stand between blanks; where a
script writes none (Chinese, Japanese, Thai, Lao, Khmer, Burmese), ICU's word breaks by way of `icu4py` part them.
Lines of code blocks and tables stay whole, and no web address, number or inline code is cut.

Knows text alone: neither tokens nor models.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, pairwise

from jopa.prompt.abbreviations import CONTEXT_CHARACTERS, ends_no_sentence
from jopa.prompt.language import base_language, guessed_language
from jopa.prompt.sentencex_input import lower_case_starts, masked_line

Span = tuple[int, int]
"""`[start, end)` in characters."""

TOKEN_BYTES, WORD_BYTES = 200, 800
"""A prompt of up to this many bytes of UTF-8 is cut into tokens (about a line), into words (a few lines); a longer one
into sentences. Bytes, because a token of any script stands for about as many."""
MIN_SENTENCES = 5
"""A long prompt of fewer sentences is cut into words, too: there would be nothing to choose from."""

# Scripts written without blanks: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(r"[^\s\u0f0b\u1361]*[\u0f0b\u1361]+|[^\s\u0f0b\u1361]+")
"""What stands between blanks, or between the marks that part words in Tibetan (there, syllables) and Ethiopic."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})")
_TABLE_ROW = re.compile(r"\s*\|.*\|\s*|[^|]*\s\|\s[^|]*\s\|\s.*", re.DOTALL)
_CODE = re.compile(  # a line that ends as code does; a call or an assignment; a field of JSON; or one indented
    r"[^\r\n]*[;{]\s*\Z"
    r"|\s*[\w.]+(?: ?= ?[^\r\n]*|\([^\r\n]*)[)\]\"']\s*\Z"
    r"|\s*\"[^\"\r\n]*\"\s*:"
    r"|(?:\t| {4})\s*+(?![-*+•]\s|\(?\w{1,3}[.)]\s)[^\r\n]*[=(){}\[\];<>]"
)
# A boundary inside one of these is none: inline code, a web or mail address, a number. Each alternative begins where
# nothing before it could belong to it, so that a long word is read once.
_WHOLE = re.compile(
    r"`[^`\n]+`"
    r"|(?:(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*+://|(?<![a-z0-9])(?:www\.|mailto:))"
    rf"[^\s<>\"\u3000-\u303f\uff00-\uffef{_UNSPACED}]*[^\s<>\".,;:!?)\]}}'\u3000-\u303f\uff00-\uffef{_UNSPACED}]"
    r"|(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)+"
    r"|(?<!\d)\d++(?:[.,:]\d++)+"
    r"|(?<!\w)\w{1,3}\.[ºª]"
    r"|(?<!\S)\.+[\w/]+"  # what begins with a full stop: .NET, ./run
    r"|(?<![\w.])\w++\.(?-i:[a-z_])\w*+(?:\.\w+)+"  # names in parts: java.util.List
    r"|\$\$[^$\n]+\$\$"
    r"|!\[[^\]\n]{0,300}+\]\([^)\s]{0,300}+\)",
    re.IGNORECASE,
)
_QUOTED = (re.compile(r"[。．！？!?.…][」』\"”]\s*\Z"), re.compile(r"と|って|이?라고|라며|하고"))
"""The end of a Japanese or Korean quotation, and what goes on with its sentence."""
_TITLE = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof)\.\s*\Z")
"""`sentencex` ends a sentence after one where the name is a common word, too ("Dr. Who")."""
_ORDINAL = re.compile(r"\b(?:[ai]m|zu[mr]|vom|beim|de[rmns]|die|das|ein(?:e[rmns]?)?)\s+\d{1,3}\.\s*\Z", re.IGNORECASE)
"""A German ordinal number; `sentencex` knows them before months only ("im 19. Jahrhundert")."""
_STOPS_OF_SCRIPTS = re.compile("(?:[\u17d4\u17d5]|[\u0f0d\u0f0e](?:\\s*[\u0f0d\u0f0e])*)\\s*")
"""Full stops of Khmer and Tibetan, which `sentencex` leaves out."""
_CLOSING = re.compile(
    r"(?:[*_~\"'”’»)\]\u00b9\u00b2\u00b3\u2070-\u2079]|\[[^\[\]]{1,30}\]|</\w{1,10}>)*(?:\s+|\Z|(?<=>)(?=<))"
)
"""What goes with the sentence before it: quotation marks, numbers of sources, tags that close."""
_IN_BRACKETS = re.compile(
    r"[.!?\u2026][\"'”’»]?[)\]]\s+(?=[^\W\d_a-z]|[(\[])|[.!?]\s+(?=\((?:\d{1,3}|[A-Za-z]|[ivx]+)\)\s)"
)
"""The end of a sentence that stands in brackets, which `sentencex` leaves out, and what stands before "(b) …"."""
_NO_ABBREVIATION = re.compile(r"(?<![\w.])т\. ?[дп]\.\s+(?=[^\W\d_a-zа-я])|\.\s+(?=[¿¡])")
"""What `sentencex` takes for an abbreviation everywhere: "and so on" in Russian at the end, and a letter before a
Spanish question."""
_CONTINUED = (re.compile(r"[\"'”’»“]\s*\Z"), re.compile(r"[—–]\s*(?![A-ZА-ЯЁ])[^\W\d_]"))
"""A quotation, and what goes on with its sentence behind a dash."""
_WINDOW = 4000
"""Characters of a line that `sentencex` sees at once: its time grows faster than their number."""
_NUMBER_OF_ITEM = re.compile(
    r"\s*(?:(?:[-*+•>§]|#{1,6}|\[[ xX]\])\s+)*(?:\*\*|__)?\(?(?:\d{1,3}(?:\.\d{1,3})*|[A-Za-z]|[IVXLC]+|[ivxlc]+)[.)]"
    r"(?:\*\*|__)?\s*"
)
"""What stands before an item of a list: no sentence of its own."""


def words(text: str, language: str | None = None) -> list[Span]:
    """Runs between blanks, each with the blanks before it; scripts without blanks are parted by ICU.

    Args:
        text: what to part.
        language: its code; guessed by default, and asked for only where a script writes no blanks.
    """
    ends: list[int] = []
    for match in _WORD.finditer(text):
        if _IS_UNSPACED.search(match.group()):
            language = language or guessed_language(text)
            ends += [match.start() + cut for cut in _cuts_of_run(match.group(), language)]
        ends.append(match.end())
    return _tiling(text, ends)


def _cuts_of_run(run: str, language: str) -> Iterator[int]:
    """Where the words of a run without blanks end, its own end left out.

    A sign goes to the word before it, an opening one to the word after. Two neighbours of spaced scripts stay together,
    as they do between blanks.
    """
    from icu4py.breakers import WordBreaker

    whole = [match.span() for match in _WHOLE.finditer(run)]
    last = ""  # the last segment that is a word
    opened: int | None = None  # where signs began that open the word to come
    position = 0
    for segment in _of_one_script(WordBreaker(run, language)):
        if not any(char.isalnum() for char in segment):
            if opened is None and unicodedata.category(segment[0]) in ("Ps", "Pi"):
                opened = position
        else:
            cut = position if opened is None else opened
            parted = _IS_UNSPACED.search(last[-1:] + segment[0])
            if last and parted and not _inside(cut, whole):
                yield cut
            last, opened = segment, None
        position += len(segment)


def _of_one_script(segments: Iterable[str]) -> Iterator[str]:
    """Segments of ICU, parted where letters of a script without blanks meet others: "Python3" before Thai."""
    for segment in segments:
        start = 0
        for place in range(1, len(segment)):
            unspaced = [bool(_IS_UNSPACED.match(char)) for char in segment[place - 1 : place + 1]]
            if unspaced[0] != unspaced[1] and segment[place - 1 + unspaced[0]].isalnum():
                yield segment[start:place]
                start = place
        yield segment[start:]


def lines(text: str, language: str | None = None) -> list[Span]:
    """Lines with their line breaks; an empty line is one, too."""
    return [match.span() for match in _LINE.finditer(text)]


def paragraphs(text: str, language: str | None = None) -> list[Span]:
    """Runs of lines with the empty lines after them; an empty line inside a code block parts nothing."""
    starts: list[int] = []
    after_blank = seen = False
    for (start, end), in_code in _marked_lines(text):
        empty = not in_code and not text[start:end].strip()
        if after_blank and seen and not empty:
            starts.append(start)
        after_blank, seen = empty, seen or not empty
    return _tiling(text, starts)


def sentences(text: str, language: str | None = None) -> list[Span]:
    """Sentences with the blanks after them; every line break ends one, and a line of code or a table is one.

    Args:
        text: what to part.
        language: its code, which decides what an abbreviation is; guessed by default.
    """
    language = base_language(language or guessed_language(text))
    small = lower_case_starts(text)
    ends: list[int] = []
    for (start, end), in_code in _marked_lines(text):
        line = text[start:end]
        if not line.strip():
            if ends:  # an empty line goes with what stands before it, at the beginning with what comes
                ends[-1] = end
        else:
            asks = language == "el" and line.rstrip().endswith(";")  # the Greek question mark
            if not in_code and not _TABLE_ROW.fullmatch(line) and (asks or not _CODE.match(line)):
                ends += [start + cut for cut in _cuts_of_line(line, language, small)]
            ends.append(end)
    return _tiling(text, ends)


def _cuts_of_line(line: str, language: str, small: bool) -> Iterator[int]:
    """Where the sentences of a line end, its own end left out."""
    from sentencex import segment  # type: ignore[attr-defined]  # a compiled module without type stubs

    whole = [match.span() for match in _WHOLE.finditer(line)]
    last = next((i for i in range(len(line) - 1, -1, -1) if line[i].isalnum()), -1)  # signs alone are no sentence
    begun = start = 0  # of the sentence, of the window
    while start < len(line):
        window = line[start : start + _WINDOW]
        read = masked_line(window, language, small)
        parts = segment(language, read)
        if "".join(parts) != read:
            return  # it left out characters, so its places mean nothing: the rest of the line stays whole
        ends = {*accumulate(map(len, parts)), *_missed_ends(window)}
        cuts = [start + end for end in sorted(ends)]
        start = cuts[-2] if len(cuts) > 1 and cuts[-1] < len(line) else cuts[-1]  # the last may be longer
        for cut in cuts[:-1]:
            if not line[cut - 1].isspace() and (closing := _CLOSING.match(line, cut)):
                cut = closing.end()
            said = line[begun:cut]
            tail = said[-CONTEXT_CHARACTERS:]
            unfinished = _NUMBER_OF_ITEM.fullmatch(said) or _TITLE.search(tail)
            unfinished = unfinished or (language == "de" and _ORDINAL.search(tail))
            following = line[cut : cut + CONTEXT_CHARACTERS].lstrip()
            unfinished = unfinished or (_QUOTED[0].search(tail) and _QUOTED[1].match(following))
            unfinished = unfinished or (_CONTINUED[0].search(tail) and _CONTINUED[1].match(following))
            unfinished = unfinished or (
                line[cut - 1] == "." and line[cut] in "-~:,"
            )  # "Dipl.-Ing.", "Eq.~3", "att.: a"
            unfinished = unfinished or ends_no_sentence(tail, following, language)
            if said.strip() and cut <= last and not unfinished and not _inside(cut, whole):
                yield cut
                begun = cut


def _missed_ends(window: str) -> Iterator[int]:
    """Where sentences end that `sentencex` does not see."""
    for pattern in (_STOPS_OF_SCRIPTS, _IN_BRACKETS, _NO_ABBREVIATION):
        for match in pattern.finditer(window):
            yield match.end()


def _marked_lines(text: str) -> Iterator[tuple[Span, bool]]:
    """Each line, and whether it belongs to a fenced code block (its fences do)."""
    fence = ""
    for start, end in lines(text):
        mark = _FENCE.match(text, start, end)
        opens = bool(mark and not fence)
        closes = bool(mark and fence and mark[1].startswith(fence) and not text[mark.end() : end].strip())
        yield (start, end), bool(fence) or opens
        if mark and opens:
            fence = mark[1]
        elif closes:
            fence = ""


def _inside(position: int, spans: list[Span]) -> bool:
    """Whether a position lies inside one of some spans in reading order, not at its ends."""
    index = bisect_right(spans, (position, -1)) - 1
    return index >= 0 and spans[index][0] < position < spans[index][1]


def _tiling(text: str, ends: list[int]) -> list[Span]:
    """Spans between ends, the last one as far as the text goes."""
    if text[ends[-1] if ends else 0 :].strip():
        ends = [*ends, len(text)]
    return list(pairwise([0, *ends[:-1], len(text)]))


SEGMENTERS: dict[str, Callable[[str, str | None], list[Span]]] = {
    "word": words,
    "sentence": sentences,
    "line": lines,
    "paragraph": paragraphs,
}
"""What cuts a text (of a language) into units larger than tokens, by the kind of unit."""


def fitting_unit(text: str, language: str | None = None) -> str:
    """The kind of unit that fits a text: "token" for a line, "word" for a few lines, "sentence" for a page."""
    size = len(text.strip().encode("utf-8", "replace"))
    if size <= TOKEN_BYTES:
        return "token"
    if size <= WORD_BYTES or len(sentences(text, language)) < MIN_SENTENCES:
        return "word"
    return "sentence"
