"""Seconds against peers, in one run on the same model, prompt and output. Run by hand:

    python benchmarks/speed.py                      # all cases and rows: ten minutes or so on two cores
    python benchmarks/speed.py --cases chat --rows leave-one-out --threads 2
    python benchmarks/speed.py --seconds inf --plain-steps 200 --permutations 25      # nothing cut short: an hour

Three comparisons, each the median of interleaved runs; what has taken `--seconds` in all is not run again:

    leave-one-out    `ablation` against Captum's LLMAttribution(FeatureAblation), one forward a unit (its default scores
                     one output token a forward, and its cached variant gives wrong numbers with transformers 5)
    algorithm-1      `jopa` against the algorithm as it is written down: a full forward a proposal, all logits;
                     every proposal of the latter costs the same, so `--plain-steps` of them are timed
    methods          `jopa` against ContextCite, Captum's Shapley sampling, integrated gradients and others

in two cases: a chat prompt of about 25 tokens, and the same prompt after a system message of about 300. Weights are
packed beforehand, as they are once a process; Captum and the plain algorithm compute as transformers does.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from measuring import machine, table, timed

import jopa
from jopa.methods.peers import llm_attribution, unit_input

PROMPT = (
    "Write a short story about an old doctor and his youngest patient, who meet again in the rain after many years."
)
SYSTEM = " ".join(
    f"Rule {i}: answer politely, stay with the question, name your sources and do not repeat rule {i - 1}."
    for i in range(1, 13)
)
CASES = {"chat": None, "template": SYSTEM}
ROWS = ("leave-one-out", "algorithm-1", "methods")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id, folder or .gguf; by default the bundled model")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--max-new-tokens", type=int, default=30)
    parser.add_argument("--steps", type=int, default=200, help="proposals of Algorithm 1")
    parser.add_argument(
        "--plain-steps", type=int, default=30, help="of them, those that the plain algorithm is timed on"
    )
    parser.add_argument("--permutations", type=int, default=5, help="of Captum's Shapley sampling")
    parser.add_argument("--seconds", type=float, default=40.0, help="what took so long in all is not run again")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's threads")
    options = parser.parse_args()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    model = jopa.load(options.model)
    print(f"{model.id}, {model.dtype}; {machine()}; seed {options.seed}, median of {options.repeats}\n")
    packing = timed({"packing": lambda: pack(model)}, 1)["packing"]
    print(f"Packing the weights, once: {packing.median:.2f} s, {packing.peak:.0f} MiB.\n")
    for case in options.cases:
        prompt = jopa.build_prompt(model.tokenizer, PROMPT, system=CASES[case])
        ids = model.generate(
            {"input_ids": torch.tensor([prompt.ids], device=model.device)}, max_new_tokens=options.max_new_tokens
        )
        output = jopa.Output(ids, model.decode(ids), (0, len(ids)))
        print(f"## {case}: {len(prompt.ids)} tokens, {len(prompt.units)} of them units; output {len(ids)}\n")
        compare = {"leave-one-out": leave_one_out, "algorithm-1": algorithm_1, "methods": methods}
        for row in options.rows:
            compare[row](model, prompt, output, options)


def pack(model: jopa.LanguageModel) -> None:
    """Have the weights packed, where they can be."""
    with model.packed.active():
        pass


def fresh(model: jopa.LanguageModel, prompt: jopa.Prompt, output: jopa.Output, removal: str) -> jopa.Problem:
    """A problem that remembers nothing."""
    return jopa.Problem(jopa.ModelScorer(model, prompt, output, removal))


def leave_one_out(
    model: jopa.LanguageModel,
    prompt: jopa.Prompt,
    output: jopa.Output,
    options: argparse.Namespace,
) -> None:
    """Every unit's effect alone; the numbers must be the same."""
    k = options.k
    tasks = {
        name: partial(lambda name: jopa.make_method(name).run(fresh(model, prompt, output, "delete"), k), name)
        for name in ("ablation", "captum")
    }
    done = timed(tasks, options.repeats, options.seconds)
    pairs = zip(done["ablation"].result.scores, done["captum"].result.scores, strict=True)
    difference = max(abs(mine - theirs) for mine, theirs in pairs)
    show("leave-one-out", done, "ablation")
    print(f"Largest difference of a score: {difference:.1e} nats.\n")
    assert difference < 1e-3 * len(output.ids), "the two do not compute the same"


def algorithm_1(
    model: jopa.LanguageModel,
    prompt: jopa.Prompt,
    output: jopa.Output,
    options: argparse.Namespace,
) -> None:
    """The same chain by the engine, and by one plain forward a proposal."""
    k, seed, steps = options.k, options.seed, options.steps
    few = min(options.plain_steps, steps)

    def engine(steps: int) -> Any:
        problem = fresh(model, prompt, output, "zero")
        removed = jopa.make_method("jopa", steps=steps).run(problem, k, seed=seed).removed
        return sorted(removed), problem.evaluations, problem.ffe

    tasks: dict[str, Callable[[], Any]] = {
        "jopa": lambda: engine(steps),
        f"plain, {few} proposals": lambda: sorted(plain_algorithm_1(model, prompt, output, k, few, seed)),
        "plain, none": lambda: plain_algorithm_1(model, prompt, output, k, 0, seed),
    }
    done = timed(tasks, options.repeats, options.seconds)
    show(f"Algorithm 1, {steps} proposals, removal zero", done, "jopa")
    mine, some, none = done.values()
    whole = none.median + steps * (some.median - none.median) / few
    processor = none.median_processor + steps * (some.median_processor - none.median_processor) / few
    _, evaluations, ffe = mine.result
    print(
        f"All {steps} proposals one by one: {whole:.1f} s, {whole / mine.median:.2f} times `jopa` "
        f"({processor / mine.median_processor:.2f} times its processor time), which scored {evaluations} masks in "
        f"{ffe:.1f} FFE."
    )
    print(f"The same set after {few}: {engine(few)[0] == some.result}.\n")


def plain_algorithm_1(
    model: jopa.LanguageModel, prompt: jopa.Prompt, output: jopa.Output, k: int, steps: int, seed: int
) -> tuple[int, ...]:
    """Algorithm 1 with nothing shared and nothing remembered: the base that speed is measured from."""
    import torch

    ids = torch.tensor([[*prompt.ids, *output.ids]], device=model.device)
    embeddings = model.model.get_input_embeddings()(ids).detach()
    position_of = [torch.tensor(unit.positions, device=model.device) for unit in prompt.units]
    n_prompt = len(prompt.ids)

    def log_prob(factors: Any) -> Any:
        scale = torch.ones(ids.shape[1], dtype=embeddings.dtype, device=model.device)
        for factor, positions in zip(factors, position_of, strict=True):
            scale = scale.index_put((positions,), factor.to(scale))
        logits = model.model(inputs_embeds=embeddings * scale[None, :, None], use_cache=False).logits[0]
        log_probs = logits[n_prompt - 1 : -1].float().log_softmax(-1)
        return log_probs.gather(1, ids[0, n_prompt:, None]).double().sum()

    def without(units: list[int]) -> float:
        factors = torch.ones(len(prompt.units))
        factors[units] = 0.0
        with torch.no_grad():
            return float(log_prob(factors))

    factors = torch.ones(len(prompt.units), requires_grad=True)
    (gradient,) = torch.autograd.grad(log_prob(factors), factors)
    strength = gradient.abs().double()
    random = torch.Generator().manual_seed(seed)
    removed = strength.argsort(descending=True, stable=True)[:k].tolist()
    kept = [i for i in range(len(prompt.units)) if i not in removed]
    current = without(removed)
    for _ in range(steps):
        into = int(strength[kept].softmax(0).multinomial(1, generator=random))
        out = int(strength[removed].softmax(0).multinomial(1, generator=random))
        proposal = [*removed[:out], kept[into], *removed[out + 1 :]]
        if (value := without(proposal)) < current:
            kept[into], removed, current = removed[out], proposal, value
    return tuple(removed)


def methods(
    model: jopa.LanguageModel,
    prompt: jopa.Prompt,
    output: jopa.Output,
    options: argparse.Namespace,
) -> None:
    """`jopa` against methods that ask something else of the same prompt, at their usual settings."""
    k, seed = options.k, options.seed

    def run(name: str, settings: dict[str, Any]) -> Any:
        return jopa.make_method(name, **settings).run(fresh(model, prompt, output, "delete"), k, seed=seed)

    chosen = {
        "joint": ("joint", {}),
        "ContextCite, 64 ablations": ("context-cite", {"ablations": 64}),
        "integrated gradients, 100 steps": ("integrated-gradients", {"steps": 100}),
    }
    tasks: dict[str, Callable[[], Any]] = {
        label: partial(run, name, settings) for label, (name, settings) in chosen.items() if name in jopa.METHODS
    }
    n = options.permutations
    tasks[f"Captum Shapley sampling, {n} permutations"] = lambda: captum_shapley(model, prompt, output, n, seed)
    if importlib.util.find_spec("shap"):
        tasks["shap, 2 permutations there and back"] = lambda: shap_permutations(model, prompt, output, 2, seed)
    show("methods", timed(tasks, options.repeats, options.seconds), next(iter(tasks)))
    if "shap" not in " ".join(tasks):
        print("shap: not installed.\n")


def captum_shapley(
    model: jopa.LanguageModel, prompt: jopa.Prompt, output: jopa.Output, permutations: int, seed: int
) -> Any:
    """Captum's own Shapley sampling over the same units, one forward a coalition."""
    import torch
    from captum.attr import ShapleyValueSampling

    torch.manual_seed(seed)
    scorer = jopa.ModelScorer(model, prompt, output, "delete")
    inputs = unit_input(jopa.Problem(scorer), scorer)
    attribution = llm_attribution(ShapleyValueSampling(model.model), output.ids, inputs)
    target = torch.tensor(output.ids)
    return attribution.attribute(
        inputs, target=target, use_cached_outputs=False, forward_in_tokens=False, n_samples=permutations
    )


def shap_permutations(
    model: jopa.LanguageModel, prompt: jopa.Prompt, output: jopa.Output, permutations: int, seed: int
) -> Any:
    """shap's own explainer over the same units, which asks our engine for one whole forward at a time."""
    import numpy as np

    shap = importlib.import_module("shap")  # no dependency of this project
    import torch

    scorer = jopa.ModelScorer(model, prompt, output, "delete", batch_size=1, reuse_prefix=False)
    n_units = scorer.n_units

    def log_probs(rows: Any) -> Any:
        return scorer.log_probs(torch.from_numpy(rows > 0)).sum(dim=1).double().numpy()

    masker = shap.maskers.Independent(np.zeros((1, n_units)))
    explainer = shap.PermutationExplainer(log_probs, masker, seed=seed)
    return explainer(np.ones((1, n_units)), max_evals=permutations * (2 * n_units + 1), silent=True)


def show(what: str, done: dict[str, Any], base: str) -> None:
    """A table of seconds, and of how many times longer than `base` each took."""
    rows = [
        (
            name,
            len(timing.seconds),
            f"{timing.median:.3f}",
            f"{min(timing.seconds):.3f}–{max(timing.seconds):.3f}",
            f"{timing.median / done[base].median:.2f}×",
            f"{timing.median_processor:.2f}",
            f"{timing.peak:.0f}",
        )
        for name, timing in done.items()
    ]
    print(
        table(
            (what, "runs", "seconds, median", "range", f"against {base}", "processor seconds", "peak memory, MiB more"),
            rows,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
