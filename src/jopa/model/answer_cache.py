"""Answers that were generated before, kept on disk: another method or unit does not generate the same answer again.

    key     SHA-256 of the model's identity, weights and settings, the input's token ids, how the answer was generated,
            versions
    file    CACHE/answers/KEY.json: the answer's token ids

The weights enter as a sample of each parameter, so that a model that was trained further has other answers, whatever
it is called; its configuration and the plain values that its modules hold enter, too, such as which adapter is active.
A file is whole or absent. The cache holds at most `MAX_ANSWERS` answers; those used longest ago are removed
first. It is used only where no other user can write to it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jopa.errors import InputFileError, ModelError
from jopa.json_values import read_json
from jopa.model.generation import Generation
from jopa.model.language_model import LanguageModel, versions
from jopa.model.loading import cache_folder, only_ours
from jopa.storage import write_text

MAX_ANSWERS = 1000
"""Answers that are kept."""
SAMPLED = 32
"""Values of each parameter that tell its model from another."""
SCHEMA = 1


@dataclass
class AnswerCache:
    """The answers of models, kept between runs.

    Attributes:
        folder: where they are; by default in the user's cache.
        found: how many answers were taken from it.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "answers")
    found: int = 0

    def __post_init__(self) -> None:
        for place in (self.folder.parent, self.folder):
            if not only_ours(place):
                raise ModelError(
                    f"the answer cache '{place}' belongs to another user or can be written by others, who could put "
                    "other answers there; make it yours alone (chmod go-w), set JOPA_CACHE, or give --no-answer-cache"
                )

    def get(self, model: LanguageModel, ids: Sequence[int], generation: Generation) -> tuple[int, ...] | None:
        """The ids of the answer that this model gave to these ids before; None if it is not known."""
        if (path := self._path(model, ids, generation)) is None:
            return None
        try:
            record = read_json(path)
        except InputFileError:
            return None
        answer = record.get("ids") if isinstance(record, dict) and record.get("schema") == SCHEMA else None
        size = model.vocabulary_size
        if not isinstance(answer, list) or not answer or not all(type(i) is int and 0 <= i < size for i in answer):
            return None  # damaged: it is generated again and written anew
        with suppress(OSError):
            os.utime(path)
        self.found += 1
        return tuple(answer)

    def put(self, model: LanguageModel, ids: Sequence[int], generation: Generation, answer: Sequence[int]) -> None:
        """Keep an answer; where nothing can be written, nothing is kept."""
        if (path := self._path(model, ids, generation)) is None:
            return
        with suppress(OSError, InputFileError):
            for place in (self.folder.parent, self.folder):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
            record = {"schema": SCHEMA, "ids": list(answer)}
            write_text(path, json.dumps(record)).chmod(0o600)
            self._remove_oldest()

    def _path(self, model: LanguageModel, ids: Sequence[int], generation: Generation) -> Path | None:
        """Where an answer is kept; None for a model whose weights cannot be told from others."""
        if (weights := weights_sample(model)) is None:
            return None
        how = [asdict(generation), sorted(model.stop_ids), versions()]
        key = [model.identity, weights, _settings(model), list(ids), how]
        return self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"

    def _remove_oldest(self) -> None:
        kept = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in kept[MAX_ANSWERS:]:
            path.unlink(missing_ok=True)


def weights_sample(model: LanguageModel) -> str | None:
    """A checksum of names, shapes and some values of all parameters and buffers: other weights, another checksum.

    None where they cannot be read: tensors of some quantised formats have no single values.
    """
    import torch

    checksum = hashlib.sha256()
    with model.lock, torch.no_grad():
        for name, weights in (*model.model.named_parameters(), *model.model.named_buffers()):
            try:
                flat = weights.detach().flatten()
                step = max(1, len(flat) // SAMPLED)
                values = flat[::step][:SAMPLED].to("cpu", torch.float64) if weights.device.type != "meta" else flat[:0]
                checksum.update(f"{name} {tuple(weights.shape)} {weights.dtype} {values.tolist()}".encode())
            except (NotImplementedError, RuntimeError, TypeError):  # a format whose tensors take no such operation
                return None
    return checksum.hexdigest()


def _settings(model: LanguageModel) -> list[Any]:
    """What decides a model's answer beside its weights: its configuration, and the plain values of its modules."""
    own = [
        [name, {key: value for key, value in vars(module).items() if key != "training" and _is_plain(value)}]
        for name, module in model.model.named_modules()
    ]
    return [json.dumps(model.model.config.to_dict(), sort_keys=True, default=str), own]


def _is_plain(value: object) -> bool:
    """Whether a value is one that JSON has, or a list or a dictionary of such."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None)
