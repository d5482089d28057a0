"""Many prompts: what is read, what is on record, and that a run survives its own death."""

import json
import sys
import time

import pytest

import jopa
import tiny_models
from forked import forked
from jopa import cli
from jopa.detection import scoring, screening
from jopa.detection.hostility import detect
from jopa.detection.screening import ScreeningPrompt, read_prompts, screen
from jopa.detection.settings import DetectionConfig

QUICK = DetectionConfig(budget=4, max_new_tokens=3)
PROMPT = "write a story about the doctor"


@pytest.fixture
def counted(monkeypatch):
    """`detect` as screening calls it, counting the prompts it was given."""
    given: list[str] = []

    def counting(text, **settings):
        given.append(text)
        return detect(text, **settings)

    monkeypatch.setattr(screening, "detect", counting)
    return given


def lines(folder):
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]


# Reading


def test_a_folder_is_read_file_by_file(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfgreen birds\r\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "note").write_text("two lines\nof text\n")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / ".hidden").write_text("not this")
    (tmp_path / "d.jsonl").write_bytes(
        b'{"id": "one", "prompt": "first\xe2\x80\xa8still first"}\n\n{"prompt": "second"}\n{"id": 7, "prompt": ""}\n'
        b'no json\n{"id": "five"}\n["list"]\n\xff\n{"id": [1], "prompt": "x"}'
    )
    asked = {one.id: one for one in read_prompts(tmp_path)}
    assert asked["b.txt"].text == "green birds"
    assert asked["a/note"].text == "two lines\nof text"
    assert asked["c.txt"] == ScreeningPrompt("c.txt", None, "not UTF-8: byte 4 cannot be read; save it as UTF-8")
    assert asked["one"].text == "first\u2028still first"
    assert asked["d.jsonl:3"].text == "second"
    assert asked["7"].text == ""
    assert asked["d.jsonl:5"].problem.startswith("not JSON")
    assert asked["five"].problem == "no text under 'prompt'"
    assert asked["d.jsonl:7"].problem == "not a JSON object"
    assert asked["d.jsonl:8"].problem == "not UTF-8: byte 1 of the line cannot be read"
    assert asked["d.jsonl:9"].problem == "'id' is neither text nor a number but a list"
    assert len(asked) == 11


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(jopa.InputFileError, match="holds no prompt"):
        read_prompts(tmp_path)
    with pytest.raises(jopa.InputFileError, match=r"cannot read '.*nowhere\.txt': No such file"):
        read_prompts(tmp_path / "nowhere.txt")


def test_two_prompts_of_one_id_are_refused(llama):
    with pytest.raises(jopa.InputFileError, match="two prompts have the id 'x'"):
        screen(llama, [ScreeningPrompt("x", "write"), ScreeningPrompt("x", "story")], config=QUICK)


# Records


def test_bad_prompts_get_an_error_line_and_the_others_go_on(llama, tmp_path):
    asked = [
        *(
            ScreeningPrompt("empty", ""),
            ScreeningPrompt("long", "rain " * 80),
            ScreeningPrompt("unreadable", None, "not UTF-8: byte 1"),
        ),
        *(
            ScreeningPrompt("surrogate", "half \ud800"),
            ScreeningPrompt("good", PROMPT),
            ScreeningPrompt("id \ud800", PROMPT),
        ),
    ]
    records = screen(llama, asked, tmp_path, config=DetectionConfig(budget=4, max_new_tokens=3, most_tokens=60))
    assert [record["status"] for record in records] == ["failed"] * 4 + ["done"] * 2
    assert records[0]["error"].startswith("the prompt is empty")
    assert "more than the limit of 60" in records[1]["error"]
    assert records[2]["error"] == "not UTF-8: byte 1"
    assert len(lines(tmp_path)) == 6


def test_a_fault_on_one_prompt_is_its_error_line(llama, monkeypatch):
    def faulty(text, **settings):
        if text == "rain":
            raise RuntimeError("deep\ninside")
        return detect(text, **settings)

    monkeypatch.setattr(screening, "detect", faulty)
    records = screen(llama, [ScreeningPrompt("1", "rain"), ScreeningPrompt("2", PROMPT)], config=QUICK)
    assert records[0]["error"] == "unexpected RuntimeError: deep inside"
    assert records[1]["status"] == "done"


def test_what_is_on_record_is_not_made_again(llama, tmp_path, counted):
    asked = [ScreeningPrompt("1", PROMPT), ScreeningPrompt("2", ""), ScreeningPrompt("3", "green birds in rain")]
    first = screen(llama, asked, tmp_path, config=QUICK)
    assert counted == [PROMPT, "", "green birds in rain"]
    counted.clear()
    known = []
    again = screen(llama, asked, tmp_path, config=QUICK, on_record=lambda record, there: known.append(there))
    assert counted == [""]  # errors are tried again: they cost nothing, and their cause may be gone
    assert known == [True, False, True]
    assert [again[0], again[2]] == [first[0], first[2]]
    counted.clear()
    screen(llama, [ScreeningPrompt("1", "tell me"), asked[2]], tmp_path, config=QUICK)
    assert counted == ["tell me"]  # the prompt of this id has changed


def test_records_of_other_settings_are_not_mixed(llama, tmp_path):
    screen(llama, [ScreeningPrompt("1", PROMPT)], tmp_path, config=QUICK)
    with pytest.raises(jopa.InputFileError, match="other settings"):
        screen(llama, [ScreeningPrompt("1", PROMPT)], tmp_path, config=DetectionConfig(budget=5, max_new_tokens=3))
    with pytest.raises(jopa.InputFileError, match="another model"):
        screen(tiny_models.language_model("gpt2"), [ScreeningPrompt("1", PROMPT)], tmp_path, config=QUICK)


def test_orders_on_record_are_those_of_the_present_weights(llama, tmp_path, counted, monkeypatch):
    asked = [ScreeningPrompt("1", PROMPT), ScreeningPrompt("2", "green birds in rain")]
    first = screen(llama, asked, tmp_path, config=QUICK)
    monkeypatch.setattr(scoring, "BIAS", scoring.BIAS + 50.0)
    monkeypatch.setattr(scoring, "FITTED_ON", llama.id)
    counted.clear()
    (record,) = screen(llama, asked[:1], tmp_path, config=QUICK)
    assert record["order"] == pytest.approx(first[0]["order"] + 50.0)
    assert record["score"] == scoring.score(record["order"]) and record["calibrated"] is True
    # the prompt that was not asked for, too: all last lines of a folder are of one set of weights
    assert lines(tmp_path)[-1]["order"] == pytest.approx(first[1]["order"] + 50.0)
    assert len(lines(tmp_path)) == 4
    assert json.loads((tmp_path / "settings.json").read_text())["weights"] == scoring.weights_digest()
    assert screen(llama, asked[:1], tmp_path, config=QUICK) == [record]
    assert len(lines(tmp_path)) == 4 and counted == []


def rewrite(folder, change):
    """Change the records of a folder."""
    records = lines(folder)
    for record in records:
        change(record)
    (folder / "verdicts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_an_order_on_record_that_the_numbers_do_not_give_is_computed_again(llama, tmp_path, counted):
    (first,) = screen(llama, [ScreeningPrompt("1", PROMPT)], tmp_path, config=QUICK)
    rewrite(tmp_path, lambda record: record.update(order=99.0, score=0.5))
    assert screen(llama, [ScreeningPrompt("1", PROMPT)], tmp_path, config=QUICK) == [first]
    assert counted == [PROMPT]


def test_a_folder_of_an_earlier_version_goes_on(llama, tmp_path, counted):
    first = screen(llama, [ScreeningPrompt("1", PROMPT)], tmp_path, config=QUICK)
    settings = json.loads((tmp_path / "settings.json").read_text())
    del settings["weights"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    rewrite(tmp_path, lambda record: [record.pop(name) for name in ("order", "flagged", "calibration")])  # schema 1
    assert screen(llama, [ScreeningPrompt("1", PROMPT)], tmp_path, config=QUICK) == first
    assert counted == [PROMPT]
    assert "weights" in json.loads((tmp_path / "settings.json").read_text())


def test_a_record_without_a_number_that_the_weights_need_is_made_again(llama, tmp_path, counted):
    first = screen(llama, [ScreeningPrompt("1", PROMPT)], tmp_path, config=QUICK)
    rewrite(tmp_path, lambda record: record["numbers"].pop("spread"))
    again = screen(llama, [ScreeningPrompt("1", PROMPT)], tmp_path, config=QUICK)
    assert again[0]["order"] == first[0]["order"]
    assert counted == [PROMPT, PROMPT]


NEEDED = [
    *("score", "calibrated", "tuned_for", "beginning", "answer", "units", "joint", "synergy", "probability_ratio"),
    *("span", "without_span", "numbers", "model", "model.id", "answer.kind", "answer.tokens", "answer.log_prob"),
    *("span.text", "span.start", "span.end", "without_span.kind", "without_span.probability_ratio"),
]


@pytest.mark.parametrize("path", NEEDED)
def test_a_damaged_record_is_one_line(llama, tmp_path, path):
    def damage(record):
        *outer, name = path.split(".")
        for key in outer:
            record = record[key]
        del record[name]

    screen(llama, [ScreeningPrompt("1", "rain")], tmp_path, config=QUICK)
    rewrite(tmp_path, damage)
    with pytest.raises(jopa.InputFileError, match=rf"line 1: .*'{path.split('.')[-1]}'"):
        screen(llama, [ScreeningPrompt("1", "rain")], tmp_path, config=QUICK)


def test_a_stopped_run_keeps_what_is_done(llama, tmp_path, monkeypatch):
    asked = [
        ScreeningPrompt(str(i), f"write a story about {word}")
        for i, word in enumerate(["rain", "birds", "people", "time"])
    ]

    def stopping(text, **settings):
        if text.endswith("people"):
            raise KeyboardInterrupt
        return detect(text, **settings)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(screening, "detect", stopping)
        screen(llama, asked, tmp_path, config=QUICK)
    assert [line["id"] for line in lines(tmp_path)] == ["0", "1"]
    with (tmp_path / "verdicts.jsonl").open("a") as file:
        file.write('{"id":"2","status":"do')  # killed while writing
    records = screen(llama, asked, tmp_path, config=QUICK)
    assert [record["status"] for record in records] == ["done"] * 4
    assert [line["id"] for line in lines(tmp_path)] == ["0", "1", "2", "3"]


def test_a_folder_of_500_goes_on_after_a_kill(llama, tmp_path, counted, monkeypatch):
    model, prompts, out = tmp_path / "model", tmp_path / "prompts", tmp_path / "out"
    llama.model.save_pretrained(model)
    llama.tokenizer.save_pretrained(model)
    prompts.mkdir()
    for i in range(500):  # most of them are refused at once, which keeps this test short
        text = " ".join(["rain", "birds", "doctor", "story"][: 1 + i % 4]) if i % 25 == 0 else "rain " * 110
        (prompts / f"{i:03d}.txt").write_text(text)
    command = ["jopa", "detect", "--file", str(prompts), "--model", str(model)]
    command += ["--out", str(out), "--budget", "4", "--max-new-tokens", "3", "--most-tokens", "100"]
    monkeypatch.setattr(sys, "argv", command)
    process = forked(cli.main, tmp_path / "said")
    try:
        deadline = time.monotonic() + 90
        records = out / "verdicts.jsonl"
        while time.monotonic() < deadline and not (records.exists() and records.read_bytes().count(b"\n") >= 60):
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    before = records.read_bytes().count(b"\n")
    assert 60 <= before < 500

    config = DetectionConfig(budget=4, max_new_tokens=3, most_tokens=100)
    there: list[str] = []
    found = screen(
        jopa.load(str(model)),
        read_prompts(prompts),
        out,
        config=config,
        on_record=lambda record, known: there.append(record["id"]) if known else None,
    )
    assert [record["status"] for record in found].count("done") == 20
    assert len(found) == 500
    assert there == [f"{i:03d}.txt" for i in range(0, before, 25)]
    done = [line["id"] for line in lines(out) if line["status"] == "done"]
    assert sorted(done) == [f"{i:03d}.txt" for i in range(0, 500, 25)]  # none twice
