"""Words, sentences, lines and paragraphs of texts as people write them, in many languages."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jopa.prompt.language import guessed_language
from jopa.prompt.segmentation import SEGMENTERS, TOKEN_BYTES, WORD_BYTES, fitting_unit


def cut(kind, text, language=None):
    return [text[start:end] for start, end in SEGMENTERS[kind](text, language)]


PROGRAM = "```python\nprint('Hi. There.')  # ok? Yes\n\nx = a.b\n```\n"
TABLE = "| name | note |\n|------|------|\n| Ann | Came late. Left early. |\n"
E_MAIL = (
    "Dear Dr. Smith,\n\nthe U.S. team met at 10.30 a.m. in Fig. 5 of https://jopa.org/a.html?x=1&y=2. It cost "
    "$1,234.56! Write to first.last@jopa.org. Thanks\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "hi. my code crashes on start. what should i do? please help.",
            ["hi. ", "my code crashes on start. ", "what should i do? ", "please help."],
        ),
        ("Am 3. Oktober 1990 wurde gefeiert. Danach regnete es.", 2),
        ("Siehe Nr. 5 der Liste.", 1),
        ("你好吗?我很好.谢谢", ["你好吗?", "我很好.", "谢谢"]),
        ("ठीक हूँ।अच्छा।", 2),
        ("Բարև։ Ինչպես ես։", 2),
        (PROGRAM, ["```python\n", "print('Hi. There.')  # ok? Yes\n\n", "x = a.b\n", "```\n"]),
        (TABLE, TABLE.splitlines(keepends=True)),
        (
            E_MAIL,
            [
                "Dear Dr. Smith,\n\n",
                "the U.S. team met at 10.30 a.m. in Fig. 5 of https://jopa.org/a.html?x=1&y=2. ",
                "It cost $1,234.56! ",
                "Write to first.last@jopa.org. ",
                "Thanks\n",
            ],
        ),
        (
            "Do:\n1. Buy milk. Now.\n2. Call.\n - a) eggs",
            ["Do:\n", "1. Buy milk. ", "Now.\n", "2. Call.\n", " - a) eggs"],
        ),
        ("**Bold.** Use `a. B` here. End.", ["**Bold.** ", "Use `a. B` here. ", "End."]),
        ('{\n  "note": "One. Two.",\n}', ["{\n", '  "note": "One. Two.",\n', "}"]),
        ("    x = f('A. B')\nMore. Text.", ["    x = f('A. B')\n", "More. ", "Text."]),
        ("Translate this. Text: {text}", ["Translate this. ", "Text: {text}"]),
    ],
)
def test_sentences_of_real_prompts(text, expected):
    found = cut("sentence", text)
    assert (len(found) if isinstance(expected, int) else found) == expected


def test_a_given_language_wins_over_the_guess():
    text = "Nr. 5. Oktober"
    assert len(cut("sentence", "Am 3. Oktober kam er.", "en")) == 2
    assert len(cut("sentence", "Am 3. Oktober kam er.", "de")) == 1
    assert "".join(cut("sentence", text, "de")) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ผมชื่อสมชาย", ["ผม", "ชื่อ", "สมชาย"]),
        ("请看https://jopa.org/a.b谢谢", ["请看", "https://jopa.org/a.b", "谢谢"]),
        ("iPhone手机 3.5 kg", ["iPhone", "手机", " 3.5", " kg"]),
        ("𠀀 😀(你好)!", ["𠀀", " 😀(你好)!"]),
        ("don't stop-now, e.g. a_b@c.org", ["don't", " stop-now,", " e.g.", " a_b@c.org"]),
    ],
)
def test_words(text, expected):
    assert cut("word", text) == expected


def test_paragraphs_end_at_empty_lines_but_not_inside_code():
    text = "\nOne.\ntwo\n \n\n" + PROGRAM + "\r\n\r\nLast\n"
    assert cut("paragraph", text) == ["\nOne.\ntwo\n \n\n", PROGRAM + "\r\n\r\n", "Last\n"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Write a story about the doctor.", "en"),
        ("No. See No. 5.", "en"),
        ("Schreibe bitte eine Geschichte.", "de"),
        ("Écris une histoire pour les enfants.", "fr"),
        ("Напиши рассказ", "ru"),
        ("Напиши їй", "uk"),
        ("物語を書いて", "ja"),
        ("写一个故事 about GPT", "zh"),
        ("12 + 5 = ?", "en"),
        ("", "en"),
    ],
)
def test_the_language_is_guessed(text, language):
    assert guessed_language(text) == language


def test_the_unit_follows_the_length():
    assert fitting_unit("Write a story about the doctor and his patient.") == "token"
    assert fitting_unit("a" * TOKEN_BYTES) == "token"
    assert fitting_unit("word " * (TOKEN_BYTES // 5) + "more") == "word"
    page = "This is a sentence of a page. " * (WORD_BYTES // 30 + 1)
    assert fitting_unit(page) == "sentence"
    assert fitting_unit("word " * (WORD_BYTES // 5) + "without any end") == "word"
    assert fitting_unit("请写一个故事。" * 10) == "word"  # 70 characters, but about as many tokens as 210 of English


@pytest.mark.parametrize("kind", SEGMENTERS)
@given(
    text=st.text(min_size=1, max_size=80)
    | st.text("aB1. \n\r\t`|~*-(){};=\"'@:/你好ก!?。\u3099😀", min_size=1, max_size=80)
)
@settings(max_examples=300, deadline=None)
def test_segments_rebuild_the_text(kind, text):
    spans = SEGMENTERS[kind](text, None)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)


@pytest.mark.parametrize(
    "text", ["你好。" * 30_000, "x" * 100_000, "1.2" * 30_000, "a@" * 40_000, "http://." * 10_000, ".) " * 20_000]
)
def test_long_lines_take_no_quadratic_time(text):
    began = time.process_time()
    for segment in SEGMENTERS.values():
        segment(text, None)
    assert time.process_time() - began < 10
