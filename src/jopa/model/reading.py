"""Models out of files, with every weight in its place.

transformers fills weights that a file does not hold with random numbers and continues; here that is an error.
"""

from __future__ import annotations

import importlib.util
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jopa.errors import ModelError
from jopa.model.gguf_files import LFS_POINTER, require_no_pointer
from jopa.model.requirements import without_peft

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ADAPTER_CONFIG = "adapter_config.json"
"""The file that says that a folder holds a PEFT adapter."""
_TEMPLATE_FILE = "chat_template.json"
"""Where older repositories of multimodal models have their chat template; tokenizers do not read it."""
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
_LAYER = re.compile(r"(\D+)\d+(?=\.)")
"""The name of a layer in the name of a weight: all up to the first number."""


def read_model(
    name: str, folder: str, *, device_map: str, dtype: torch.dtype, **where: Any
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer; an adapter with its base.

    Args:
        name: the model's name in messages.
        folder: a folder or a hub id.
        device_map: where the weights go.
        dtype: their format.
        where: what else transformers is told about where files are.

    Raises:
        ModelError: it is no causal language model, weights are missing, or an adapter's package is.
    """
    from transformers import AutoConfig, AutoTokenizer

    adapter = json_file(folder, ADAPTER_CONFIG, where)
    base = folder
    if adapter is not None:
        base = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
        if not isinstance(base, str) or not base:
            raise ModelError(f"cannot load the model '{name}': its {ADAPTER_CONFIG} names no base_model_name_or_path")
        if importlib.util.find_spec("peft") is None:
            raise ModelError(
                f"'{name}' is a PEFT adapter of '{base}', and the package peft is not installed: pip install peft"
            )
    of_base = {**where, "revision": adapter.get("revision")} if adapter is not None else where
    config = AutoConfig.from_pretrained(base, **of_base)
    _require_layers(name, config)
    loader = _loader(name, config)
    own_tokenizer = adapter is None or (Path(folder) / "tokenizer_config.json").is_file()
    place, of_place = (folder, where) if own_tokenizer else (base, of_base)
    tokenizer = AutoTokenizer.from_pretrained(place, **of_place)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _template(name, json_file(place, _TEMPLATE_FILE, of_place))
    if Path(base).is_dir():
        _require_weight_files(name, Path(base))
        _require_settings(name, Path(base) / "generation_config.json")
    loaded: Any = loader.from_pretrained(
        base,
        use_safetensors=True,
        device_map=device_map,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        **of_base,
    )
    model, info = loaded
    require_all_weights(name, model, info)
    _require_words(name, config)
    return (model if adapter is None else _with_adapter(name, model, folder, where)), tokenizer


def require_all_weights(name: str, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse a model some of whose weights were in no file, or of another shape, or whose files hold more layers.

    Tied weights may be missing.

    Args:
        name: the model's name in messages.
        model: what was loaded.
        info: what transformers says of the loading.

    Raises:
        ModelError: there is one.
    """
    others = {str(key[0]): key[1:] for key in info.get("mismatched_keys", ())}
    if others:
        first = min(others)
        shapes = " and not ".join(str(list(shape)) for shape in others[first])
        raise ModelError(
            f"cannot load the model '{name}': its files have weights of other shapes than its config.json asks for: "
            f"{_listed(sorted(others))} ({first} is {shapes}); the files belong to different models"
        )
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"cannot load the model '{name}': its files lack the weights {_listed(missing)}; it may be a damaged copy, "
            "or no causal language model"
        )
    _require_layers(name, model.config)
    _require_all_layers(name, info.get("unexpected_keys", ()), model.state_dict())


def _require_layers(name: str, config: Any) -> None:
    """Refuse a model that cannot be causal, or has no layers, as its configuration says.

    Raises:
        ModelError: it is one of these.
    """
    if config.is_encoder_decoder:
        raise ModelError(f"'{name}' is an encoder-decoder model; jopa explains causal (decoder-only) ones")
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(n_layers, int) and n_layers < 1:
        raise ModelError(f"cannot load the model '{name}': its configuration asks for {n_layers} layers")


def _require_words(name: str, config: Any) -> None:
    """Refuse a classifier: where it shares its head with the embeddings, its file has all weights of a language model.

    Raises:
        ModelError: its configuration says that it is one.
    """
    made_as = next((kind for kind in config.architectures or () if str(kind).endswith(_CLASSIFIERS)), None)
    if made_as is not None:
        raise ModelError(
            f"'{name}' is a {made_as}, whose head gives classes and no words; jopa explains causal language models"
        )


def _require_settings(name: str, path: Path) -> None:
    """Refuse settings of generation that cannot be read: transformers would take others, with other stop tokens.

    Raises:
        ModelError: the file is there, and holds no JSON object.
    """
    try:
        settings = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load the model '{name}': its {path.name} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"cannot load the model '{name}': its {path.name} is no JSON object")


def _require_all_layers(name: str, left_over: Iterable[str], names: Iterable[str]) -> None:
    """Refuse files with more layers than the configuration asks for.

    A layer for something else, such as predicting several tokens at once, has weights that no other layer has.

    Args:
        name: the model's name in messages.
        left_over: names of the weights in its files that went nowhere.
        names: names of the weights that it has.

    Raises:
        ModelError: a whole layer of the same kind as others was left over.
    """
    layers: dict[str, set[tuple[str, str]]] = {}
    for key in left_over:
        if found := _LAYER.match(key):
            layers.setdefault(found[0], set()).add((found[1], key[found.end() :]))
    known = {(found[1], key[found.end() :]) for key in names if (found := _LAYER.match(key))}
    if more := sorted(layer for layer, weights in layers.items() if weights <= known):
        raise ModelError(
            f"cannot load the model '{name}': its files hold {_listed(more)}, for which its config.json has no place; "
            "they belong to different models"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _require_weight_files(name: str, folder: Path) -> None:
    """Refuse a folder whose weights are in another format, or were not downloaded.

    Raises:
        ModelError: its only weights are in PyTorch's own format, or a file is a Git LFS pointer.
    """
    safe = sorted(folder.glob("*.safetensors"))
    for path in safe:
        _require_downloaded(path)
    if not safe and (other := next(iter(sorted([*folder.glob("*.bin"), *folder.glob("*.pt*")])), None)) is not None:
        raise ModelError(
            f"cannot load the model '{name}': its weights are in '{other.name}', which could run code when it is read; "
            "convert it to safetensors: load it with transformers where you trust it, and save_pretrained"
        )


def _require_downloaded(path: Path) -> None:
    with path.open("rb") as file:
        require_no_pointer(path, file.read(len(LFS_POINTER)))


def _loader(name: str, config: Any) -> Any:
    """The class of transformers that loads a model of this configuration.

    Models that read images too, and that are no causal language model to transformers, are one where they read text.

    Raises:
        ModelError: none of its models generates text.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    own_code = getattr(config, "auto_map", None) or {}
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or AutoModelForCausalLM.__name__ in own_code:
        return AutoModelForCausalLM
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or AutoModelForImageTextToText.__name__ in own_code:
        return AutoModelForImageTextToText
    raise ModelError(
        f"'{name}' is a model of the kind '{config.model_type}', which has no causal language model in transformers; "
        "jopa explains causal language models"
    )


def _template(name: str, written: Any) -> str | None:
    """The chat template in a file of its own, as its JSON has it; None where there is no such file.

    Raises:
        ModelError: the file holds none.
    """
    if written is None:
        return None
    template = written.get("chat_template") if isinstance(written, dict) else None
    if not isinstance(template, str):
        raise ModelError(f"cannot load the model '{name}': its {_TEMPLATE_FILE} holds no template")
    return template


def json_file(folder: str, file_name: str, where: Mapping[str, Any]) -> Any:
    """What a JSON file in a folder or of a hub id says; None if there is no such file.

    Args:
        folder: the folder or the hub id.
        file_name: the file's name.
        where: what else transformers is told about where files are.
    """
    from transformers.utils.hub import cached_file

    path: str | Path | None = Path(folder) / file_name
    if not Path(folder).is_dir():
        local = where.get("local_files_only", False)
        try:
            path = cached_file(
                folder,
                file_name,
                revision=where.get("revision"),
                local_files_only=local,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=not local,
                _raise_exceptions_for_connection_errors=not local,
            )
        except OSError as error:
            # A hub that cannot be reached was asked for half a minute: the next file would take as long again.
            if error.__cause__ is not None:  # only "the hub has no such file" comes without a cause
                raise
            path = None
    return json.loads(Path(path).read_text("utf-8")) if path is not None and Path(path).is_file() else None


def _with_adapter(name: str, model: Any, folder: str, where: Mapping[str, Any]) -> Any:
    """The model itself, with the weights of a PEFT adapter put into it.

    Raises:
        ModelError: the adapter was made for another model, or cannot be taken.
    """
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict  # installed by those who load adapters

    place = {"revision": where.get("revision"), "local_files_only": where.get("local_files_only", False)}
    weights = load_peft_weights(folder, device="cpu", **place)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    names = [next(name for name, module in model.named_modules() if module is end) for end in ends]
    _resize_embeddings(
        name, model, [_n_tokens(weights, own, len(end.weight)) for own, end in zip(names, ends, strict=True)]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".is_gradient_checkpointing.")  # what PEFT asks transformers for
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        adapted = PeftModel.from_pretrained(model, folder, **place)
    inside = without_peft(adapted, name)
    # A second time, because `from_pretrained` does not say which weights went nowhere.
    unknown = set_peft_model_state_dict(adapted, weights).unexpected_keys
    # Embeddings that an adapter trains are in its file twice where it adds tokens.
    if left_over := sorted(key for key in unknown if not any(f".{own}." in key for own in names)):
        raise ModelError(
            f"cannot load the model '{name}': its base has no place for the adapter's weights {_listed(left_over)}; "
            "the adapter was made for another model, or for a classifier"
        )
    return inside


def _n_tokens(weights: Mapping[str, torch.Tensor], own: str, default: int) -> int:
    """Of how many tokens an adapter has the embeddings, or the head, that the model calls `own`."""
    ends = (f".{own}.weight", f".{own}.base_layer.weight")
    return next((len(value) for key, value in weights.items() if key.endswith(ends)), default)


def _resize_embeddings(name: str, model: Any, sizes: Sequence[int]) -> None:
    """Give a base embeddings of as many tokens as its adapter has.

    Raises:
        ModelError: the adapter has embeddings and a language-model head of different numbers of tokens.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    added = max(sizes) != len(embeddings.weight)
    if added and embeddings.weight is not head.weight and len(set(sizes)) > 1:
        raise ModelError(
            f"cannot load the model '{name}': with its adapter it has embeddings of {sizes[0]} tokens and a "
            f"language-model head of {sizes[1]}; save the adapter with both (save_embedding_layers=True)"
        )
    if added:
        model.resize_token_embeddings(max(sizes), mean_resizing=False)
