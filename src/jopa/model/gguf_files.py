"""What a GGUF file says and transformers does not read: it is put into the model or its tokenizer, or refused.

transformers leaves out, without a word, tensors that it has no name for and metadata that it does not know. Among them
are the factors of the rotary frequencies of Llama 3.1 and later, rotary scaling, biases, and how some vocabularies
split text: the model would load, and its tokens or each of its log-probabilities would be wrong.

Keys and tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jopa.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFReader

LFS_POINTER = b"version https://git-lfs"
_MAGIC = b"GGUF"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf\Z")
_SPLIT_COUNT = "split.count"
_EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate|up|down|gate_up)_exps\.(weight|bias)")
"""Stacked experts, which transformers takes apart; one that it could not place would be missing in the model."""
_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
_SCALES = ("attention.clamp_kqv", "attention.scale", "embedding_scale", "logit_scale", "residual_scale")
"""Numbers of a few architectures, none of which transformers reads from a GGUF file; 0 means that there is none."""
_SAME = {
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Metadata, and the setting of a configuration that must have the same value where there is one."""
_DIGIT_BY_DIGIT = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Vocabularies that split text as that of GPT-2 does, once each digit stands alone (llama.cpp, `llama-vocab.cpp`)."""
_AS_GPT2 = {"gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "granite-docling", "roberta-bpe", "mellum"}
_AS_GPT2 |= {"gigachat", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "a.x-4.0", "modern-bert"}
_SPLIT_AS_ANOTHER = {
    "stablelm2": "qwen2",
    "hunyuan": "qwen2",
    "solar-open": "qwen2",
    "glm4": "llama-bpe",
    "chatglm-bpe": "llama-bpe",
}
"""Vocabularies that split text as one does that transformers knows, under whose name it has none of them."""
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_SPLIT_IN_STEPS = {
    "deepseek-llm": (
        r"[\r\n]",
        r"\s?[\p{Lu}\p{Ll}\p{Lt}]+",
        r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
        r"\s+\z",
        r"[\u0800-\u9fa5\uac00-\ud7ff]+",
        r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[\u0800-\u9fa5\uac00-\ud7ff]+", r"\p{N}"),
    "falcon": (r"[\p{P}$+<=>^~|`]+", _GPT2, r"[0-9][0-9][0-9]"),
    "default": (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "bloom": (_BLOOM,),
    "poro-chat": (_BLOOM,),
    "gpt3-finnish": (_BLOOM,),
    "viking": (_BLOOM, r"\p{N}"),
}
"""Expressions that split text one after another, each the pieces that those before it have left."""
WAYS_TO_SPLIT = _DIGIT_BY_DIGIT | _AS_GPT2 | set(_SPLIT_AS_ANOTHER) | set(_SPLIT_IN_STEPS)
"""The names of ways to split text that are put into a tokenizer here; transformers knows others."""
_WHOLE_WORDS = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
_WHOLE_WORDS |= {"jina-v5-nano", "tekken"}
"""Vocabularies that take a piece whole where it is a word of theirs, whatever the merges make of it, and that start a
text with the BOS unless the file says otherwise (llama.cpp, `llama-vocab.cpp`)."""
_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
"""A blank in the words of a SentencePiece vocabulary."""
_LARGEST_GEMMA = {"gemma2": 46, "gemma3_text": 62}
"""Layers of the two models of 27 billion weights, whose attention is scaled by another width, which no key says."""


def require_gguf(path: Path) -> None:
    """Refuse a file that is no GGUF file, or one part of a model that was split.

    Raises:
        ModelError: it is one of these, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}") from error
    require_no_pointer(path, start)
    if not start.startswith(_MAGIC):
        raise ModelError(f"'{path}' is a file but no GGUF file; give a GGUF file, a model's folder or a hub id")
    part = _PART.search(path.name)
    count = int(part[2]) if part else _split_count(start)
    if count > 1:
        first = path.name.replace(part[0], f"-00001-of-{part[2]}.gguf") if part else path.name
        raise ModelError(
            f"cannot load the model '{path}': it is one of {count} parts of a split GGUF file; merge them first: "
            f"llama-gguf-split --merge {first} merged.gguf"
        )


def require_no_pointer(path: Path, start: bytes) -> None:
    """Refuse a file that was not downloaded.

    Args:
        path: the file.
        start: its first bytes.

    Raises:
        ModelError: it is a Git LFS pointer.
    """
    if start.startswith(LFS_POINTER):
        raise ModelError(f"'{path}' is a Git LFS pointer, not the file itself: run 'git lfs pull' in its repository")


def _split_count(start: bytes) -> int:
    """The number of parts that the first bytes of a GGUF file name; 1 if they name none."""
    key = len(_SPLIT_COUNT).to_bytes(8, "little") + _SPLIT_COUNT.encode() + (2).to_bytes(4, "little")  # 2: uint16
    at = start.find(key)
    return int.from_bytes(start[at + len(key) : at + len(key) + 2], "little") if at >= 0 else 1


def complete(path: Path, model: Any, tokenizer: Any) -> None:
    """Put into a model's configuration and tokenizer what its GGUF file says and transformers has not read.

    The model itself is not changed: it is to be saved and loaded anew.

    Args:
        path: the file.
        model: the model that transformers made of it.
        tokenizer: the fast tokenizer that transformers made of it.

    Raises:
        ModelError: the file has a tensor or a number that the model has no place for, or splits text in a way that
            neither transformers nor jopa knows.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    _require_places(path, model, reader)
    _complete_config(path, model.config, reader)
    _set_pre_tokenizer(path, tokenizer, reader)
    _set_space_prefix(tokenizer, reader)


def set_attention_scale(config: Any) -> None:
    """Set by what width the largest Gemma 2 and 3 scale their attention, which no key of a GGUF file says.

    144 and 168, the width of a head by the layers' own width; all smaller ones keep 256 (their published config.json).
    """
    if config.num_hidden_layers == _LARGEST_GEMMA.get(config.model_type):
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads


def _complete_config(path: Path, config: Any, reader: GGUFReader) -> None:
    architecture = str(reader.fields["general.architecture"].contents()) + "."
    metadata = {
        key.removeprefix(architecture): field.contents()
        for key, field in reader.fields.items()
        if key.startswith(architecture)
    }
    if metadata.get("attention.causal") is False:
        raise ModelError(f"'{path}' is a model whose tokens attend to later ones; jopa explains causal language models")
    _scale_rotary(path, config, metadata, _factors(reader))
    for key in _SCALES:
        if metadata.get(key, 0) not in (0, 1):
            raise _unread_error(path, key, metadata[key])
    for key, setting in _SAME.items():
        if key not in metadata or metadata[key] == getattr(config, f"global_{setting}", None):
            continue
        has = getattr(config, setting, metadata[key])
        if has is None and not getattr(config, "layer_types", None):  # which say what each layer sees
            setattr(config, setting, metadata[key])
        elif has != metadata[key]:
            raise _unread_error(path, f"{key} (not {has})", metadata[key])
    set_attention_scale(config)


def _set_pre_tokenizer(path: Path, tokenizer: Any, reader: GGUFReader) -> None:
    """Let a byte-level tokenizer split text before its merges, and take words whole, as its GGUF file says.

    Raises:
        ModelError: neither transformers nor jopa knows that way.
    """
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    fields = reader.fields
    if "tokenizer.ggml.pre" not in fields or fields["tokenizer.ggml.model"].contents() != "gpt2":
        return
    way = str(fields["tokenizer.ggml.pre"].contents())
    if way in _WHOLE_WORDS:
        tokenizer.backend_tokenizer.model.ignore_merges = True
        if "tokenizer.ggml.add_bos_token" not in fields:
            tokenizer.add_bos_token = True
    if way in _DIGIT_BY_DIGIT:
        splits = [pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    elif way in _SPLIT_AS_ANOTHER or way in _SPLIT_IN_STEPS:
        expressions = _SPLIT_IN_STEPS.get(way) or (GGUF_PRE_TOKENIZER_SPLITS[_SPLIT_AS_ANOTHER[way]],)
        one_by_one = (pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions)
        splits = [*one_by_one, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    elif way in _AS_GPT2 or way in GGUF_PRE_TOKENIZER_SPLITS:
        return
    else:
        raise ModelError(
            f"cannot load the model '{path}': its vocabulary splits text as '{way}' does, which transformers does not "
            "know, so that its tokens would be others; give its folder of safetensors or its hub id instead"
        )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)


def _set_space_prefix(tokenizer: Any, reader: GGUFReader) -> None:
    """Let a SentencePiece tokenizer put no blank before the first word where its GGUF file says so."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    fields = reader.fields
    first = fields.get("tokenizer.ggml.add_space_prefix")
    if first is None or first.contents() or fields["tokenizer.ggml.model"].contents() != "llama":
        return
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    elif isinstance(backend.normalizer, normalizers.Sequence):  # Phi-3's puts the blank first, then replaces the others
        backend.normalizer = normalizers.Replace(" ", _BLANK)
    backend.decoder = decoders.Sequence([decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])


def _require_places(path: Path, model: Any, reader: GGUFReader) -> None:
    """Refuse a file with tensors that transformers has left out.

    Raises:
        ModelError: there is one.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    architecture = reader.fields["general.architecture"].contents()
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    known = {*get_gguf_hf_weights_map(model, processor), *_FACTORS, "output.weight"}
    left = [t.name for t in reader.tensors if t.name not in known and not _EXPERTS.fullmatch(t.name)]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise ModelError(
            f"cannot load the model '{path}': transformers has no place for {', '.join(left[:3])}{more}, and without "
            "that it would be another model; give its folder of safetensors or its hub id instead"
        )


def _factors(reader: GGUFReader) -> dict[str, list[float]]:
    """By what each rotary frequency is divided, by the name of the tensor; a tensor of ones is left out."""
    found = {tensor.name: tensor.data.ravel().tolist() for tensor in reader.tensors if tensor.name in _FACTORS}
    return {name: factors for name, factors in found.items() if set(factors) != {1.0}}


def _scale_rotary(path: Path, config: Any, metadata: Mapping[str, Any], factors: Mapping[str, list[float]]) -> None:
    """Scale rotary positions as a file says, if the configuration does not yet.

    Raises:
        ModelError: the kind of scaling is unknown here.
    """
    scaling = _scaling(path, config, metadata, factors)
    if scaling is None:
        return
    rope = getattr(config, "rope_parameters", None)
    if rope is None:
        raise _unread_error(path, "rope.scaling", scaling["rope_type"])
    own = rope.get("full_attention", rope)  # where layers differ, only those that see everything are scaled
    if own.get("rope_type", "default") == "default":
        own |= scaling


def _scaling(
    path: Path, config: Any, metadata: Mapping[str, Any], factors: Mapping[str, list[float]]
) -> dict[str, Any] | None:
    """How rotary positions are scaled, in transformers' words; None for not at all.

    Raises:
        ModelError: the kind of scaling is unknown here.
    """
    kind, factor = metadata.get("rope.scaling.type", "none"), metadata.get("rope.scaling.factor", 0)
    length = metadata.get("rope.scaling.original_context_length", getattr(config, "max_position_embeddings", None))
    if factors:
        short = factors.get(_FACTORS[1]) or factors.get(_FACTORS[0]) or [1.0] * len(next(iter(factors.values())))
        return {
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": factors.get(_FACTORS[2], short),
            "original_max_position_embeddings": length,
            "attention_factor": metadata.get("rope.scaling.attn_factor", 1.0),
        }
    if "rope.scale_linear" in metadata:  # how older files say it
        kind, factor = "linear", metadata["rope.scale_linear"]
    if kind == "none" or factor in (0, 1):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    own_settings = any(key.startswith("rope.scaling.yarn_") for key in metadata)
    if kind == "yarn" and not own_settings and metadata.get("rope.scaling.attn_factor", 1) == 1:
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    raise _unread_error(path, "rope.scaling.type", kind)


def _unread_error(path: Path, key: str, value: object) -> ModelError:
    return ModelError(
        f"cannot load the model '{path}': transformers does not read what it says of {key}, {value}, and without that "
        "it would be another model; give its folder of safetensors or its hub id instead"
    )
