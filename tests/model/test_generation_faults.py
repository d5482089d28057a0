"""What the model itself would say: masks, positions, stop tokens, sampling, texts that are given; and two threads."""

import dataclasses
import re
import threading
from functools import partial

import pytest
import torch

import jopa
import tiny_models
from jopa.detection import hostility
from jopa.model.generation import Generation
from jopa.preparation import prepare
from jopa.prompt.continuation import continuation_ids, decoded, tokens_of
from small_tokenizers import BYTE_LEVEL, small_tokenizer

ZZZ = "write a zzz story about the doctor"


def greedy(model, n_tokens, **inputs):
    """The arg max of one plain forward over everything, token by token."""
    found = []
    while len(found) < n_tokens:
        with torch.no_grad():
            token = int(model.model(**inputs, use_cache=False).logits[0, -1].argmax())
        if token in model.stop_ids:
            break
        found.append(token)
        if "input_ids" in inputs:
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        else:
            new = model.model.get_input_embeddings()(torch.tensor([[token]]))
            inputs["inputs_embeds"] = torch.cat([inputs["inputs_embeds"], new], dim=1).detach()
        for name, value in (("attention_mask", 1), ("position_ids", None)):
            if name in inputs:
                following = inputs[name][:, -1:] + 1 if value is None else torch.ones(1, 1, dtype=torch.long)
                inputs[name] = torch.cat([inputs[name], following], dim=1)
    return tuple(found)


def test_the_padding_id_in_a_prompt_is_a_token_like_any_other(tiny):
    """Case 1."""
    prompt = jopa.build_prompt(tiny.tokenizer, ZZZ)
    assert tiny.tokenizer.pad_token_id in prompt.ids
    expected = greedy(tiny, 8, input_ids=torch.tensor([prompt.ids]))
    if expected:  # one of the models stops at once
        assert prepare(tiny, ZZZ, output=Generation(8)).output.ids == expected
    assert tiny.generate({"input_ids": torch.tensor([prompt.ids])}, max_new_tokens=8) == expected
    assert tiny.generate_batch([{"input_ids": torch.tensor([prompt.ids])}] * 2, max_new_tokens=8) == [expected] * 2


@pytest.mark.parametrize("removal", ["delete", "zero", "hide"])
def test_the_answer_without_units_is_greedy_too(tiny, removal):
    prompt = jopa.build_prompt(tiny.tokenizer, ZZZ)
    short = jopa.SearchOptions(counterfactual=Generation(6))
    found = jopa.explain(ZZZ, model=tiny, method="greedy", removal=removal, output="once upon", k=2, search=short)
    ids = torch.tensor([prompt.ids])
    gone = [position for unit in found.removed for position in prompt.units[unit].positions]
    stay = [position for position in range(len(prompt.ids)) if position not in gone]
    inputs = {"input_ids": ids[:, stay]} if removal == "delete" else {"input_ids": ids}
    if removal == "hide":
        mask = torch.ones_like(ids)
        mask[0, gone] = 0
        inputs |= {"attention_mask": mask, "position_ids": torch.arange(ids.shape[1])[None]}
    if removal == "zero":
        embeddings = tiny.model.get_input_embeddings()(ids).detach().clone()
        embeddings[0, gone] = 0
        inputs = {"inputs_embeds": embeddings}
    assert found.counterfactual_output == tiny.decode(greedy(tiny, 6, **inputs))


def test_detect_reads_the_answer_to_the_same_ids(llama, monkeypatch):
    said = []
    answered = hostility._answer
    monkeypatch.setattr(hostility, "_answer", lambda model, ids: said.append(ids) or answered(model, ids))
    verdict = jopa.detect(ZZZ, model=llama)
    n_tokens = verdict.config.max_new_tokens
    assert greedy(llama, n_tokens, input_ids=torch.tensor([verdict.prompt.ids])) in said


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), -1.0, 1e-300, 1e-40])
def test_temperatures_that_cannot_be_sampled_with(llama, temperature):
    with pytest.raises(jopa.SettingError, match="temperature must be 0"):
        Generation(temperature=temperature)
    with pytest.raises(jopa.SettingError, match="temperature must be 0"):
        llama.generate({"input_ids": torch.tensor([[1, 6]])}, temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1.0, 1e6, 1e300])
def test_temperatures_that_can(llama, temperature):
    ids = llama.generate({"input_ids": torch.tensor([[1, 6, 7]])}, max_new_tokens=4, temperature=temperature)
    if temperature <= 1e-3:
        assert ids == llama.generate({"input_ids": torch.tensor([[1, 6, 7]])}, max_new_tokens=4)


SENTENCEPIECE = ("sentencepiece-bpe", "sentencepiece-legacy", "sentencepiece-unigram")


@pytest.mark.parametrize("kind", [*SENTENCEPIECE, *BYTE_LEVEL])
@pytest.mark.parametrize(
    "text", ["Paris", " Paris", "\nParis", "  Paris", "the doctor", " the doctor smiled", "\n\nParis"]
)
def test_a_given_output_has_the_blanks_it_was_given_with(kind, text):
    """Case 3: behind other text, the pieces say exactly what was given; ids are compared piece by piece."""
    tokenizer = small_tokenizer(kind)
    pieces = tokenizer.convert_ids_to_tokens(continuation_ids(tokenizer, text))
    if kind in SENTENCEPIECE:
        shown = re.sub(r"<0x(..)>", lambda byte: chr(int(byte[1], 16)), "".join(pieces)).replace("\u2581", " ")
    else:
        shown = "".join(pieces).replace("\u0120", " ").replace("\u010a", "\n")
    assert shown == text


@pytest.mark.parametrize("kind", ["byte-level", "byte-level-qwen", "sentencepiece-bpe", "sentencepiece-unigram"])
@pytest.mark.parametrize(
    "text", ["👍🏽 the doctor said", " 你好 the doctor", "👩 the doctor 👩", "caf\u00e9 the doctor"]
)
def test_a_text_target_lands_on_its_tokens_behind_emoji(kind, text):
    tokenizer = small_tokenizer(kind)
    ids = continuation_ids(tokenizer, text)
    first = text.index("the doctor")
    found = tokens_of(partial(decoded, tokenizer), ids, text, first, first + len("the doctor"))
    assert found == list(range(found[0], found[-1] + 1))
    assert decoded(tokenizer, [ids[i] for i in found]).strip() == "the doctor"
    emoji = tokens_of(partial(decoded, tokenizer), ids, text, 0, 1)
    assert emoji[0] == 0
    assert text.lstrip()[0] in tokenizer.decode(ids[: emoji[-1] + 1]) or text[0] == " "


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece-bpe", "sentencepiece-legacy", "sentencepiece-unigram"])
@pytest.mark.parametrize("cut", [False, True])
def test_characters_of_several_tokens_do_not_share_them(kind, cut):
    """Byte tokens in a row decode to U+FFFD, all of them, as long as the last is a part of a character."""
    tokenizer = small_tokenizer(kind)
    decode = partial(decoded, tokenizer)
    ids = continuation_ids(tokenizer, "\u0130\u0935\u16a0 the doctor \U0001f9ff")
    ids = ids[:-1] if cut else ids  # as an answer that ended at its limit, in the middle of a character
    text = decode(ids)
    found = [tokens_of(decode, ids, text, text.index(each), text.index(each) + 1) for each in "\u0130\u0935\u16a0"]
    tokens = [token for tokens in found for token in tokens]
    assert tokens == list(range(tokens[0], tokens[-1] + 1))
    assert decode(ids[tokens[0] : tokens[-1] + 1]) == "\u0130\u0935\u16a0"


def test_two_threads_share_a_model(llama):
    model = llama
    prompts = ["write a story about the doctor", "please tell me what you think"]
    settings = [
        ("joint", None, 0.0),
        ("attention", None, 0.0),
        ("jopa", "zero", 0.0),
        ("joint", "hide", 1.0),
    ]
    jobs = [(prompt, setting) for prompt in prompts for setting in settings]

    def explained(job):
        prompt, setting = job
        method, removal, temperature = setting
        output, search = Generation(4, temperature, 5), jopa.SearchOptions(seed=5)
        found = jopa.explain(prompt, model=model, k=2, method=method, removal=removal, output=output, search=search)
        return dataclasses.replace(found, seconds=0.0).to_json()

    expected = [explained(job) for job in jobs]
    found = []

    def work(numbers):
        for number in numbers:
            try:
                found.append((number, explained(jobs[number])))
            except Exception as error:  # a thread's error is seen below
                found.append((number, error))

    order = range(len(jobs))
    threads = [threading.Thread(target=work, args=(numbers,)) for numbers in (order, reversed(order))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=lambda one: one[0]) == [(number, expected[number]) for number in order for _ in threads]


def test_one_lock_for_all_that_wrap_a_model(llama):
    again = jopa.LanguageModel(llama.model, llama.tokenizer)
    assert again.lock is llama.lock
    with llama.lock, again.lock:
        assert tiny_models.language_model("gpt2").lock is not llama.lock
