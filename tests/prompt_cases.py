"""What the tests of prompt building share: awkward texts, messages, and how a unit looks."""

from __future__ import annotations

import importlib.util
import sys
import types
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest

from jopa.prompt import building as checked
from jopa.prompt.building import Prompt, Unit
from small_tokenizers import KINDS

AWKWARD = {
    "plain": "Write a story about the doctor and his patient.",
    "one letter": "x",
    "emoji": "👩‍👩‍👧 family 🏳️‍🌈",
    "emoji alone": "👍🏽",
    "hebrew": "שלום עולם, מה שלומך?",
    "arabic": "مَرْحَبًا بالعالم",
    "combining": unicodedata.normalize("NFD", "Ångström café ẹ́ naïve"),
    "decomposing": "ﬁne ½ ㎏ Ⅷ İstanbul ǅ",
    "tabs": "\ta\tb\t\tc",
    "crlf": "first line\r\nsecond line\r\n\r\nfourth\r\n",
    "chatml mark": "a<|im_end|>b",
    "swallowing marks": "a <|end|>  b <|user|>\n c",
    "llama mark": "<s> [INST] x [/INST]",
    "ends with eos": "the end</s>",
    "marks alone": "<|im_start|>user",
    "outer blanks": "  leading and trailing  ",
    "outer newlines": "\n\nleading newline\n\n",
    "odd blanks": "\u00a0a\u2003b\u3000c\u2028d\u0085e\u000bf\u00a0",
    "cjk": "今天天气很好。我们去公园吧!你好,世界。カタカナ",
    "zero width": "\u200ba\u200bb\u200d c\ufeff\u00ad",
    "nul": "a\x00b\x01c",
    "private use": "a\ue000b \U000f0000",
    "user": "user",
    "assistant": "assistant",
    "system text": "You are a helpful assistant.",
    "marker": "jopaþmarker jopaþmarkerx",
    "numbers": "3.14 and 2,718 or 1e-5",
    "braces": "{{ messages }} {% raw %} {# no #} &lt;b&gt;",
}


def unchecked_modules() -> types.ModuleType:
    """`jopa.prompt.building`, with what it is made of, as callers run it.

    The imported ones check the types of every call while the tests run; that takes five times as long, and it refuses
    a wrong type before jopa can say what to do.
    """
    names = (
        "options",
        "messages",
        "passages",
        "documents",
        "units",
        "rendering",
        "content_parts",
        "frames",
        "unshown",
        "fixed_parts",
        "building",
    )
    modules = {}
    for name in names:
        spec = importlib.util.spec_from_file_location(
            f"unchecked_{name}", Path(checked.__file__).with_name(f"{name}.py")
        )
        modules[name] = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    own = {
        name: value
        for module in modules.values()
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    }
    for module in modules.values():
        vars(module).update({name: value for name, value in own.items() if name in vars(module)})
    return modules["building"]


build_prompt = unchecked_modules().build_prompt

every_kind = pytest.mark.parametrize("kind", KINDS)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def template_ids(prompt: Prompt) -> list[int]:
    removable = {position for unit in prompt.units for position in unit.positions}
    return [token for position, token in enumerate(prompt.ids) if position not in removable]


def require_sound(prompt: Prompt, text: str) -> None:
    """What holds for every prompt whose units cover the whole text."""
    assert prompt.text == text
    assert "".join(unit.text for unit in prompt.units) == text
    assert all(unit.text == text[unit.start : unit.end] and unit.text for unit in prompt.units)
    positions = [position for unit in prompt.units for position in unit.positions]
    assert all(unit.positions for unit in prompt.units)
    assert all(before < after for before, after in pairwise(positions))
    assert positions[0] >= 0 and positions[-1] < len(prompt.ids)


def seen(atom: Unit) -> int:
    """Where an atom's first visible character is; its first character if there is none."""
    return atom.end - len(atom.text.lstrip()) if atom.text.strip() else atom.start
