"""What a benchmark refuses before the model answers: results that would be mixed, and cells that cannot be done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jopa.benchmark.experiment import Experiment
from jopa.benchmark.records import CellKey, ExampleRecord
from jopa.choices import checked_removal
from jopa.errors import SettingError
from jopa.model.answer_cache import weights_sample
from jopa.model.language_model import LanguageModel
from jopa.preparation import require_removal, shape_of
from jopa.prompt.building import Prompt
from jopa.scoring.protocols import Model


def identity_of(model: Model) -> dict[str, str | None]:
    """A model's identity; of one without a revision, as from a folder, also a checksum of samples of its weights."""
    known = model.identity
    if known["revision"] is not None or not isinstance(model, LanguageModel):
        return known
    weights = weights_sample(model)
    return known if weights is None else {**known, "weights": weights[:12]}


def require_same_model(recorded: ExampleRecord, identity: Mapping[str, str | None]) -> None:
    """Refuse to mix results of two models under one name.

    Args:
        recorded: an example on record.
        identity: the model's, with the checksum of its weights where it has no revision.

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
