"""Every causal architecture of transformers at tiny size: right, right without some fast path, or refused in one line.

Each is built from a small configuration (`tiny_architectures.json`) with random weights, and compared with plain
forwards: three removals, with and without a template before the prompt, in batches and alone, with and without caches,
the default search, Algorithm 1, and greedy generation against a hand-made loop. Writes a table.

    python benchmarks/sweep.py [--out docs/models.md] [--limit SECONDS] [ARCHITECTURE …]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import jopa
from jopa.choices import REMOVALS
from jopa.scoring.probe import probe_of

DATA = json.loads((Path(__file__).parent / "tiny_architectures.json").read_text())
_TOLERANCE = 1e-4
"""The most difference from a plain forward, in nats a token."""
TEXT = "write a story about the doctor and his patient who met in rain"
SYSTEM = "please tell me what you think of green birds today"
SHORT = jopa.SearchOptions(counterfactual=jopa.Generation(3))
WORDS = f"{TEXT} {SYSTEM} once upon time there was".split()
VOCABULARY = {word: i for i, word in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", "<u>", "<a>", *WORDS]))}
ANSWER = tuple(VOCABULARY[word] for word in ["once", "upon", "time", "there", "was"])
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"batch_size": 1}, {"reuse_prefix": False})
SETS = [(), (0,), (12,), (2, 5), (2, 6), (1, 2, 3, 9)]


def main() -> None:
    """Try all architectures, or those named, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limit", type=float, default=180, help="seconds for each architecture")
    arguments = parser.parse_args()
    names = arguments.names or sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *DATA["special"]})
    found = {}
    for name in names:
        found[name] = _limited(name, arguments.limit)
        print(f"{name:<28} {found[name]}", flush=True)
        if arguments.out:
            arguments.out.write_text(_page(found))
    sys.exit(any(result.startswith("WRONG") for result in found.values()))


def _limited(name: str, seconds: float) -> str:
    """What came out for an architecture, tried in a process of its own."""
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    process = context.Process(target=lambda: results.put(_judged(name)))
    process.start()
    ends = time.monotonic() + seconds
    while process.is_alive() and results.empty() and time.monotonic() < ends:
        time.sleep(0.05)
    if not results.empty():
        result = results.get()
    else:
        result = "not finished in time" if process.is_alive() else "WRONG: the process died"
    process.kill()
    process.join()
    return result


def _judged(name: str) -> str:
    torch.set_num_threads(1)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        model = build(name)
    except Exception as error:  # whatever a configuration cannot do at this size
        return f"cannot be built this small: {_line(error)}"
    try:
        wrapped = {chat: jopa.LanguageModel(model, tokenizer(chat), name) for chat in (False, True)}
    except jopa.JopaError as error:
        return f"refused: {_line(error)}"
    except Exception as error:
        return f"cannot be built this small: its forward fails: {_line(error)}"
    try:
        refused: dict[str, None] = {}
        for own in wrapped.values():
            check(own, refused)
        slow = dict.fromkeys(line for own in wrapped.values() for line in probe_of(own).slow_paths)
        if wrapped[True].length_dependence.changes_at(len(WORDS) + 12):
            slow["each row has a forward of its own: row lengths change the model's rotary factors"] = None
    except jopa.JopaError as error:
        return f"refused: {_line(error)}"
    except _WrongNumberError as error:
        return f"WRONG: {error}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"WRONG: {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {_line(error)}"
    return "; ".join(["right", *slow, *refused])


class _WrongNumberError(Exception):
    """A score is not that of a plain forward."""


def build(name: str) -> transformers.PreTrainedModel:
    """A tiny random model of an architecture, the same at every call."""
    special = dict(DATA["special"].get(name, {}))
    kind = CONFIG_MAPPING[special.pop("type", name)]
    declared = kind()
    sizes = {key: value for key, value in DATA["sizes"].items() if hasattr(declared, key)}
    torch.manual_seed(7)
    config = kind(**{**sizes, **special})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.std() < 0.1:
                parameter.normal_(0, 0.3)
    return model


def tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """One token a word."""
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    if chat:
        fast.chat_template = (
            "<s>{% for m in messages %} <u> {{ m['content'] }} {% endfor %}"
            "{% if add_generation_prompt %} <a>{% endif %}"
        )
    return fast


def check(model: jopa.LanguageModel, refused: dict[str, None]) -> None:
    """Compare everything with plain forwards; note what the model is refused for."""
    chat = model.tokenizer.chat_template is not None
    prompt = jopa.build_prompt(model.tokenizer, TEXT, system=SYSTEM if chat else None)
    output = jopa.Output(ANSWER, model.decode(ANSWER), (0, len(ANSWER)))
    keep = torch.ones(len(SETS), len(prompt.units), dtype=torch.bool)
    for row, removed in enumerate(SETS):
        keep[row, list(removed)] = False
    for removal in REMOVALS:
        try:
            for settings in SETTINGS:
                scorer = jopa.ModelScorer(model, prompt, output, removal, **settings)
                compare(f"{removal} {settings}", scorer.log_probs(keep), model, prompt, output, removal)
                for row in range(len(SETS)):
                    compare(
                        f"{removal} {settings} one", scorer.log_probs(keep[[row]]), model, prompt, output, removal, row
                    )
        except jopa.SettingError as error:
            refused[f"{removal} refused: {_line(error)}"] = None
            continue
        for method in ("joint", "jopa"):
            try:
                jopa.explain(TEXT, model=model, method=method, removal=removal, k=2, output=output, search=SHORT)
            except jopa.JopaError as error:
                refused[f"{method} refused: {_line(error)}"] = None
    ids = list(prompt.ids)
    for _ in range(6):
        model.length_dependence.restore()
        with torch.no_grad():
            ids.append(int(model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in model.stop_ids:
            break
    generated = model.generate({"input_ids": torch.tensor([prompt.ids])}, max_new_tokens=6)
    expected = tuple(i for i in ids[len(prompt.ids) :] if i not in model.stop_ids)
    if generated != expected:
        raise _WrongNumberError(f"generated {generated}, a plain loop {expected}")


def compare(
    what: str,
    scores: torch.Tensor,
    model: jopa.LanguageModel,
    prompt: jopa.Prompt,
    output: jopa.Output,
    removal: str,
    only: int | None = None,
) -> None:
    """Require the scores of one plain forward a mask."""
    for row, removed in zip(scores, SETS if only is None else [SETS[only]], strict=True):
        expected = reference(model, prompt, output, removal, removed)
        difference = float((row - expected).abs().max())
        if not difference < _TOLERANCE * max(1.0, float(expected.abs().max()) / 20):
            raise _WrongNumberError(f"{what} without {removed} is {difference:.2g} nats off")


def reference(
    model: jopa.LanguageModel, prompt: jopa.Prompt, output: jopa.Output, removal: str, removed: tuple[int, ...]
) -> torch.Tensor:
    """log p of each output token by one plain forward."""
    gone = [position for i in removed for position in prompt.units[i].positions]
    ids = torch.tensor([[*prompt.ids, *output.ids]])
    start = len(prompt.ids)
    arguments: dict[str, Any] = {"input_ids": ids}
    if removal == "delete":
        arguments = {"input_ids": ids[:, [i for i in range(ids.shape[1]) if i not in gone]]}
        start -= len(gone)
    elif removal == "zero" and gone:
        embeddings = model.model.get_input_embeddings()(ids).clone()
        embeddings[0, gone] = 0.0
        arguments = {"inputs_embeds": embeddings}
    elif removal == "hide" and gone:
        arguments["attention_mask"] = torch.ones_like(ids)
        arguments["attention_mask"][0, gone] = 0
        if probe_of(model).options.positions:
            arguments["position_ids"] = torch.arange(ids.shape[1])[None]
    model.length_dependence.restore()
    with torch.no_grad():
        logits = model.model(**arguments, use_cache=False).logits[0].float()
    rows = torch.arange(start - 1, start - 1 + len(output.ids))
    return logits.log_softmax(-1)[rows, list(output.ids)]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].replace("|", "/")


def _page(found: dict[str, str]) -> str:
    rows = "\n".join(f"| {name} | {result} |" for name, result in found.items())
    return f"""# Models

Any causal language model of transformers can be explained. What a loaded model can do beside its plain forward is found
by trying it on a few tokens: batches of rows, cached beginnings, masks, embeddings, gradients. What disagrees with the
plain forward is switched off; `details["slow_paths"]` of the result and `--profile` say so.

This table is made by `make sweep`: each architecture at tiny size with random weights, on the CPU, in float32, with
transformers {transformers.__version__} and torch {torch.__version__}. "Right" means: the scores of plain forwards, to
1e-4 nats a token, in every removal that is not refused, in batches and alone, with and without caches; and greedy
generation equal to a loop of plain forwards.

| architecture | result |
|---|---|
{rows}
"""


if __name__ == "__main__":
    main()
