"""Values and files that TOML and editors have, and command lines have not."""

import pytest

import jopa

PROMPT = "write a story about the doctor and his patient"
COMMON = 'k = 1\nmax-new-tokens = 3\nmethod = "ablation"\n'


def explained(run, path):
    code, out, err = run("explain", PROMPT, "--config", path, "--json", "-")
    assert code == 0, err
    return jopa.Attribution.from_json(out)


def test_a_byte_order_mark_is_no_statement(run, tmp_path):
    path = tmp_path / "explain.toml"
    path.write_bytes(b"\xef\xbb\xbf" + COMMON.encode())
    assert explained(run, path).k == 1


def test_dates_and_times_become_texts(run, tmp_path):
    path = tmp_path / "explain.toml"
    path.write_text(COMMON + "[template-arg]\nday = 2024-01-02\nat = 10:30:00\nn = 3\ndays = [2024-01-02]\n")
    details = explained(run, path).details
    assert details is not None
    assert details["rendering"]["template_args"] == {
        "day": "2024-01-02",
        "at": "10:30:00",
        "n": 3,
        "days": ["2024-01-02"],
    }


@pytest.mark.parametrize("command", [("explain", "a story", "--config"), ("bench",)])
def test_nesting_without_end_is_one_line(run, tmp_path, command):
    (tmp_path / "deep.toml").write_text("k = " + "[" * 3000)
    code, _, err = run(
        *command, tmp_path / "deep.toml", *(["--out", tmp_path / "out"] if command == ("bench",) else [])
    )
    assert code == 1
    assert "deep.toml' is no TOML" in err
