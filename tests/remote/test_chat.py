"""Chat APIs: messages are edited and sent, answers compared, noise measured, and no score is called log-probability."""

import asyncio
import itertools
import json

import httpx
import pytest
import torch
from fake_server import FakeChat, connect_chat

import jopa
from jopa.model.generation import Generation
from jopa.remote.chat_model import ChatRequest
from jopa.remote.conversation import character_tokenizer, messages_of

PROMPT = "Write a story about the doctor and his patient."
KEY = "sk-very-secret-0123456789"


def story(messages):
    """Two words of the prompt stand in for each other: only without both is the answer another one."""
    said = " ".join(message["content"] for message in messages)
    medical = "doctor" in said or "patient" in said
    return "Once there was a good man in a hospital." if medical else "Sorry, I know no such thing."


def problem(server, prompt=PROMPT, *, output=None, unit="word", **settings):
    model = connect_chat(server, **settings)
    built = jopa.build_prompt(model.tokenizer, prompt, unit=unit)
    text = output or story([{"role": "user", "content": PROMPT}])
    said = jopa.Output(model.encode_continuation(text), text, (0, len(text)))
    return jopa.Problem(model.answer_scorer(built, said, "delete", Generation(20)))


def test_a_conversation_is_read_back_as_it_was():
    messages = [
        {"role": "system", "content": "Be kind.\n", "name": "it\ufdd0"},
        {"role": "user", "content": 'naïve 你好 👩‍👩‍👧 {"a": 1}'},
    ]
    tokenizer = character_tokenizer()
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert messages_of(text) == messages
    assert "".join(map(chr, tokenizer(text)["input_ids"])) == text


@pytest.mark.parametrize(
    ("prompt", "unit", "left"),
    [
        ("one two three", "word", "one three"),
        ("One is here. Two is there. Three.", "sentence", "One is here. Three."),
        ("one\ntwo\nthree", "line", "one\nthree"),
        ("one\n\ntwo\n\nthree", "paragraph", "one\n\nthree"),
        ("one two three", [(0, 3), (3, 7), (7, 13)], "one three"),
        ("один два три", "word", "один три"),
    ],
)
def test_units_are_deleted_from_the_texts(prompt, unit, left):
    server = FakeChat(lambda messages: messages[-1]["content"])
    problem(server, [{"role": "system", "content": "Two!"}, {"role": "user", "content": prompt}], unit=unit).log_prob(
        [1]
    )
    assert server.asked[-1]["messages"] == [
        {"role": "system", "content": "Two!"},
        {"role": "user", "content": left},
    ]
    assert server.asked[-1]["max_tokens"] == 20
    assert server.asked[-1]["temperature"] == 0


def test_a_score_is_the_similarity_of_the_answers():
    found = problem(FakeChat(story))
    words = PROMPT.split()
    doctor, patient = words.index("doctor"), words.index("patient.")
    assert found.log_prob() == 1.0
    assert found.log_prob([doctor]) == 1.0
    assert found.log_prob([doctor, patient]) < 0.2


def test_noise_is_measured_on_the_unchanged_prompt_and_widens_what_a_certificate_must_beat():
    answers = itertools.cycle(["one two three four", "one two three", "one two three four"])

    def say(messages):
        said = messages[0]["content"]
        if "a" in said.split() and "b" in said.split():
            return next(answers)
        return "one two" if "a" in said.split() else "one"

    server = FakeChat(say)
    noisy = problem(server, "a b c", output="one two three four")
    assert noisy.log_prob() == pytest.approx((1 + 6 / 7 + 1) / 3)
    assert noisy.scorer.noise == pytest.approx(1 / 7)
    assert len(server.asked) == 3
    alone = noisy.log_probs([[0], [1], [2]])
    assert alone[0] < alone[1] < alone[2]
    assert noisy.certificate([0]) == "optimal"  # 0.40 against 0.67: more than the noise
    noisy.scorer.noise = 0.3
    assert noisy.certificate([0]) == "none"


def test_scores_are_kept_and_the_unchanged_prompt_is_asked_anew():
    server = FakeChat(story)
    first, again = (problem(server, cache=True) for _ in range(2))
    sets = [[0], [4, 7]]
    once = first.log_probs([[], *sets])
    n_asked = len(server.asked)
    assert n_asked == 3 + 2
    assert again.log_probs([[], *sets]) == once
    assert len(server.asked) == n_asked + 3
    assert again.scorer.work.reused > 0


def test_the_answer_without_units_is_the_one_that_was_scored():
    server = FakeChat(story)
    found = problem(server)
    found.log_prob([5, 8])
    n_asked = len(server.asked)
    ids = found.scorer.generate(found.keep_mask([5, 8]), jopa.Generation(20))
    assert "".join(map(chr, ids)) == story([{"content": "Write a story about the and his"}])
    assert len(server.asked) == n_asked


def test_tokens_are_those_that_the_server_counts():
    server = FakeChat(story)
    found = problem(server)
    found.log_probs([[], [0]])
    assert found.scorer.work.tokens == 3 * (9 + 9) + 8 + 9
    assert found.ffe == pytest.approx((3 * 18 + 17) / 18)
    assert found.scorer.details["server"] == {"requests": 4, "tokens_sent": 71, "tokens_cached": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"unit": "token"}, "word"),
        ({"prefill": "Once"}, "prefill"),
        ({"plain": True}, "plain"),
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"template_args": {"thinking": True}}, "thinking"),
    ],
)
def test_what_a_chat_api_cannot_do_is_refused(arguments, said):
    with pytest.raises(jopa.JopaError, match=said):
        jopa.build_prompt(character_tokenizer(), PROMPT, **{"unit": "word", **arguments})


def test_a_part_of_the_answer_and_other_removals_are_refused():
    model = connect_chat(FakeChat(story))
    built = jopa.build_prompt(model.tokenizer, PROMPT, unit="word")
    with pytest.raises(jopa.SettingError, match="target"):
        model.scorer(built, jopa.Output((1, 2), "ab", (0, 1)), "delete")
    with pytest.raises(jopa.SettingError, match="delete"):
        model.scorer(built, jopa.Output((1, 2), "ab", (0, 2)), "zero")


def test_an_answer_without_text_is_one_line():
    answer = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    server = FakeChat(story, fault=lambda request, number: httpx.Response(200, json=answer) if number > 1 else None)
    with pytest.raises(jopa.ScoringError, match=r"no text \(finish_reason: length\)"):
        problem(server).log_prob()


def test_newer_names_of_the_limit_are_taken():
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."

    def fault(request, number):
        return httpx.Response(400, json={"error": {"message": said}}) if b'"max_tokens"' in request.content else None

    server = FakeChat(story, fault=fault)
    model = connect_chat(server)
    assert model.ask([ChatRequest(_text("hello"), 7)])[0].text.startswith("Sorry")
    assert server.asked[-1]["max_completion_tokens"] == 7


def _text(content):
    return character_tokenizer().apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_what_may_be_sent_is_limited_answers_included():
    server = FakeChat(story)
    limited = problem(server, max_tokens_sent=150)
    with pytest.raises(jopa.errors.LimitError, match="150 tokens"):
        for unit in range(9):
            limited.log_prob([unit])
    assert limited.scorer.ffe * 18 <= 150


def test_the_key_and_the_texts_are_in_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = FakeChat(story)
    problem(server, cache=True).log_probs([[], [1]])
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert written
    assert KEY.encode() not in written
    assert b"doctor" not in written


def test_a_message_that_loses_everything_stays_empty_as_roles_are_no_units():
    server = FakeChat(story)
    problem(server, "one two").log_prob([0, 1])
    assert server.asked[-1]["messages"] == [{"role": "user", "content": ""}]


def test_scores_do_not_hang_on_the_order_of_arrival():
    server = FakeChat(lambda messages: messages[0]["content"])
    right, count = server.transport.handler, itertools.count()

    async def late(request):
        await asyncio.sleep(0.01 * (next(count) % 3))
        return right(request)

    server.transport = httpx.MockTransport(late)
    model = connect_chat(server, in_flight=8)
    built = jopa.build_prompt(model.tokenizer, "a b c d e f", unit="word")
    scorer = model.scorer(built, jopa.Output(tuple(map(ord, "a b c")), "a b c", (0, 5)), "delete")
    keep = torch.ones(6, 6, dtype=torch.bool).tril()[1:]
    values = scorer.log_probs(keep)[:, 0].tolist()
    expected = [2 * min(n, 3) / (n + 3) for n in range(2, 7)]
    assert values == pytest.approx(expected)
    assert json.dumps(scorer.details)
