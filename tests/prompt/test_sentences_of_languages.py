"""Abbreviations, ordinal numbers, brackets and quotations that end no sentence, without the language being said."""

import pytest

from jopa.prompt.language import guessed_language
from jopa.prompt.segmentation import sentences, words


def cut(segmenter, text, language=None):
    return [text[start:end] for start, end in segmenter(text, language)]


@pytest.mark.parametrize(
    "text",
    [  # two sentences each
        "Dr. Müller und Prof. Schmidt usw. kamen. Gut.",
        "Ludwig XIV. war König. Er starb.",
        "C'est p. ex. le cas de l'art. 5 de la loi. Voilà.",
        "Vive en la Av. Central núm. 5. Adiós.",
        "Vedi pag. 5 e art. 3. Poi basta.",
        "O Sr. Silva e a Dra. Costa chegaram. Tudo bem?",
        "Dhr. de Vries komt a.s. maandag. Fijn.",
        "Pan dr. Kowalski mieszka na ul. Długiej 5 m. 3. Dobrze.",
        "Dne 3. října 1990 přišel. Pak odešel.",
        "1990. október 3-án jött. Aztán elment.",
        "Hän tuli 3. lokakuuta, esim. autolla. Sitten lähti.",
        "Bra, t.ex. idag. Hur mår du?",
        "Han kom den 3. oktober 1990. Så gik han.",
        "Merhaba, Sn. Yılmaz geldi. Nasılsın?",
        "Это т. е. хорошо, и т. д. Конец.",
        "वह डॉ. शर्मा हैं। ठीक।",
        "See vol. 3, sec. 4, ch. 5 and approx. 6 others. Then go on.",
        "We met on Mon. and on Tue. as well. Fine.",
        "The answer is no. They did not go.",
        "I like cats, dogs, etc. They are nice.",
        "(This is one.) This is two.",
        "He said it (so it was.) Then he left.",
        "(a) buy milk. (b) call home.",
        "She's 5' 3\" tall. He is taller.",
        "Oh :( I am sad. Help me :)",
        "<p>One.</p> <p>Two.</p>",
        "![Fig. A](b.png). Next.",
        "「こんにちは。」と言った。元気です。",
        '그는 "안녕."이라고 말했다. 그리고 갔다.',
        "Wir treffen uns am Mo., 5. Mai, um 10.30 Uhr. Passt das?",
        "Vivo en c/ Mayor n.º 5, 3.º B. ¿Dónde vives tú?",
        "В городе живут 5 млн. человек. Это много.",
        "Η τιμή είναι 3,50 €. Τι λες;",
        "Tôi sống ở TP. Hồ Chí Minh. Giúp tôi với!",
        "See Refs. 4 and 5. They show it.",
        "Go there! Now. 🎉",
    ],
)
def test_two_sentences_whatever_the_language(text):
    found = cut(sentences, text)
    assert "".join(found) == text
    assert len(found) == 2, found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 5 kb. Then stop. Np. Thanks.", 4),
        ("Edit .env. Then run. I met Tom. 5 people came.", 4),
        ("I saw art. It was good. My friend Max. He left.", 4),
        ("See chapter 19. then go on.", 2),
    ],
)
def test_words_that_are_abbreviations_elsewhere_end_a_sentence(text, expected):
    assert len(cut(sentences, text)) == expected


@pytest.mark.parametrize("language", ["nb", "nn", "no-NO"])
def test_norwegian_has_the_abbreviations_of_danish(language):
    expected = ["Møtet er kl. 10 den 17. mai. ", "Kari m.fl. kom. ", "Dvs. nei, det er min. ", "Vi ses."]
    text = "".join(expected)
    assert [text[start:end] for start, end in sentences(text, language)] == expected


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Dr. Müller und Prof. Schmidt", "de"),
        ("Wie geht es dir?", "de"),
        ("Où est la gare ?", "fr"),
        ("¿Cómo estás?", "es"),
        ("Perché non vieni?", "it"),
        ("Olá, tudo bem?", "pt"),
        ("Cześć, jak się masz?", "pl"),
        ("Dne 3. října 1990 přišel.", "cs"),
        ("Skriv en berättelse", "sv"),
        ("Han kom den 3. oktober.", "da"),
        ("Hän tuli 3. lokakuuta.", "fi"),
        ("1990. október 3-án jött. Aztán elment.", "hu"),
        ("Merhaba. Nasılsın?", "tr"),
        ("My friend Jürgen and I", "en"),
        ("What is a naïve café?", "en"),
        ("List Gödel theorems", "en"),
        ("I love São Paulo", "en"),
        ("Abito in via Roma n. 5. Il prof. Rossi è qui.", "it"),
        ("translate to German: Guten Tag", "en"),
    ],
)
def test_a_short_text_tells_its_language(text, language):
    assert guessed_language(text) == language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("བཀྲ་ཤིས་བདེ་ལེགས། ང་", ["བཀྲ་", "ཤིས་", "བདེ་", "ལེགས།", " ང་"]),
        ("ሰላም፡ለዓለም ሰላም", ["ሰላም፡", "ለዓለም", " ሰላም"]),
    ],
)
def test_words_parted_by_other_marks_than_blanks(text, expected):
    assert cut(words, text) == expected
