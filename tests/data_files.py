"""What the tests of data sets share: files of records."""

from pathlib import Path

SHARED = Path(__file__).parents[3] / "shared" / "data"


def words(count: int, first: str = "word") -> str:
    return " ".join([first, *["word"] * (count - 1)])


def adds_up(dataset) -> bool:
    return len(dataset.examples) + sum(dataset.left_out.values()) == dataset.read


AQUA_ROW = {"question": "How much\nis 2 + 2? ", "options": ["A)3", "B) 4", "C)5"], "correct": "B"}
AQUA_PROMPT = "How much\nis 2 + 2?\nAnswer Choices: (a) 3 (b) 4 (c) 5"
