# %% [markdown]
# # Compare methods on your own data
#
# *About fifteen minutes.* Which method finds the parts that matter for *your* prompts and model? A benchmark runs each method on each
# prompt, lets the model answer again without the chosen units, and measures how far the answer moved. It needs
# `pip install "jopa[bench]"`.
#
# ## One prompt first

# %%
import jopa
from jopa.reports.plots import plot_comparison

model = jopa.load()
found = jopa.compare(
    "Name three animals that live in the desert and eat plants.",
    ["joint", "greedy", "ablation", "random"],
    k=2,
    model=model,
    unit="word",
    output=jopa.Generation(max_new_tokens=20),
)
plot_comparison(found)

# %% [markdown]
# All methods see the same output, removal and scorer; the joint effect that is shown is measured in the same way for all.
#
# ## A data set
#
# One JSON object a line with `prompt`, and an experiment as a TOML file:

# %%
import json
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
prompts = ["Write a poem about rain and the sea.", "Name two birds that cannot fly."]
(folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
(folder / "mine.toml").write_text("""
title = "My prompts"
ks = [2]
unit = "word"
baseline = "joint"
max_new_tokens = 16
sentence_bert = false
data = [{ name = "mine", path = "prompts.jsonl" }]
methods = [{ name = "joint" }, { name = "ablation" }, { name = "random" }]
""")

# %% [markdown]
# In a shell: `jopa bench mine.toml --out runs/mine`, then `jopa report runs/mine`. From Python:

# %%
from jopa.benchmark.experiment import read_experiment
from jopa.benchmark.run import run_bench
from jopa.reports.benchmark_report import write_report

outcome = run_bench(read_experiment(folder / "mine.toml"), folder / "run")
print(outcome.done, "cells done,", outcome.failed, "failed")
pages = write_report(folder / "run")
print((folder / "run" / "report" / "tables" / "faithfulness-k2.md").read_text())

# %% [markdown]
# Two prompts prove nothing: the standard errors say so. Take some dozens, and look at the paired differences in
# `tables/differences-k2.md`. A run that was stopped continues where it was; methods and prompts can be added later.
# [Benchmarks](../benchmark.md) explains the file, [Metrics](../metrics.md) what is measured.
