"""Runs of searches on planted tables full of ties, and on a tiny random model.

As a script it prints, as JSON, the set and the trace of each: what must be the same on every processor and with every
number of threads.

    python planted_runs.py
"""

import json

import torch

import jopa
from jopa.methods.joint.search import JointSearch
from table_scorer import TableScorer, TableWhiteBoxScorer, redundant_pair


def hills(removed):
    """Units side by side do the same work, of which six are best."""
    near = [min((abs(unit - top) for unit in removed), default=60) for top in (4, 15, 23, 34, 45, 52)]
    return -1.0 - sum(max(0, 5 - distance) for distance in near)


def thirds(removed):
    """Every third unit does the same, any two of them together more; sums that no binary fraction has."""
    n_strong = sum(unit % 3 == 0 for unit in removed)
    return -3.0 - 0.1 * n_strong - 0.7 * n_strong * (n_strong - 1) / 3


def additive(removed):
    return -2.0 - sum(0.1 * (unit % 7) for unit in sorted(removed))


TABLES = {
    "hills": lambda: (TableScorer(60, hills), 6),
    "thirds": lambda: (TableScorer(40, thirds), 4),
    "additive": lambda: (TableScorer(30, additive), 3),
    "constant": lambda: (TableScorer(25, lambda removed: -1.0), 3),
    "rising": lambda: (TableScorer(25, lambda removed: -9.0 + 0.3 * len(removed)), 3),
    "pair": lambda: (TableScorer(40, redundant_pair), 4),
    "inside": lambda: (TableWhiteBoxScorer(8, thirds), 3),
}
OTHERS = {
    "jopa": {"steps": 40},
    "greedy": {},
    "ablation": {},
    "continuous-mask": {"steps": 4},
    "grad-x-input": {},
    "shapley": {},
}


def run_table(name, method=None):
    """The selection, and all sets asked for, in their order."""
    scorer, k = TABLES[name]()
    selection = (method or JointSearch(budget=45)).run(jopa.Problem(scorer), k)
    return selection, scorer.asked


def summary(selection):
    """Set and trace, with log-probabilities to what float32 can promise."""
    steps = [(step.step, round(step.log_prob, 3), step.evaluations, round(step.ffe, 6)) for step in selection.trace]
    return {"removed": list(selection.removed), "stop": selection.stop, "trace": steps}


def runs():
    """Everything that is compared, by name."""
    import tiny_models

    found = {name: summary(run_table(name)[0]) for name in TABLES}
    for name, options in OTHERS.items():
        found[name] = summary(run_table("inside", jopa.make_method(name, **options))[0])
    model = tiny_models.language_model("llama")
    prompt = jopa.build_prompt(
        model.tokenizer, "write a story about the doctor and his patient in rain who met two birds"
    )
    scorer = jopa.ModelScorer(model, prompt, jopa.Output((7, 8, 9, 10, 11), "", (0, 5)), "delete")
    for name in ("joint", "jopa"):
        method = jopa.make_method(name, budget=30)
        found[f"model {name}"] = summary(method.run(jopa.Problem(scorer), 3))
    return found


if __name__ == "__main__":
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        print(json.dumps(runs()))
