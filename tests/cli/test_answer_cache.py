"""An answer is generated once: another method or unit takes the one that was kept, and says so."""

import json

import jopa

PROMPT = "write a story about the doctor and his patient"


def test_another_method_takes_the_answer_that_was_kept(run, monkeypatch):
    made = []
    generate = jopa.LanguageModel.generate_ids
    monkeypatch.setattr(
        jopa.LanguageModel, "generate_ids", lambda *given, **how: made.append(1) or generate(*given, **how)
    )

    def explained(*options):
        code, out, err = run("explain", PROMPT, "--k", 1, "--max-new-tokens", 4, *options, "--json", "-")
        assert code == 0, err
        return json.loads(out), err

    first, said = explained()
    assert len(made) == 1 and "answer" not in first["details"] and "kept" not in said
    again, said = explained("--method", "random", "--unit", "word")
    assert len(made) == 1
    assert again["output"] == first["output"]
    assert again["details"]["answer"] == "kept from an earlier run"
    assert "The answer was kept from an earlier run; --no-answer-cache generates it again" in said
    fresh, said = explained("--no-answer-cache")
    assert len(made) == 2 and "answer" not in fresh["details"] and "kept" not in said
    explained("--max-new-tokens", 3)
    explained("--temperature", 0.5)
    explained("--system", "tell me")
    assert len(made) == 5  # another length, temperature or input is another answer


def test_a_cut_off_answer_is_cut_off_when_it_was_kept(run):
    for _ in range(2):
        code, out, _ = run("explain", "--diagnose", PROMPT, "--max-new-tokens", 3, "--json", "-")
        assert code == 0 and json.loads(out)["cut_off"]


def test_the_profile_names_the_threads(run):
    _, _, err = run("explain", PROMPT, "--k", 1, "--max-new-tokens", 3, "--profile", "--threads", 2)
    assert "threads           2; made up" in err
