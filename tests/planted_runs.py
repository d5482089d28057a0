"""Runs of searches on planted tables full of ties, and on a tiny random model.

As a script it writes, as JSON, the set and the trace of each: what must be the same on every processor and with every
number of threads.

    python planted_runs.py default avx2 best
"""

import json
import os
import sys
import traceback

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


def on_processor(capability):
    """The capability that torch uses, and the runs with one thread and with two, in a process forked for them.

    Torch reads ATEN_CPU_CAPABILITY when it first computes anything. So this process has imported all it needs, and
    must not have computed before; "best" is what torch takes for this machine by itself.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.environ.pop("ATEN_CPU_CAPABILITY", None)
            if capability != "best":
                os.environ["ATEN_CPU_CAPABILITY"] = capability
            found = []
            for n_threads in (1, 2):
                torch.set_num_threads(n_threads)
                found.append(runs())
            with os.fdopen(writing, "w") as pipe:
                json.dump({"capability": torch.backends.cpu.get_cpu_capability(), "runs": found}, pipe)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the runs on {capability} failed")
    return json.loads(said)


if __name__ == "__main__":
    # Once for all processes, where each would import them as it first needs them.
    import scipy.optimize  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import tiny_models  # noqa: F401

    print(json.dumps({capability: on_processor(capability) for capability in sys.argv[1:]}))
