"""Full stops that end no sentence: after abbreviations and ordinal numbers that `sentencex` leaves out.

`sentencex` has lists of abbreviations for each language. They miss some, and they help only where the language of a
short text is guessed right. An abbreviation that is no word of another language is looked for in every text. Knows text
alone.
"""

from __future__ import annotations

import re
from functools import cache

_ANY = "*"
# A name or the rest of a phrase follows. A capital at the beginning stands for itself, a small letter for both.
_NEVER = {
    _ANY: r"Messrs|Hon|Ste|incl|resp|viz|cf|i\.e|e\.g|w\.r\.t|a\.k\.a|"
    r"bzw|ggf|ggfs|evtl|inkl|exkl|zzgl|sog|vgl|z\. ?b|d\. ?h|u\. ?a|o\. ?g|"
    r"Mme|Mlle|p\. ?ex|c\.-à-d|Dott|Avv|Sra|Srta|Dra|Uds|p\. ?ej|EE\. ?UU|Exmo|Exma|Dhr|Mevr|Mej|bijv|d\.w\.z|m\.b\.t|"
    r"tzw|tzv|např|napr|npr|ún|Sn|örn|esim|t\. ?ex|bl\.a|Jl|TP|s\.k|d\.v\.s|f\. ?eks|d-na|pvz|т\. ?е|напр|нпр|ул|просп|"
    r"Fa|Dipl|(?:Dipl|Dr)\.-Ing|ThS|PGS|TS|bkz|[A-ZÉ]\.-[A-ZÉ]|"
    r"δηλ|π\. ?χ|डॉ|प्रो|श्री|श्रीमती|रु|د",
    "en": "Br",
    "de": "geb|Hr|Frl|i\\. ?d\\. ?r|St|med|jur|phil",
    "th": r"กทม|[พค]\. ?ศ|ดร|ผศ|รศ|จ|ต|น",
    "ta": "திரு|திருமதி|ரூ",
    "fr": "MM|Mgr|Av|St",
    "it": "Sig|Sigg|Ing|Geom|Av|es",
    "es": "Ud|Av|Ma",
    "pt": "Av|Sr",
    "nl": "o\\.a",
    "pl": "ul|np|m\\. ?in|im|dr|prof|al|os",
    "cs": "ul|tj|mj|na nám",
    "sr": "др",
    "hu": "kb|dr|pl",
    "ro": "Dl|Str",
}
# They may end a sentence, which the next letter tells.
_BEFORE_SMALL = {
    _ANY: r"etc|usw|usf|uvm|osv|enz|ecc|itd|itp|atd|atp|apod|stb|dll|jne|др|млн|млрд|тыс|руб|чел|т\. ?д|т\. ?п|"
    r"Mon|Tue|Tues|Wed|Thu|Thurs|Fri|[ap]\. ?m",
    "de": "gem|allg|bez|bspw|insb|insbes|ehem|mind|max|einschl|urspr|entspr|vorauss|gest|verh",
    "cs": "popř|zejm|příp",
    "fi": "ym|yms|ns|ks|vrt",
    "tr": "vb|yy",
}
_BEFORE_NUMBER = {
    _ANY: r"vol|vols|ch|chap|chaps|sec|secs|sect|tab|tabs|eq|eqs|fig|figs|eds|ref|refs|pt|pts|par|para|ver|approx|est|"
    r"max|min|avg|temp|qty|tel|ext|apt|rm|nos|pag|págs?|núms?|n\.? ?[ºo°]|blz|hfst|godz|str|rozdz|obr|hlm|рис|стр|табл|"
    r"гл|σελ|αρ|ca|env|cca",
    "de": "kap|bd|abb|abs|ziff|aufl|art|s|mwst",
    "fr": "art|éd",
    "es": "art|cap",
    "it": "art|cap|n",
    "pt": "art|cap",
    "pl": "art|ust|r|m",
    "sv": "kl",
    "da": "kl",
    "et": "lk|nt",
}
_FIRST_OF_SEVERAL = re.compile(r"(?<![\w.-])[^\W\d_]\.\s*\Z")
"""One letter, as the first half of "т. е." and "p. ex.": unfinished if a few letters with a full stop follow."""
_SHORT = re.compile(r"[^\W\d_]{1,3}\.")
_NUMBER = re.compile(r"(?<![\w.,])(?:\d{1,4}|[IVXLC]+)\.\s*\Z")
_MONTH = re.compile("Januar|Jänner|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember")
_ORDINALS = re.compile("bs|cs|da|de|et|fi|hr|hu|is|lt|lv|pl|sk|sl|sr|tr")
"""Languages that write an ordinal number with a full stop."""
CONTEXT_CHARACTERS = 24
"""Characters at a sentence's end that decide."""


@cache
def _ending_with(table: str, language: str) -> re.Pattern[str]:
    """What ends like an abbreviation of a table, in some language."""
    words = {"never": _NEVER, "small": _BEFORE_SMALL, "number": _BEFORE_NUMBER}[table]
    known = "|".join((words[_ANY], words.get(language, words[_ANY]))).split("|")
    either = (word if word[0].isupper() else f"(?i:{word})" for word in known)
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(either)})\.\s*\Z")


def ends_no_sentence(said: str, following: str, language: str) -> bool:
    """Whether the full stop at the end of a text ends no sentence.

    Args:
        said: a sentence so far, the blanks behind it included; its last `CONTEXT_CHARACTERS` characters are enough.
        following: what comes next, without blanks before it.
        language: the text's, as `base_language` gives it.
    """
    if "." not in said:
        return False
    small, number = following[:1].islower(), following.lstrip("(+#$€£")[:1].isdigit()
    return bool(
        _ending_with("never", language).search(said)
        or (small and _ending_with("small", language).search(said))
        or (number and _ending_with("number", language).search(said))
        or (small and _ORDINALS.fullmatch(language) and _NUMBER.search(said))
        or (language == "de" and _MONTH.match(following) and _NUMBER.search(said))
        or (small and _SHORT.match(following) and _FIRST_OF_SEVERAL.search(said))
    )
