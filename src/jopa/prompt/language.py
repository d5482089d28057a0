"""The language of a text, guessed from its letters and its commonest words, for the splitting into units.

A script that one language dominates decides by itself. A language of the Latin script needs more stop words than
English has; a text with none of them counts as English. The guess decides which abbreviations and ordinals end no
sentence, so a wrong one costs a cut too many or too few, never a character.
"""

from __future__ import annotations

import re
from collections import Counter

DEFAULT = "en"
_CODE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")
_SAMPLE = 4000
"""Characters that are looked at."""
_LETTERS_A_CHARACTER = 3
"""What a Chinese or Japanese character counts beside letters."""
_LETTERS_OF = (  # the first script that matches a character is its script
    ("kana", "\u3040-\u30ff\uff66-\uff9f"),
    ("han", "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"),
    ("ko", "\u1100-\u11ff\uac00-\ud7af"),
    ("cyrillic", "\u0400-\u052f"),
    ("arabic", "\u0600-\u06ff\u0750-\u077f"),
    ("el", "\u0370-\u03ff\u1f00-\u1fff"),
    ("hy", "\u0530-\u058f"),
    ("he", "\u0590-\u05ff"),
    ("hi", "\u0900-\u097f"),
    ("bn", "\u0980-\u09ff"),
    ("pa", "\u0a00-\u0a7f"),
    ("gu", "\u0a80-\u0aff"),
    ("or", "\u0b00-\u0b7f"),
    ("ta", "\u0b80-\u0bff"),
    ("te", "\u0c00-\u0c7f"),
    ("kn", "\u0c80-\u0cff"),
    ("ml", "\u0d00-\u0d7f"),
    ("si", "\u0d80-\u0dff"),
    ("th", "\u0e00-\u0e7f"),
    ("lo", "\u0e80-\u0eff"),
    ("bo", "\u0f00-\u0fff"),
    ("my", "\u1000-\u109f"),
    ("ka", "\u10a0-\u10ff"),
    ("am", "\u1200-\u137f"),
    ("km", "\u1780-\u17ff"),
    ("latin", "A-Za-z\u00c0-\u024f\u1e00-\u1eff"),
)
_SCRIPTS = re.compile("|".join(f"(?P<{name}>[{letters}])" for name, letters in _LETTERS_OF))
_STOP_WORDS = {  # of two letters or more, but for a few that mean nothing in other languages
    "en": "the and of to in is that it for with you are this was what how my your please write have has not from on as "
    "a i do be or he she we me they see can will would which when where who if but an at by no so am i'm its their "
    "there",
    "de": "der die das und ist nicht ein eine mit auf für von zu den dem es ich sie wir wurde am im er bitte siehe "
    "danach du wie heißt geht guten einen mir über heiße schreibe",
    "fr": "le la les et est des une un dans pour que qui pas vous je nous sur avec au aux ce cette du où ça va il elle "
    "bonjour merci écris quoi",
    "es": "el la los las es de que una un por para con del se al como su está en si mi tu qué cómo "
    "hola gracias escribe",
    "it": "il lo gli che di una un per con del della non si nel sono questo vedi ciao grazie come bene poi perché "
    "scrivi è via dove chiamo anche",
    "pt": "os as de que uma um por para com não do da em na você obrigado obrigada olá tudo bem seu sua escreva",
    "nl": "de het een en is van niet dat voor met op te zijn ik je wij komt heer hij bedankt goed naar hoe gaat "
    "schrijf",
    "pl": "na nie się jest że do to jak co po dla proszę pan pani dobrze czy dziękuję napisz cześć",
    "cs": "je se na že to jsem jak pro ale není pak dne děkuji prosím napiš byl",
    "sv": "och är att det som en ett på för inte med jag av hej mår du tack hur skriv berättelse",
    "da": "og er at det som en et på for ikke med jeg af han den så hun kom tak hvad skriv dansk",
    "fi": "ja on ei että se kun oli mutta niin ovat hän mitä hei sitten tämä minä kiitos kirjoita",
    "tr": "ve bir bu için ile çok ne da de değil merhaba nasılsın teşekkürler ben sen yaz",
    "hu": "és az hogy nem egy van ez meg szia köszönöm aztán jól kérem vagy írj",
    "ro": "și este nu că în pe cu un pentru din ce mai bună mulțumesc scrie",
}
_WORDS_OF = {language: frozenset(words.split()) for language, words in _STOP_WORDS.items()}
_ALPHABETS = {  # letters beyond a to z, those of foreign words left out
    "de": "äöüß",
    "fr": "àâæçéèêëîïôœùûü",
    "es": "áéíñóúü",
    "it": "àèéìíîòóùú",
    "pt": "áâãàçéêíóôõúü",
    "nl": "áéëíïóöúü",
    "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňóřšťúůýž",
    "sv": "åäöé",
    "da": "æøåé",
    "fi": "äöå",
    "tr": "çğıöşüâî\u0307",
    "hu": "áéíóöőúüű",
    "ro": "ăâîșțşţ",
}
_ENOUGH = 2
"""Different stop words that another language than English needs; one is enough if it has four letters or more, or if
the language has all letters of the text that English has not."""


def is_language_code(code: object) -> bool:
    """Whether a value has the form of a language code such as "de" or "pt-BR"."""
    return isinstance(code, str) and _CODE.fullmatch(code) is not None


def base_language(code: str) -> str:
    """The language of a code, without script and country; Norwegian is taken as Danish, whose abbreviations it has."""
    base = code.replace("_", "-").split("-")[0].lower()
    return "da" if base in ("nb", "nn", "no") else base


def guessed_language(text: str) -> str:
    """The code of the language that a text is probably written in; "en" where nothing tells."""
    sample = text[:_SAMPLE]
    scripts = Counter(match.lastgroup for match in _SCRIPTS.finditer(sample))
    if not scripts:
        return DEFAULT
    for name in ("han", "kana"):
        scripts[name] *= _LETTERS_A_CHARACTER
    script = str(max(scripts, key=lambda name: scripts[name]))
    if script in ("han", "kana"):
        return "ja" if scripts["kana"] else "zh"
    if script == "cyrillic":
        return "uk" if re.search("[іїєґІЇЄҐ]", sample) else "ru"
    if script == "arabic":
        return "ur" if re.search("[ٹڈڑںے۔]", sample) else "fa" if re.search("[پچژگ]", sample) else "ar"
    return _latin_language(sample) if script == "latin" else script


def _latin_language(sample: str) -> str:
    words = Counter(re.findall(r"[^\W\d_]+", sample.lower()))
    letters = {letter for word in words for letter in word if not letter.isascii() and letter not in "ºª"}
    writing = {language for language, own in _ALPHABETS.items() if letters and letters <= set(own)}
    found = {language: [word for word in stops if word in words] for language, stops in _WORDS_OF.items()}
    hits = {
        language: sum(words[word] for word in said) + (language in writing)
        for language, said in found.items()
        if language == DEFAULT
        or len(said) >= _ENOUGH
        or any(len(word) > 3 for word in said)
        or (language in writing and said)
    }
    return max(hits, key=lambda language: hits[language])  # English comes first, so it wins where none has more
