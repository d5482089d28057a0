"""Folders as a benchmark run leaves them, with made-up numbers: no model is needed to test what is made of records."""

import json
import math
import random
from pathlib import Path

from jopa.evaluation.metrics import METRICS

PROMPT = "write a story about the doctor and his patient"
HOSTILE = "<script>alert(1)</script> & \x1b[31m \u202egnp.exe _a_ 100% `$x$` | </title>"
VERSIONS = {"jopa": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.2"}
LANGUAGE_MODEL = {"id": "made/up", "revision": "abc123", "dtype": "float32", "device": "cpu"}


def experiment(methods, *, models=("tiny",), data=("alpaca",), ks=(3,), seeds=(0,), title="Table 1: made up") -> dict:
    return {
        "schema": 1,
        "title": title,
        "ks": list(ks),
        "seeds": list(seeds),
        "unit": "token",
        "removal": "delete",
        "baseline": methods[0],
        "generation": {"max_new_tokens": 50},
        "models": [{"name": name, "id": None} for name in models],
        "data": [{"name": name, "path": None, "limit": 25} for name in data],
        "methods": [{"label": label, "name": label, "removal": "delete", "settings": {}} for label in methods],
    }


def session(data=("alpaca",), kept=3) -> dict:
    left_out = {"shorter than 16 words": 2, HOSTILE: 1}
    return {
        "date": "2026-11-22T01:02:03+00:00",
        "command": "jopa bench made-up.toml --out DIR",
        "machine": {"cpu": "made-up CPU", "cores": 2, "memory_gib": 8, "gpu": None, "platform": "Linux"},
        "versions": VERSIONS,
        "data": [{"name": name, "kept": kept, "left_out": left_out, "source": "made up"} for name in data],
    }


def example(name="p1", *, model="tiny", data="alpaca", text=PROMPT, output="yes no") -> dict:
    """A prompt of one unit a word, and an output of two tokens."""
    units, start = [], 0
    for i, word in enumerate(text.split(" ")):
        units.append({"text": word, "start": start, "end": start + len(word), "positions": [i]})
        start += len(word) + 1
    return {
        "model": model,
        "data": data,
        "example": name,
        "prompt": {"text": text, "ids": list(range(len(units))), "units": units},
        "output": {"text": output, "ids": [7, 8], "target": [0, 2]},
        "log_prob": -2.0,
        "language_model": LANGUAGE_MODEL,
        "versions": VERSIONS,
        "status": "done",
    }


def cell(method, name="p1", *, model="tiny", data="alpaca", k=3, seed=0, metrics=None, pr=0.5, **more) -> dict:
    """A finished cell; metrics that are not given follow from `pr`."""
    values = dict.fromkeys(METRICS, pr) | {"log_likelihood": -2.0 + 2 * math.log(pr)} | (metrics or {})
    return {
        "schema": 1,
        "key": {"model": model, "data": data, "example": name, "method": method, "k": k, "seed": seed},
        "status": "done",
        "method": {"name": method, "steps": 50},
        "search_removal": "delete",
        "removal": "delete",
        "removed": list(range(k)),
        "removed_texts": PROMPT.split(" ")[:k],
        "units": 9,
        "output_tokens": 2,
        "output": "yes no",
        "counterfactual_output": "no",
        "log_prob": -2.0,
        "log_prob_removed": -2.0 + 2 * math.log(values["pr"]),
        "individual": [0.5] * k,
        "synergy": -2 * math.log(values["pr"]) - 0.5 * k,
        "search_log_prob_removed": -3.0,
        "metrics": values,
        "evaluations": 10,
        "ffe": 5.0,
        "seconds": 1.0,
        "ks": [k],
        "stop": "all 50 proposals made",
        "certificate": "none",
        "trace": [],
        "scores": None,
        "details": None,
        "date": "2026-11-22T01:02:03+00:00",
        "worker": "host:1",
        **more,
    }


def failed(method, name="p1", *, model="tiny", data="alpaca", k=3, seed=0, error="ScoringError: NaN") -> dict:
    key = {"model": model, "data": data, "example": name, "method": method, "k": k, "seed": seed}
    return {"schema": 1, "key": key, "status": "failed", "error": error, "date": "2026-11-22", "worker": "host:1"}


def write_run(folder: Path, plan: dict, cells, examples=None, sessions=None) -> Path:
    """Write the records; examples that are not given are made for the cells' keys."""
    names = dict.fromkeys((c["key"]["model"], c["key"]["data"], c["key"]["example"]) for c in cells)
    examples = examples if examples is not None else [example(e, model=m, data=d) for m, d, e in names]
    sets = [data["name"] for data in plan["data"]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps(plan), encoding="utf-8")
    files = {"sessions": sessions or [session(sets)], "examples": examples, "cells": cells}
    for name, records in files.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def trace(random_source: random.Random, steps: int, start: float, end: float) -> list:
    """A search that falls from one log-probability towards another."""
    rows, current, evaluations = [[0, start, 2, 3.0]], start, 2
    for step in range(1, steps + 1):
        if random_source.random() < 0.5:
            evaluations += 1
            current -= (current - end) * random_source.random() * 0.2
        rows.append([step, current, evaluations, 3.0 + evaluations * 0.7])
    return rows


def made_up_run(folder: Path, methods, *, models=("tiny",), data=("alpaca",), ks=(3,), seeds=(0,), n=25) -> Path:
    """A whole run of random numbers: later methods are a little worse, larger k lowers PR, half the methods search."""
    source = random.Random(0)
    cells = []
    for model in models:
        for set_name in data:
            for number in range(n):
                hard = source.random()
                for place, method in enumerate(methods):
                    for k in ks:
                        for seed in seeds:
                            level = (0.25 + 0.45 * place / len(methods) + 0.3 * hard) ** (0.4 + 0.25 * k)
                            value = min(0.99, max(0.01, level + source.gauss(0, 0.04)))
                            metrics = {name: min(1.0, value * (1 + 0.05 * i)) for i, name in enumerate(METRICS)}
                            metrics |= {"pr": value, "kl": (1 - value) * 2, "kl_chosen": (1 - value) / 2}
                            metrics |= {"log_likelihood": -60 * (1.2 - value)}
                            steps = trace(source, 60 - 4 * place, -40 - 20 * hard, metrics["log_likelihood"] - 30)
                            cost = {"evaluations": 20 + 9 * place, "ffe": 8.0 + place, "seconds": 2.5 + hard + place}
                            cells.append(
                                cell(method, f"{set_name}-{number:04}", model=model, data=set_name, k=k, seed=seed)
                                | {"metrics": metrics, "log_prob_removed": -2.0 + 2 * math.log(value)}
                                | {"trace": steps if place % 2 == 0 else [], "ks": list(ks), **cost}
                            )
    plan = experiment(methods, models=models, data=data, ks=ks, seeds=seeds)
    return write_run(folder, plan, cells, sessions=[session(data, kept=n)])
