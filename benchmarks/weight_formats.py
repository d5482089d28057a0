"""Try quantised weights and adapters as the architectures are tried, and write the table of docs/weight-formats.md.

    .venv/bin/python benchmarks/weight_formats.py [--out docs/weight-formats.md]

Each format is made of a tiny random Llama by its own package, saved and loaded again where the package can save it, and
goes through the checks of `sweep.py`: scores of plain forwards, default search and Algorithm 1, generation. What is not
installed is left out: pip install peft bitsandbytes torchao optimum-quanto. A file made by another command is not
touched, so run it with all packages before writing the page.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sweep_checks
import torch
import transformers
from measuring import machine
from transformers import AutoModelForCausalLM

import jopa
from jopa.scoring.slow_paths import SLOW_PATHS

SIZES: dict[str, Any] = {
    **{"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2},
}
"""Of the tiny Llama; some formats have blocks of 64 weights."""
LORA = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


@dataclass(frozen=True)
class Format:
    """One format of weights.

    Attributes:
        name: as the table shows it.
        package: the distribution that makes it.
        module: what is imported of it.
        make: turns the folder of a plain model into the model in this format.
    """

    name: str
    package: str
    module: str
    make: Callable[[str], Any]


def _quantised(kind: str, **settings: Any) -> Callable[[str], Any]:
    def make(folder: str) -> Any:
        config = getattr(transformers, kind)(**settings)
        return AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, device_map="cpu", dtype=torch.float32
        )

    return make


def _torchao(kind: str) -> Callable[[str], Any]:
    def make(folder: str) -> Any:
        quantization = importlib.import_module("torchao.quantization")
        return _quantised("TorchAoConfig", quant_type=getattr(quantization, kind)())(folder)

    return make


def _adapted(kind: str, **settings: Any) -> Callable[[str], Any]:
    def make(folder: str) -> Any:
        peft = importlib.import_module("peft")
        torch.manual_seed(3)
        config = getattr(peft, kind)(**settings)
        return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).eval()

    return make


FORMATS = (
    Format("LoRA", "peft", "peft", _adapted("LoraConfig", **LORA)),
    Format("DoRA", "peft", "peft", _adapted("LoraConfig", **LORA, use_dora=True)),
    Format(
        "LoRA with trained embedding and head",
        "peft",
        "peft",
        _adapted("LoraConfig", **LORA, modules_to_save=["embed_tokens", "lm_head"]),
    ),
    Format(
        "IA3",
        "peft",
        "peft",
        _adapted(
            "IA3Config",
            task_type="CAUSAL_LM",
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
            init_ia3_weights=False,
        ),
    ),
    Format(
        "OFT",
        "peft",
        "peft",
        _adapted(
            "OFTConfig", task_type="CAUSAL_LM", oft_block_size=4, r=0, target_modules=["q_proj"], init_weights=False
        ),
    ),
    Format(
        "prefix tuning", "peft", "peft", _adapted("PrefixTuningConfig", task_type="CAUSAL_LM", num_virtual_tokens=3)
    ),
    Format("8 bits", "bitsandbytes", "bitsandbytes", _quantised("BitsAndBytesConfig", load_in_8bit=True)),
    Format(
        "4 bits (NF4)",
        "bitsandbytes",
        "bitsandbytes",
        _quantised("BitsAndBytesConfig", load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    ),
    Format("int8 weights", "torchao", "torchao", _torchao("Int8WeightOnlyConfig")),
    Format("int8 weights and activations", "torchao", "torchao", _torchao("Int8DynamicActivationInt8WeightConfig")),
    Format("int8 weights", "optimum-quanto", "optimum.quanto", _quantised("QuantoConfig", weights="int8")),
)


def main() -> None:
    """Try every format whose package is installed, print a line for each, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="the page to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows, paths = [], set[str]()
    for tried in FORMATS:
        if importlib.util.find_spec(tried.module.partition(".")[0]) is None:
            print(f"{tried.package} is not installed")
            continue
        result, slow = judged(tried)
        paths.update(slow)
        rows.append(f"| {tried.package} {importlib.metadata.version(tried.package)} | {tried.name} | {result} |")
        print(rows[-1], flush=True)
    if arguments.out:
        arguments.out.write_text(_page(rows, sorted(paths)))
    sys.exit(any("WRONG" in row for row in rows))


def judged(tried: Format) -> tuple[str, list[str]]:
    """What came out for a format, and the fast paths that were switched off."""
    plain = sweep_checks.tokenizer(chat=True)
    with tempfile.TemporaryDirectory() as base, tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(7)
        config = transformers.LlamaConfig(**SIZES, vocab_size=len(plain))
        transformers.LlamaForCausalLM(config).save_pretrained(base)
        plain.save_pretrained(base)
        model = tried.make(base)
        slow: dict[str, None] = {}
        refused: dict[str, None] = {}
        try:
            model.save_pretrained(folder)
            plain.save_pretrained(folder)
            loaded = jopa.load(folder, device="cpu")
            how = "from its folder"
        except jopa.JopaError as error:
            return f"refused: {' '.join(str(error).split()).replace(folder, 'FOLDER')}", []
        except ValueError:  # its package cannot save it
            loaded, how = jopa.LanguageModel(model, plain, tried.name), "as a loaded model: its package cannot save it"
        try:
            sweep_checks.check(loaded, slow, refused)
        except sweep_checks.WrongNumberError as error:
            return f"WRONG: {error}", []
    without = f"right without {', '.join(slow)}" if slow else "right"
    return "; ".join([without, *refused, how]), list(slow)


def _page(rows: list[str], paths: list[str]) -> str:
    meaning = "\n".join(f"| {name} | {SLOW_PATHS[name]} |" for name in paths)
    return f"""# Quantised weights and adapters

Models in these formats go through the same checks as every architecture ([models](models.md)): a tiny random Llama, on
the CPU, every removal, with and without caches and batches, the default search, Algorithm 1 and generation, each
against plain forwards of the model in that format. What a format cannot do is found by trying it on a few tokens.
`benchmarks/weight_formats.py` makes this page. This one: {machine()}.

| package | format | result |
|---|---|---|
{chr(10).join(rows)}

What "without" means:

| name | line in a result |
|---|---|
{meaning}

GPTQ and AWQ were not tried: PyPI has their packages as source alone, which has to be compiled. A folder that
says that its weights are in one of these formats is refused in one line where the package is missing.
"""


if __name__ == "__main__":
    main()
