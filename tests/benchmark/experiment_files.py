"""Experiment files for tests, and what is on record of one."""

import json

from jopa.benchmark.experiment import Experiment, read_experiment

WHOLE = """
title = "Table 1: faithfulness at k = 3"
ks = [3, 1]
seeds = [0, 7]
unit = "word"
removal = "hide"
baseline = "w/o initialization"
max_new_tokens = 50
sentence_bert = false

[[models]]
name = "llama-2-7b"
id = "meta-llama/Llama-2-7b-chat-hf"
revision = "abc"
device = "cpu"
dtype = "float16"
batch_size = 4

[[models]]
name = "bundled"

[[data]]
name = "alpaca"
limit = 110
seed = 3
prefill = ""

[[data]]
name = "mine"
path = "prompts/mine.jsonl"

[[methods]]
name = "jopa"
label = "w/o initialization"
removal = "delete"
ks = [5, 2]
settings = { initial = "random", steps = 20 }

[[methods]]
name = "ablation"
"""

SMALL = 'title = "t"\nks = [1]\n[[data]]\nname = "alpaca"\n[[methods]]\nname = "random"\n'


def read(tmp_path, text, **overrides) -> Experiment:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    return read_experiment(path, **overrides)


def on_record(experiment: Experiment) -> dict:
    """As it comes back from its file."""
    return json.loads(json.dumps(experiment.to_dict()))
