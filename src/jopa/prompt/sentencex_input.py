"""A line of text as `sentencex` has to see it to part it right. Each character keeps its place.

    faces, "<", feet and inches         it sees the beginning of a quotation in them
    "(a)" and "(1)"                     where they begin a sentence, it ends no further one
    "5 g", "km/h", "20 min"             it takes one letter for an initial, "min" for "minimum"
    words such as "me", "det", "bien"   it takes them for abbreviations: a state, a title, a place
    small letters after a full stop     in some languages no sentence begins with one for it; in chats many do

Knows text alone.
"""

from __future__ import annotations

import re
from functools import cache

_MARKS = re.compile(r"(?<!\w)[:;=8][-'’]?[()\[\]](?![\w])|(?<=\d)[\"'′″](?=[\s.,;!?]|\Z)|<(?=[\s=\d.-])")
"""Brackets of faces, signs for feet and inches, "less than"."""
_ITEM = re.compile(r"(?<!\S)\((\w{1,2})\)(?=\s)")
_UNIT = re.compile(r"(?:(?<=\d)[ \u00a0\u202f]?(?:[gmslh]|min|sec|oz)|(?<=\w)/[hs])(?=\.\s+[^\W\d_a-z])")
"""A unit of measure that looks like an initial or a shortened word, at the end of a sentence."""
_ANY = "*"
_WORDS = {
    _ANY: r"me|[oO][kK]|[nN]o|ga|pa|ia|va|fa|mi|ne|tu|nem|bien|mich|dat|det|etc(?=\.\s+[A-Z])",
    "en": "art|may|ill|miss|ore",
    "de": "[aA]rt",
    "es": "auto|ex|post|nos|da|di|mar|contra|entre|sobre|extra|super",
    "it": "te|ha|re|ore|tv|post|nato|li|so|sa|sai|fai|mai|vi|ci|ce|lo|si|sol|mar|via|usa|bar|file|app|mica|top",
    "nl": "it|best|hand|top|vol|pas|bel|app",
    "sv": "min|med|kan|ut|hon|del|ord|sen|jul|maj",
    "da": "din|to|ti|par|tv|med|var|ned|form|del|vær|sort|jul",
    "hu": "ma",
    "ro": "loc|sens|ore",
    "tr": "sen|kan|ver",
    "ru": "муж",
    "hr": "del|maj",
    "sl": "med|del|maj|res",
    "ca": "cap|contra|sobre|vol|nos|mar",
    "cs": "nám|co|pod",
    "sk": "nám|co|pod",
    "fr": "vol",
    "id": "kan",
}
"""Words that `sentencex` takes for abbreviations of their languages; in small letters they are none."""
_LETTERS = {"nl": "u", "tr": "o"}
"""Words of one letter ("you", "he"), taken with the blank before them: a single letter would be an initial."""
_NOT_BEFORE = r"of\b|(?!I['’ ])[IVXLC]+\b"
"""What follows an abbreviation after all: "the no. of", "art. V"."""
_CAPITALS_ONLY = frozenset(("ca", "cs", "da", "de", "fi", "kk", "kl", "lb", "oc", "rm", "sk"))
"""Languages in which no sentence begins with a small letter for `sentencex`."""
_AFTER_MARK = re.compile(r"[?!]\s+([^\W\d_])")
_AFTER_ANY = re.compile(r"(?:(?<=[^\W\d_][^\W\d_])\.|(?<=[)\]])\.|[?!])\s+([^\W\d_])")
"""The first letter after what may be the end of a sentence; a number or a single letter before a full stop is none."""
_FIRST_LETTER = re.compile(r"[^\W\d_]")
_SAMPLE = 4000
"""Characters that are looked at."""


def lower_case_starts(text: str) -> bool:
    """Whether most sentences of a text begin with a small letter, as in chats."""
    sample = text[:_SAMPLE]
    letters = [*_FIRST_LETTER.findall(sample)[:1], *_AFTER_ANY.findall(sample)]
    return sum(map(str.islower, letters)) > sum(map(str.isupper, letters))


def masked_line(line: str, language: str, small: bool) -> str:
    """A line as `sentencex` has to see it, of the same length.

    Args:
        line: the line or a part of it.
        language: of the text, as `base_language` gives it.
        small: whether sentences of the text begin with small letters.
    """
    line = _UNIT.sub(_masked, _MARKS.sub(_masked, _ITEM.sub(lambda item: f"[{'a' * len(item[1])}]", line)))
    line = _no_abbreviations(language).sub(_masked, line)
    if small:
        starts = _AFTER_ANY if language in _CAPITALS_ONLY else _AFTER_MARK
        line = starts.sub(lambda match: match[0][:-1] + _capital(match[1]), line)
    return line


@cache
def _no_abbreviations(language: str) -> re.Pattern[str]:
    """Words of a language that are no abbreviations, before a full stop and the beginning of a sentence."""
    words = "|".join((_WORDS[_ANY], _WORDS.get(language, _WORDS[_ANY])))
    letter = rf"|(?<=\w) {_LETTERS[language]}" if language in _LETTERS else ""
    return re.compile(rf"(?:(?<![\w.])(?:{words}){letter})(?=\.\s+[\"'“”„«‘(\[¿¡]*(?!{_NOT_BEFORE})[^\W\d_])")


def _masked(match: re.Match[str]) -> str:
    return "o" * len(match[0])  # "xx" would be a Roman number, and letters without a vowel an abbreviation


def _capital(letter: str) -> str:
    capital = letter.upper()
    return capital if len(capital) == 1 else letter
