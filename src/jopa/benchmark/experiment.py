"""An experiment file: the models, data, methods, k and seeds whose combinations are the cells of a benchmark.

    title = "Table 1: faithfulness at k = 3"
    ks = [3]
    seeds = [0]
    removal = "delete"              # of the evaluation
    baseline = "joint"               # the label that differences are taken from
    max_new_tokens = 100

    [[models]]
    name = "llama-2-7b"             # as tables call it
    id = "meta-llama/Llama-2-7b-chat-hf"
    endpoint = "http://localhost:8000"   # where it is served, if it is not loaded
    plain = false                   # without its chat template
    template_args = { enable_thinking = false }

    [[data]]
    name = "alpaca"                 # a data set of `jopa.datasets.examples`, or any name with a path
    limit = 110

    [[methods]]
    name = "jopa"             # as in `jopa methods`, or "package.module:Class"
    label = "w/o initialization"    # as tables call it
    removal = "zero"                # of the search; by default the method's own
    settings = { initial = "random" }

Everything is checked when the file is read, before any model is loaded. Knows nothing of running.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from jopa.benchmark.model_spec import ModelSpec
from jopa.benchmark.records import SCHEMA
from jopa.choices import BUNDLED, UNIT_KINDS, checked_removal
from jopa.errors import InputFileError, SettingError
from jopa.explanation.searching import SEED_LIMIT
from jopa.json_values import Record, encoded
from jopa.method import Method
from jopa.methods import find_method
from jopa.prompt.building import AUTO


@dataclass(frozen=True)
class DataSpec:
    """A data set to take prompts from.

    Attributes:
        name: one of `jopa.datasets.sources.DATASETS`, or any name with a path.
        path: a JSONL file in place of the hub.
        limit: the most prompts, a random slice; None for all.
        seed: of the slice.
        prefill: the beginning of the answer, in place of the data set's own; "" for none.
    """

    name: str
    path: str | None = None
    limit: int | None = None
    seed: int = 0
    prefill: str | None = None


@dataclass(frozen=True)
class MethodSpec:
    """A method as the experiment runs it.

    Attributes:
        label: as tables call it.
        method: the method with its settings.
        removal: how the search removes units.
        ks: the k it answers, where that differs from the experiment's.
    """

    label: str
    method: Method
    removal: str
    ks: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Experiment:
    """What to run; see the module's own text for the file.

    Attributes:
        title: what it is.
        models: each with a name of its own.
        data: likewise.
        methods: likewise, by label.
        ks: the numbers of units to find.
        seeds: of everything random.
        unit: "token", "word", "sentence", "line" or "paragraph", or "auto" for what fits each prompt.
        removal: how the evaluation removes units.
        baseline: the label of the method that others are compared with.
        max_new_tokens: the most tokens of an output.
        sentence_bert: compute that metric, which loads a model of its own.
    """

    title: str
    models: tuple[ModelSpec, ...]
    data: tuple[DataSpec, ...]
    methods: tuple[MethodSpec, ...]
    ks: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    unit: str = "token"
    removal: str = "delete"
    baseline: str | None = None
    max_new_tokens: int = 100
    sentence_bert: bool = True

    def __post_init__(self) -> None:
        entries: dict[str, list[str]] = {
            "models": [model.name for model in self.models],
            "data": [data.name for data in self.data],
            "methods": [spec.label for spec in self.methods],
            "ks": list(map(str, self.ks)),
            "seeds": list(map(str, self.seeds)),
        }
        for what, names in entries.items():
            if not names:
                raise SettingError(f"an experiment needs at least one entry under '{what}'")
            if "" in names:
                raise SettingError(f"an entry under '{what}' has the name ''; give it one that tables can show")
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise SettingError(f"'{twice}' stands twice under '{what}'; give each entry a name of its own")
        for spec in self.methods:
            if spec.ks is not None and (not spec.ks or len(set(spec.ks)) < len(spec.ks)):
                raise SettingError(f"'ks' of method '{spec.label}' must be different numbers, got {list(spec.ks)}")
        for model in self.models:
            if model.batch_size is not None and model.batch_size < 1:
                raise SettingError(f"'batch_size' of model '{model.name}' must be at least 1, got {model.batch_size}")
        for k in (*self.ks, *(k for spec in self.methods for k in spec.ks or ())):
            if k < 1:
                raise SettingError(f"each of 'ks' must be at least 1, got {k}")
        for seed in self.seeds:
            if not 0 <= seed < SEED_LIMIT:
                raise SettingError(f"each of 'seeds' must be from 0 to {SEED_LIMIT - 1}, got {seed}")
        if self.unit not in (*UNIT_KINDS, AUTO):
            raise SettingError(f"'unit' must be one of {', '.join((*UNIT_KINDS, AUTO))}, got '{self.unit}'")
        for removal in (self.removal, *(spec.removal for spec in self.methods)):
            checked_removal(removal)
        if self.max_new_tokens < 1:
            raise SettingError(f"'max_new_tokens' must be at least 1, got {self.max_new_tokens}")
        labels = [spec.label for spec in self.methods]
        if self.baseline is not None and self.baseline not in labels:
            raise SettingError(f"'baseline' must be the label of a method ({', '.join(labels)}), got '{self.baseline}'")
        try:
            encoded(self.to_dict())
        except (TypeError, ValueError) as error:
            raise SettingError(f"an entry holds what a record cannot hold: {error}") from error

    def ks_of(self, spec: MethodSpec) -> tuple[int, ...]:
        """The k that a method answers, ascending."""
        return tuple(sorted(spec.ks or self.ks))

    def to_dict(self) -> Record:
        """The experiment as JSON values, with every default."""
        return {
            "schema": SCHEMA,
            **{item.name: getattr(self, item.name) for item in fields(self) if item.name != "max_new_tokens"},
            "generation": {"max_new_tokens": self.max_new_tokens},
            "ks": list(self.ks),
            "seeds": list(self.seeds),
            "models": [asdict(model) for model in self.models],
            "data": [asdict(data) for data in self.data],
            "methods": [
                {
                    "label": spec.label,
                    "name": spec.method.name,
                    "removal": spec.removal,
                    "ks": None if spec.ks is None else list(spec.ks),
                    "settings": {name: value for name, value in spec.method.settings.items() if name != "name"},
                }
                for spec in self.methods
            ],
        }


def read_experiment(
    path: Path,
    *,
    limit: int | None = None,
    model: str | ModelSpec | None = None,
    data: Mapping[str, str] | None = None,
    prefill: str | None = None,
    max_new_tokens: int | None = None,
) -> Experiment:
    """Read an experiment file.

    Args:
        path: a TOML file; relative paths in it start from its folder.
        limit: the most prompts a data set, in place of the file's.
        model: one model in place of the file's: what `jopa.load` takes, "bundled", or a spec.
        data: JSONL files by name: of a data set of the experiment, in place of where it finds it, or of a further one.
        prefill: the beginning of every answer, in place of the data sets' own; "" for none.
        max_new_tokens: the most tokens of an output, in place of the file's.

    Raises:
        InputFileError: the file cannot be read or is no TOML.
        SettingError: an entry is missing, unknown, of the wrong type or out of range; the message names it.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputFileError(f"'{path}' is no TOML: {error}") from error
    try:
        experiment = _experiment(table, path.parent)
    except SettingError as error:
        raise SettingError(f"'{path}': {error}") from error
    if limit is not None and limit < 1:
        raise SettingError(f"limit must be at least 1, got {limit}")
    files = dict(data or {})
    specs = [replace(spec, path=files.pop(spec.name, spec.path)) for spec in experiment.data]
    specs += [DataSpec(name, path) for name, path in files.items()]
    if limit is not None:
        specs = [replace(spec, limit=limit) for spec in specs]
    if prefill is not None:
        specs = [replace(spec, prefill=prefill) for spec in specs]
    experiment = replace(experiment, data=tuple(specs))
    if model is not None:
        if isinstance(model, str):
            model = ModelSpec(BUNDLED) if model == BUNDLED else ModelSpec(Path(model).name, model)
        experiment = replace(experiment, models=(model,))
    if max_new_tokens is not None:
        experiment = replace(experiment, max_new_tokens=max_new_tokens)
    return experiment


def with_model_settings(
    experiment: Experiment, *, plain: bool, template_args: Mapping[str, Any], trust_remote_code: bool
) -> Experiment:
    """The experiment with settings for all of its models, beside those of the file.

    Args:
        experiment: as the file says.
        plain: prompts are plain text.
        template_args: of the chat template, before those of the file.
        trust_remote_code: run code that comes with a model.
    """
    models = [
        replace(
            model,
            plain=model.plain or plain,
            template_args={**(model.template_args or {}), **template_args} or None,
            trust_remote_code=model.trust_remote_code or (trust_remote_code and model.endpoint is None),
        )
        for model in experiment.models
    ]
    return replace(experiment, models=tuple(models))


def merged(old: Record, new: Record, sets: Sequence[str] = (), *, begun: Set[str] | None = None) -> Record:
    """The experiment of a folder, after its file has changed.

    Models, data sets, methods, k, seeds and prompts may be added or left out, because each cell is independent of the
    others. What is left out stays on record as "retired". A data file may have moved: its prompts are compared when it
    is read.

    Args:
        old: what is on record.
        new: the experiment to run now.
        sets: the data sets to run now, if not all; the others stay as they are on record.
        begun: the data sets with a prompt on record, by default all; the others may change.

    Raises:
        SettingError: something that cells on record depend on has changed; the message says what.
    """
    changed = [
        f"{name}: {old.get(name)!r} became {new[name]!r}"
        for name in ("schema", "unit", "removal", "generation", "sentence_bert")
        if old.get(name) != new[name]
    ]
    if sets:
        recorded = {entry["name"]: entry for entry in old["data"]}
        kept = [entry if entry["name"] in sets else recorded.get(entry["name"], entry) for entry in new["data"]]
        new = {**new, "data": kept}
    result = dict(new)
    for part, key, free in (
        ("models", "name", {"device", "batch_size", "endpoint", "key_variable", "trust_remote_code"}),
        ("data", "name", {"limit"}),
        ("methods", "label", {"ks"}),
    ):
        before = {entry[key]: entry for entry in old[part]}
        now = {entry[key]: entry for entry in new[part]}
        free_names = now.keys() - begun if part == "data" and begun is not None else set()
        for name in before.keys() & now.keys() - free_names:
            changed += [
                f"{part} '{name}', {field}: {before[name].get(field)!r} became {value!r}"
                for field, value in now[name].items()
                if field not in free and (value or field in before[name])  # older records have fewer fields
                if not _same(field, before[name].get(field), value)
            ]
        result[part] = [*new[part], *({**before[name], "retired": True} for name in before if name not in now)]
    if changed:
        raise SettingError(
            f"the experiment changed in a way that would mix results ({'; '.join(sorted(changed))}); "
            "give another folder (--out), or another name to what changed"
        )
    return result


def _same(field: str, before: Any, now: Any) -> bool:
    """Whether an entry is the one on record; files are compared by name, not by folder."""
    if field == "path" and before is not None and now is not None:
        return Path(before).name == Path(now).name
    return before == now


_TOP = {
    "title": str,
    "models": list,
    "data": list,
    "methods": list,
    "ks": list,
    "seeds": list,
    "unit": str,
    "removal": str,
    "baseline": str,
    "max_new_tokens": int,
    "sentence_bert": bool,
}
_MODEL = {"name": str, "id": str, "revision": str, "device": str, "dtype": str, "batch_size": int}
_MODEL |= {"endpoint": str, "api": str, "tokenizer": str, "key_variable": str}
_MODEL |= {"plain": bool, "template_args": dict, "trust_remote_code": bool}
_DATA = {"name": str, "path": str, "limit": int, "seed": int, "prefill": str}
_METHOD = {"name": str, "label": str, "removal": str, "ks": list, "settings": dict}


def _experiment(table: dict[str, Any], folder: Path) -> Experiment:
    values = _checked(table, "the experiment", _TOP, ("title", "data", "methods", "ks"))
    models = values.pop("models", [{"name": BUNDLED}])
    return Experiment(
        **{
            **values,
            "ks": _whole_numbers(values["ks"], "'ks'"),
            "seeds": _whole_numbers(values.get("seeds", [0]), "'seeds'"),
            "models": tuple(ModelSpec(**entry) for entry in _entries(models, "models", _MODEL)),
            "data": tuple(_data(entry, folder) for entry in _entries(values["data"], "data", _DATA)),
            "methods": tuple(_method(entry) for entry in _entries(values["methods"], "methods", _METHOD)),
        }
    )


def _data(entry: dict[str, Any], folder: Path) -> DataSpec:
    if entry.get("limit", 1) < 1:
        raise SettingError(f"the limit of data set '{entry['name']}' must be at least 1, got {entry['limit']}")
    if "path" in entry:
        entry = {**entry, "path": str(folder / entry["path"])}
    return DataSpec(**entry)


def _method(entry: dict[str, Any]) -> MethodSpec:
    settings = entry.get("settings", {})
    if "name" in settings:
        raise SettingError(f"the settings of method '{entry['name']}' have no entry 'name'")
    if type(settings.get("budget", 1)) is not int:
        raise SettingError(f"the budget of method '{entry['name']}' must be a whole number, got {settings['budget']!r}")
    method = find_method(entry["name"], **settings)
    ks = _whole_numbers(entry["ks"], f"'ks' of '{entry['name']}'") if "ks" in entry else None
    return MethodSpec(entry.get("label", method.name), method, entry.get("removal", method.preset_removal), ks)


def _entries(tables: Sequence[Any], part: str, kinds: Mapping[str, type]) -> Iterator[dict[str, Any]]:
    for number, table in enumerate(tables, start=1):
        if not isinstance(table, dict):
            raise SettingError(f"'{part}' must be tables: write [[{part}]]")
        entry = _checked(table, f"[[{part}]] {number}", kinds, ("name",))
        yield {key: value for key, value in entry.items() if (key, value) != ("id", BUNDLED)}


def _checked(table: dict[str, Any], where: str, kinds: Mapping[str, type], needed: Sequence[str]) -> dict[str, Any]:
    """The table, if its keys are known, its values of the right types, and nothing needed is missing."""
    for key, value in table.items():
        if key not in kinds:
            raise SettingError(f"{where} has no entry '{key}': it may have {', '.join(kinds)}")
        if not isinstance(value, kinds[key]) or (isinstance(value, bool) and kinds[key] is not bool):
            raise SettingError(f"'{key}' of {where} must be of type {kinds[key].__name__}, got {value!r}")
    for key in needed:
        if key not in table:
            raise SettingError(f"{where} lacks '{key}'")
    return table


def _whole_numbers(values: Sequence[Any], what: str) -> tuple[int, ...]:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            raise SettingError(f"{what} must be whole numbers, got {value!r}")
    return tuple(values)
