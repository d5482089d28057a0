"""A benchmark small enough for tests: a tiny model in a folder, a few prompts, and runs compared with one another."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tiny_models
from jopa.benchmark.experiment import DataSpec, Experiment, MethodSpec
from jopa.benchmark.model_spec import ModelSpec
from jopa.json_values import Record
from jopa.method import Method
from jopa.methods import make_method
from jopa.model.language_model import LanguageModel
from jopa.storage import read_lines

JOURNALS = ("examples", "selections", "cells")
PROMPTS = (
    "write a story about the doctor and his patient in rain",
    "please tell me what you think of green birds",
    "once upon time there was the doctor who said that one day",
    "people who met his patient in rain said that",
)
METHODS = (
    make_method("random"),
    make_method("ablation"),
    make_method("jopa", steps=6),
    make_method("greedy"),
)


def save(folder: Path, model) -> Path:
    """A model's folder, and `prompts.jsonl` with the prompts beside it; returns where all is."""
    model.model.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    lines = [json.dumps({"id": f"p{number}", "prompt": text}) + "\n" for number, text in enumerate(PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(lines))
    return folder


def model_of(source: str) -> LanguageModel:
    """The tiny model, under the name of the folder that it would be loaded from."""
    return replace(tiny_models.language_model("llama"), id=source)


def specs(methods: Sequence[Method]) -> tuple[MethodSpec, ...]:
    return tuple(MethodSpec(method.name, method, method.preset_removal) for method in methods)


def experiment(home: Path, methods: Sequence[Method] = METHODS, *, limit: int | None = None, **more) -> Experiment:
    settings = {"ks": (1, 2), "max_new_tokens": 5, "sentence_bert": False} | more
    return Experiment(
        title="tiny",
        models=(ModelSpec("tiny", str(home / "model"), device="cpu"),),
        data=(DataSpec("mine", path=str(home / "prompts.jsonl"), limit=limit),),
        methods=specs(methods),
        **settings,
    )


def cells(folder: Path) -> list[Record]:
    """All lines of a run's cells."""
    return read_lines(folder / "cells.jsonl")


def keys(records: Sequence[Record]) -> list[tuple]:
    return [tuple(record["key"].values()) for record in records]


def timeless(records: Sequence[Record]) -> list[Record]:
    """Records without what differs from run to run."""
    return [
        {name: it for name, it in record.items() if name not in ("seconds", "date", "worker")} for record in records
    ]


def same_run(folder: Path, other: Path) -> None:
    """Bit for bit the same records in the same order, but for times."""
    for name in JOURNALS:
        one, two = (timeless(read_lines(path / f"{name}.jsonl")) for path in (folder, other))
        assert len(one) == len(two), name
        for mine, theirs in zip(one, two, strict=True):
            assert mine == theirs
