"""Records in files as people have them: lines, one list, compressed."""

import gzip
import json

import pytest

from jopa.datasets.examples import load_dataset
from jopa.detection.screening import read_prompts
from jopa.errors import InputFileError
from jopa.json_lines import json_lines
from jopa.prompt.documents import read_documents

RECORDS = [{"id": "a", "text": "One.", "prompt": "One."}, {"id": "b", "text": "Two.\u2028", "prompt": "Two.\u2028"}]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\r\n" for record in RECORDS).encode()
LIST = json.dumps(RECORDS, indent=1).encode()


@pytest.mark.parametrize("content", [LINES, LIST, b"\xef\xbb\xbf" + LINES, b"\xef\xbb\xbf\n " + LIST])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_way_gives_the_same_records(tmp_path, content, compressed):
    path = tmp_path / ("r.jsonl.gz" if compressed else "r.jsonl")
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert [json.loads(line) for _, line in json_lines(path)] == RECORDS
    assert [document.text for document in read_documents(path)] == ["One.", "Two.\u2028"]
    assert [example.id for example in load_dataset("mine", path=path).examples] == ["a", "b"]
    assert [prompt.text for prompt in read_prompts(path)] == ["One.", "Two.\u2028"]


@pytest.mark.parametrize(
    "content",
    [gzip.compress(LINES, mtime=0)[:-12], b"\x1f\x8b", b"\x1f\x8b" + b"x" * 30],
    ids=["cut off", "two bytes", "not gzip"],
)
def test_a_damaged_compressed_file_is_refused(tmp_path, content):
    (tmp_path / "r.jsonl.gz").write_bytes(content)
    with pytest.raises(InputFileError, match="cannot read"):
        list(json_lines(tmp_path / "r.jsonl.gz"))


def test_a_line_that_only_begins_like_a_list_is_a_line(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(b"[1\n" + LINES)
    assert next(json_lines(tmp_path / "r.jsonl")) == (1, b"[1")
