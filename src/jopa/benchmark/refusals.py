"""What a benchmark refuses before the model answers: results that would be mixed, and cells that cannot be done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from jopa.benchmark.experiment import Experiment
from jopa.benchmark.records import CellKey, ExampleRecord
from jopa.choices import checked_removal
from jopa.errors import SettingError
from jopa.preparation import require_removal, shape_of
from jopa.prompt.building import Prompt
from jopa.scoring.protocols import Model

_WEIGHT_FILES = (".safetensors", ".bin")
_SAMPLES, _SAMPLE_BYTES = 16, 2**16


def weights_sample(source: str | None) -> str | None:
    """A checksum of samples of the weights in a model's folder, which has no revision; None of what is no folder.

    Any training changes them; reading all of the weights would take as long as loading them.
    """
    if source is None or not Path(source).is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(source).iterdir() if path.suffix in _WEIGHT_FILES):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(size * number // _SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def require_same_model(recorded: ExampleRecord, identity: Mapping[str, str | None]) -> None:
    """Refuse to mix results of two models under one name.

    Args:
        recorded: an example on record.
        identity: the model's, with the checksum of its weights where it comes from a folder.

    Raises:
        SettingError: the model is not the one on record.
    """
    for what in ("id", "revision", "dtype", "weights"):
        before, now = recorded.language_model.get(what), identity.get(what)
        if before != now and (what != "weights" or before is not None):  # older records lack it
            raise SettingError(
                f"the cells on record for model '{recorded.model}' come from another model ({what} {before}, now "
                f"{now}); give another folder (--out), or the model another name"
            )


def require_same_prompt(recorded: ExampleRecord, prompt: Prompt) -> None:
    """Refuse to mix results of two prompts, or of one within two templates, under one name.

    Raises:
        SettingError: the prompt is not the one on record.
    """
    if prompt.ids != recorded.prompt.ids:
        raise SettingError(
            f"example '{recorded.example}' of data set '{recorded.data}' is not the one on record: what stands around "
            "its prompt, or the model's tokenizer, changed; give another folder (--out), or the data set another name"
        )


def refused_cells(
    experiment: Experiment, keys: Sequence[CellKey], model: Model, prompt: Prompt
) -> dict[CellKey, BaseException]:
    """The cells whose method refuses this prompt or its k, each with the error; generates and scores nothing.

    Args:
        experiment: has the methods by label, and the removal of the evaluation.
        keys: cells of one example.
        model: the model.
        prompt: the example as the model reads it.

    Raises:
        SettingError: the model cannot do the removal of the evaluation, so that no cell can be done.
    """
    require_removal(model, prompt, checked_removal(experiment.removal))
    specs = {spec.label: spec for spec in experiment.methods}
    refused: dict[CellKey, BaseException] = {}
    for key in keys:
        spec = specs[key.method]
        try:
            spec.method.validate(shape_of(model, prompt, checked_removal(spec.removal)), key.k)
        except (Exception, SystemExit) as error:  # a method may be a user's own: its cells record the error
            refused[key] = error
    return refused
