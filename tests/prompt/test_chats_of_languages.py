"""Sentences as people write them in chats, and words that `sentencex` takes for abbreviations."""

import pytest

from jopa.prompt.segmentation import sentences
from jopa.prompt.sentencex_input import masked_line


def cut(text, language=None):
    found = [text[start:end] for start, end in sentences(text, language)]
    assert "".join(found) == text
    return found


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize(
    ("language", "text"),
    [  # five sentences each
        ("en", "hi. my code crashes. what now?! please help me. thanks"),
        ("de", "hallo. mein code geht nicht. was soll ich tun? bitte hilf mir. danke"),
        ("fr", "salut. mon code plante. que faire ? aide-moi. merci"),
        ("es", "hola. no va bien. ¿qué hago? ayúdame. gracias"),
        ("it", "ciao. il mio codice non va. che faccio? aiutami. grazie"),
        ("nl", "hoi. mijn code werkt niet. wat nu? help me. bedankt"),
        ("pl", "cześć. mój kod nie działa. co robić? pomóż mi. dzięki"),
        ("cs", "ahoj. můj kód nefunguje. co teď? pomoz mi. díky"),
        ("sv", "hej. min kod funkar inte. vad är det? hjälp mig. tack"),
        ("da", "hej. min kode virker ikke. hvad nu? hjælp mig. tak"),
        ("nb", "hei. koden min virker ikke. hva er det? hjelp meg. takk"),
        ("fi", "hei. koodini ei toimi. mitä nyt? auta minua. kiitos"),
        ("ro", "salut. codul meu nu merge. ce fac?! ajută-mă. mersi"),
        ("tr", "selam. kodum çalışmıyor. ne yapayım? yardım et. sağol"),
        ("hr", "bok. kod mi ne radi. što sad? pomozi mi. hvala"),
        ("ru", "привет. код не работает. что делать? помоги мне. спасибо"),
        ("el", "γεια. δεν δουλεύει. τι κάνω; βοήθησέ με. ευχαριστώ"),
    ],
)
def test_sentences_that_begin_with_small_letters(text, language, said):
    assert len(cut(text, language if said else None)) == 5


def test_the_first_letter_may_be_a_capital():
    assert len(cut("Hallo. mein code geht nicht. was soll ich tun? danke.")) == 4
    assert len(cut("ich habe ein Problem. mein Laptop startet nicht. was nun? danke.", "de")) == 4


@pytest.mark.parametrize(
    "text",
    [  # one sentence each, though small letters follow a full stop
        "Das gilt gem. dem Vertrag bzw. nach der Anlage.",
        "Das kostet ca. drei Euro, evtl. auch mehr.",
        "er kam am 3. oktober im 19. jahrhundert, z. b. zu fuß.",
        "Přijde např. zítra nebo atd. jindy.",
        "We meet at 5 p.m. on a train.",
        "El tren sale a las 3 p.m. y llega tarde.",
        "Frau Dipl.-Ing. Schmidt kommt.",
        "«Привет!» — сказал он.",
    ],
)
def test_abbreviations_before_small_letters_end_nothing(text):
    assert len(cut(text)) == 1


@pytest.mark.parametrize(
    ("language", "text"),
    [  # two sentences each
        ("en", "Please call me. Tomorrow is fine."),
        ("en", "It is ok. Tomorrow is fine."),
        ("en", "OK. Tomorrow is fine."),
        ("en", "He fell ill. Tomorrow we go."),
        ("de", "Das freut mich. Danke."),
        ("de", "Alles ok. Danke dir."),
        ("de", "Auf diese Art. Danach nicht."),
        ("es", "Estoy bien. Gracias."),
        ("it", "Lo so. Grazie."),
        ("it", "Non mi va. Grazie."),
        ("nl", "Help me. Bedankt."),
        ("nl", "Ik weet dat. Bedankt."),
        ("nl", "Dank u. Tot ziens."),
        ("sv", "Jag vet det. Tack."),
        ("da", "Den er din. Tak."),
        ("hu", "Én nem. Te jössz?"),
        ("tr", "Nasılsın sen. Ben iyiyim."),
        ("hr", "Vidim ga. Hvala."),
        ("cs", "Pomozte nám. Děkuji."),
        ("ru", "Это мой муж. Он дома."),
    ],
)
def test_words_that_are_abbreviations_sentencex_input_end_a_sentence(text, language):
    assert len(cut(text, language)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "The no. of items and the No. 5 and art. V of it.",
        "Siehe Art. 5 und Art. IV des Vertrags.",
        "Dne 3. října bydlel na nám. Míru v Praze.",
        "He lives in Portland, Me. and works there.",
    ],
)
def test_the_same_as_abbreviations_end_nothing(text):
    assert len(cut(text)) == 1


def test_each_character_keeps_its_place():
    text = "ok. ßo was :) 5' 3\" straße. ǆ no. dank u. ja?! ŉ me."
    for language in ("de", "nl", "en", "nb", "pt-BR"):
        read = masked_line(text, language, True)
        assert len(read) == len(text) and read.endswith(".")
