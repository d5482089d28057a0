"""Sentences and words where a library alone leaves boundaries out."""

import pytest

from jopa.prompt.segmentation import sentences, words


def cut(segmenter, text, language=None):
    return [text[start:end] for start, end in segmenter(text, language)]


@pytest.mark.parametrize(
    ("text", "n_sentences"),
    [
        ("សួស្តី។ សុខសប្បាយទេ? ល្អ។", 3),
        ("សួស្តី។ល្អ។", 2),
        ("བཀྲ་ཤིས་བདེ་ལེགས། ཁྱེད་རང་།  ། ང་བདེ་པོ་ཡིན།", 3),
        ("Er wurde im 19. Jahrhundert geboren. Danach zog er um.", 2),
        ("Wir treffen uns am 3. Tag. Bitte komm.", 2),
        ("Im 19. Jahrhundert lebte er. Gut.", 2),
        ("Ich habe 19. Danach kam er.", 2),
        ("See chapter 19. Then go on.", 2),
    ],
)
def test_stops_of_other_scripts_and_german_ordinals(text, n_sentences):
    found = cut(sentences, text)
    assert len(found) == n_sentences
    assert "".join(found) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ผมใช้ Python3เขียน", ["ผม", "ใช้", " Python3", "เขียน"]),
        ("iPhoneใหม่", ["iPhone", "ใหม่"]),
        ("ใช้3คน", ["ใช้", "3", "คน"]),
        ("hello世界foo", ["hello", "世界", "foo"]),
    ],
)
def test_a_script_without_blanks_beside_one_with_blanks(text, expected):
    assert cut(words, text) == expected
