"""The cache of answers: what tells one from another, damage, owners and size."""

import os
from dataclasses import replace

import pytest
import torch

import jopa
import tiny_models
from jopa.model import answer_cache
from jopa.model.answer_cache import AnswerCache, weights_sample

IDS, GREEDY = (1, 6, 7, 8), jopa.Generation(5)


@pytest.fixture
def cache(tmp_path):
    return AnswerCache(tmp_path / "answers")


def test_an_answer_is_found_under_its_own_key_alone(cache, llama):
    cache.put(llama, IDS, GREEDY, (9, 10))
    assert cache.get(llama, IDS, GREEDY) == (9, 10)
    others = [
        (llama, (1, 6, 7), GREEDY),
        (llama, IDS, jopa.Generation(6)),
        (llama, IDS, jopa.Generation(5, 0.5)),
        (replace(llama, id="other"), IDS, GREEDY),
        (tiny_models.language_model("qwen3"), IDS, GREEDY),
    ]
    assert [cache.get(*other) for other in others] == [None] * len(others)
    assert cache.found == 1


def test_other_weights_under_the_same_name_have_other_answers(llama):
    before = weights_sample(llama)
    parameter = next(iter(llama.model.parameters()))
    kept = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.mul_(1.001)
        assert weights_sample(llama) != before
    finally:
        with torch.no_grad():
            parameter.copy_(kept)
    assert weights_sample(llama) == before


def test_weights_that_lie_in_buffers_count_too(llama):
    """GPTQ and AWQ keep theirs so."""
    before = weights_sample(llama)
    llama.model.lm_head.register_buffer("qweight", torch.ones(3, dtype=torch.int32))
    try:
        other = weights_sample(llama)
        llama.model.lm_head.qweight += 1
        assert len({before, other, weights_sample(llama)}) == 3
    finally:
        del llama.model.lm_head.qweight


@pytest.mark.parametrize("change", ["configuration", "module"])
def test_other_settings_of_the_same_weights_have_other_answers(cache, llama, change):
    """As a factor of an adapter, which adapter is active, or an edited config.json."""
    cache.put(llama, IDS, GREEDY, (9, 10))
    changed, name = (llama.model.config, "rms_norm_eps") if change == "configuration" else (llama.model, "scaling")
    before = getattr(changed, name, None)
    try:
        setattr(changed, name, 0.25 if change == "configuration" else {"default": 0.25})
        assert cache.get(llama, IDS, GREEDY) is None
    finally:
        if before is None:
            delattr(changed, name)
        else:
            setattr(changed, name, before)
    assert cache.get(llama, IDS, GREEDY) == (9, 10)


def test_the_key_is_the_same_after_work(cache, llama):
    cache.put(llama, IDS, GREEDY, (9, 10))
    jopa.explain("write a story", model=llama, k=1, removal="delete", output="once upon")
    llama.generate_ids(IDS, GREEDY)
    assert cache.get(llama, IDS, GREEDY) == (9, 10)


class NoValues(torch.Tensor):
    """Weights of a format whose tensors cannot be flattened."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.flatten:
            raise NotImplementedError("flatten")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_where_weights_cannot_be_read_no_answer_is_kept(cache, llama):
    llama.model.lm_head.register_buffer("packed", torch.ones(3).as_subclass(NoValues))
    try:
        cache.put(llama, IDS, GREEDY, (9, 10))
        assert cache.get(llama, IDS, GREEDY) is None
        assert not list(cache.folder.glob("*.json"))
    finally:
        del llama.model.lm_head.packed


@pytest.mark.parametrize("damage", ["", "{", '{"schema": 1, "ids": []}', '{"schema": 1, "ids": [99999]}', "[1]"])
def test_a_damaged_file_is_no_answer(cache, llama, damage):
    cache.put(llama, IDS, GREEDY, (9, 10))
    (path,) = cache.folder.glob("*.json")
    path.write_text(damage)
    assert cache.get(llama, IDS, GREEDY) is None
    cache.put(llama, IDS, GREEDY, (9, 10))
    assert cache.get(llama, IDS, GREEDY) == (9, 10)


def test_it_is_ours_alone(cache, llama):
    cache.put(llama, IDS, GREEDY, (9, 10))
    (path,) = cache.folder.glob("*.json")
    assert path.stat().st_mode & 0o077 == cache.folder.stat().st_mode & 0o077 == 0
    cache.folder.chmod(0o777)
    with pytest.raises(jopa.ModelError, match=r"can be written by others.*--no-answer-cache"):
        AnswerCache(cache.folder)


def test_the_oldest_go_first(cache, llama, monkeypatch):
    monkeypatch.setattr(answer_cache, "MAX_ANSWERS", 2)
    for n in (1, 2):
        cache.put(llama, (n,), GREEDY, (9,))
    for age, path in enumerate(sorted(cache.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (1000 + age, 1000 + age))
    assert cache.get(llama, (1,), GREEDY) == (9,)  # used last now
    cache.put(llama, (3,), GREEDY, (9,))
    assert cache.get(llama, (2,), GREEDY) is None
    assert cache.get(llama, (1,), GREEDY) == cache.get(llama, (3,), GREEDY) == (9,)


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, llama):
    (tmp_path / "file").write_text("")
    cache = AnswerCache(tmp_path / "file" / "answers")
    cache.put(llama, IDS, GREEDY, (9,))
    assert cache.get(llama, IDS, GREEDY) is None
