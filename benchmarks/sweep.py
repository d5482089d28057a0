"""Every causal architecture of transformers at tiny size: right, right without some fast path, or refused in one line.

Each is built from a small configuration (`tiny_architectures.json`) with random weights, in a process of its own with a
time limit, and compared with plain forwards (`sweep_checks.py`). Each result is appended to a file of records; what is
on record for this release of transformers is not tried again, unless it was wrong, did not finish, or is named.

    python benchmarks/sweep.py [--records out/sweep.jsonl] [--out docs/models.md] [--limit SECONDS] [ARCHITECTURE …]
"""

from __future__ import annotations

import argparse
import inspect
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import sweep_checks
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import jopa
from jopa.scoring.slow_paths import SLOW_PATHS

DATA = json.loads((Path(__file__).parent / "tiny_architectures.json").read_text())
MAX_PARAMETERS = 50_000_000
GRACE_SECONDS = 20
FINAL = ("right", "refused", "unbuilt")
"""Outcomes that stand until the next release of transformers."""

Record = dict[str, Any]


def main() -> None:
    """Try all architectures that are not on record, or those named, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--records", type=Path, default=Path("out/sweep.jsonl"))
    parser.add_argument("--out", type=Path, help="the page to write")
    parser.add_argument("--limit", type=int, default=180, help="seconds for each architecture")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    everything = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *DATA["special"]})
    if unknown := sorted({*arguments.names} - {*everything}):
        parser.error(f"transformers {transformers.__version__} has no causal architecture {', '.join(unknown)}")
    found = _read(arguments.records)
    names = arguments.names or [n for n in everything if n not in found or found[n]["outcome"] not in FINAL]
    arguments.records.parent.mkdir(parents=True, exist_ok=True)
    with arguments.records.open("a") as journal:
        for name in names:
            found[name] = _limited(name, arguments.limit)
            print(f"{name:<26} {found[name]['seconds']:>5.1f} s  {_told(found[name])}", flush=True)
            journal.write(json.dumps(found[name]) + "\n")
            journal.flush()
    if arguments.out:
        arguments.out.write_text(_page([found[name] for name in everything if name in found]))
    sys.exit(any(record["outcome"] not in FINAL for record in found.values()))


def _read(path: Path) -> dict[str, Record]:
    """The last record of each architecture with this release of transformers."""
    if not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {record["name"]: record for record in records if record["transformers"] == transformers.__version__}


def _limited(name: str, seconds: int) -> Record:
    """What came out for an architecture, tried in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_send, args=(sender, name, seconds))
    start = time.monotonic()
    process.start()
    sender.close()
    result: Record = {"outcome": "unfinished", "reason": f"nothing after {seconds} s"}
    if receiver.poll(seconds + GRACE_SECONDS):
        try:
            result = receiver.recv()
        except EOFError:
            result = {"outcome": "wrong", "reason": "the process died"}
    process.kill()
    process.join()
    return {
        "name": name,
        **result,
        "seconds": round(time.monotonic() - start, 1),
        "transformers": transformers.__version__,
    }


class _OutOfTime(BaseException):  # not an Exception, so that no other handler catches it
    """The time of an architecture is over."""


def _send(sender: Any, name: str, seconds: int) -> None:
    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise _OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
            sender.send(_judged(name))
    except _OutOfTime as error:
        sender.send({"outcome": "unfinished", "reason": f"after {seconds} s at {_place(error)}"})


def _judged(name: str) -> Record:
    try:
        model = build(name)
    except Exception as error:  # whatever a configuration cannot do at this size
        return {"outcome": "unbuilt", "reason": _line(error)}
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([[3, 4, 5]]), use_cache=False)
    except Exception as error:  # the architecture's own forward fails; jopa has no part in it
        return {"outcome": "unbuilt", "reason": f"its forward fails: {_line(error)}"}
    slow: dict[str, None] = {}
    refused: dict[str, None] = {}
    try:
        for chat in (True, False):
            own = jopa.LanguageModel(model, sweep_checks.tokenizer(chat), name)
            sweep_checks.check(own, slow, refused)
    except jopa.JopaError as error:
        return {"outcome": "refused", "reason": _line(error)}
    except sweep_checks.WrongNumberError as error:
        return {"outcome": "wrong", "reason": str(error)}
    except Exception as error:  # any traceback is a finding of the sweep
        return {"outcome": "wrong", "reason": f"{type(error).__name__} at {_place(error)}: {_line(error)}"}
    return {"outcome": "right", "slow": list(slow), "refused": list(refused)}


def build(name: str) -> transformers.PreTrainedModel:
    """A tiny random model of an architecture, the same at every call.

    Raises:
        ValueError: it has too many parameters at the sizes given, or fails in a way of its own.
    """
    special = dict(DATA["special"].get(name, {}))
    config = _sized(CONFIG_MAPPING[special.pop("type", name)], special)
    with torch.device("meta"):
        n = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if n > MAX_PARAMETERS:
        raise ValueError(f"{n / 1e6:.0f} million parameters at the smallest sizes that are known to this script")
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and (parameter.std() < 0.1 or not parameter.isfinite().all()):
                parameter.normal_(0, 0.3)
    return model


def _sized(kind: type[PreTrainedConfig], special: dict[str, Any]) -> PreTrainedConfig:
    """A small configuration; those of its parts (text, images, sound) are small, too."""
    declared = kind()
    sizes = {key: value for key, value in DATA["sizes"].items() if _takes(declared, key)}
    if "kv_lora_rank" in sizes and "num_key_value_heads" in sizes:  # latent attention has keys for each head
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    for name in special.pop("without", ()):
        sizes.pop(name, None)
    parts: dict[str, Any] = {}
    sub_configs: Any = kind.sub_configs or {}  # transformers types it as a property
    for part, part_kind in sub_configs.items():
        own = type(getattr(declared, part, None))
        if not issubclass(own, PreTrainedConfig):
            own = part_kind
        given = dict(special.get(part, {}))
        parts[part] = _sized(own, given) if issubclass(own, PreTrainedConfig) and own is not PreTrainedConfig else given
    return kind(**{**sizes, **special, **{key: part for key, part in parts.items() if part}})


def _takes(config: PreTrainedConfig, name: str) -> bool:
    """Whether a kind of configuration can be given a value of this name."""
    if name in inspect.signature(type(config)).parameters or name in type(config).attribute_map:
        return True
    if isinstance(vars(type(config)).get(name), property):
        return False
    try:
        return hasattr(config, name)
    except Exception:  # a property of a configuration may raise anything, not only AttributeError: then it has none
        return False


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200].replace("|", "/")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "jopa" in Path(frame.filename).parts]
    return " in ".join(dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in [frames[-1], *own[-1:]]))


def _told(record: Record) -> str:
    """One line on an architecture."""
    if record["outcome"] != "right":
        words = {"unbuilt": "cannot be built this small", "wrong": "WRONG", "unfinished": "NOT FINISHED"}
        return f"{words.get(record['outcome'], record['outcome'])}: {record['reason']}"
    without = f"right without {', '.join(record['slow'])}" if record["slow"] else "right"
    return "; ".join([without, *record["refused"]])


def _page(records: list[Record]) -> str:
    count = {word: sum(record["outcome"] == word for record in records) for word in (*FINAL, "wrong", "unfinished")}
    fast = sum(record["outcome"] == "right" and not record["slow"] for record in records)
    rows = "\n".join(f"| {record['name']} | {_told(record)} |" for record in records)
    names = "\n".join(f"| {name} | {line} |" for name, line in sorted(SLOW_PATHS.items()))
    faults = f" · {count['wrong']} wrong · {count['unfinished']} not finished"
    return f"""# Models

Any causal language model of transformers can be explained. What a loaded model can do beside its plain forward is found
by trying it on a few tokens: batches of rows, cached beginnings, masks, embeddings, gradients. What disagrees with the
plain forward is switched off; `details["slow_paths"]` of the result and `--profile` say so. What a model cannot do at
all is refused in one line before any work.

`make sweep` makes this page: it tries every causal architecture of transformers (those of
`MODEL_FOR_CAUSAL_LM_MAPPING_NAMES`, and some configurations with unusual positions or windows), at tiny size with
random weights, on the CPU, in float32. This table was made with transformers {transformers.__version__} and
torch {torch.__version__}.

"Right" means: the scores of plain forwards, to 1e-4 nats a token, in every removal that is not refused, in batches and
alone, with and without caches, with and without a template before the prompt; the default search and Algorithm 1 report
the scores of plain forwards; and greedy generation, alone and in a batch, is that of a loop of plain forwards.

{len(records)} architectures: {count["right"]} right ({fast} with every fast path) · {count["refused"]} refused in \
one line · {count["unbuilt"]} cannot be built this small{faults if count["wrong"] + count["unfinished"] else ""}.

| architecture | result |
|---|---|
{rows}

What "without" means:

| name | line in a result |
|---|---|
{names}
"""


if __name__ == "__main__":
    main()
