"""What bfloat16 weights cost and gain: seconds, effects, chosen sets and certificates, against float32.

    python benchmarks/precision.py --data alpaca.jsonl --prompts 30

For each prompt, the model in float32 answers; then the default search runs with both models on that answer, in turns.
The set that the bfloat16 model chose is scored again in float32. It says something on a processor with instructions for
bfloat16; on others it shows what their absence costs.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

from measuring import machine, table, timed

import jopa
from jopa.datasets.examples import load_dataset
from jopa.problem import joint_effects

K = 3
BOTH = ("float32", "bfloat16")


@dataclass(frozen=True)
class Case:
    """What one prompt gave.

    Attributes:
        seconds: of the search, by dtype.
        drift: the largest difference of a set's log p(y) between the dtypes, in nats a token of the output.
        effect: the joint effect in float32 of the set that each dtype chose, in nats.
        same: whether both chose the same set.
        certificates: what each search proved, of the scores that it saw.
    """

    seconds: dict[str, float]
    drift: float
    effect: dict[str, float]
    same: bool
    certificates: dict[str, str]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a JSONL file of prompts")
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--unit", default="word")
    parser.add_argument("--max-new-tokens", type=int, default=30)
    parser.add_argument("--model", help="hub id, folder or .gguf; by default the bundled model")
    options = parser.parse_args()
    models = {dtype: jopa.load(options.model, dtype=dtype) for dtype in BOTH}
    examples = load_dataset(options.data.stem, path=options.data, limit=options.prompts, seed=0).examples
    cases = [one_case(models, example.prompt, options) for example in examples]
    print(f"{models['float32'].id}; {machine()}; seed 0, {len(cases)} prompts of {options.data.stem}\n")
    print(table(("", *BOTH), list(rows(cases))))


def one_case(models: dict[str, jopa.LanguageModel], text: str, options: argparse.Namespace) -> Case:
    """Both searches on one prompt and answer."""
    prompt = jopa.build_prompt(models["float32"].tokenizer, text, unit=options.unit)
    ids = models["float32"].generate_ids(prompt.ids, jopa.Generation(options.max_new_tokens))
    output = jopa.Output(tuple(ids), models["float32"].decode(ids), (0, len(ids)))
    k = min(K, len(prompt.units) - 1)

    def problem(dtype: str) -> jopa.Problem:
        return jopa.Problem(models[dtype].scorer(prompt, output, "delete"))

    def search(dtype: str) -> tuple[tuple[int, ...], str]:
        asked = problem(dtype)
        chosen = tuple(sorted(jopa.make_method("joint").run(asked, k, seed=0).removed))
        return chosen, asked.certificate(chosen)

    done = timed({dtype: (lambda dtype=dtype: search(dtype)) for dtype in BOTH}, 1)
    sets = {dtype: done[dtype].result[0] for dtype in BOTH}
    asked = [(), *sets.values(), *[(unit,) for unit in range(len(prompt.units))]]
    exact, rounded = (problem(dtype) for dtype in BOTH)
    drift = max(abs(exact.log_prob(units) - rounded.log_prob(units)) for units in asked) / len(ids)
    effects = joint_effects(exact, list(sets.values()))
    return Case(
        seconds={dtype: done[dtype].median for dtype in BOTH},
        drift=drift,
        effect=dict(zip(BOTH, effects, strict=True)),
        same=sets["float32"] == sets["bfloat16"],
        certificates={dtype: done[dtype].result[1] for dtype in BOTH},
    )


def rows(cases: list[Case]) -> list[tuple[str, str, str]]:
    """The lines of the table."""
    found = []
    seconds = {dtype: statistics.median(case.seconds[dtype] for case in cases) for dtype in BOTH}
    ratio = statistics.median(case.seconds["float32"] / case.seconds["bfloat16"] for case in cases)
    found.append(("seconds of a search, median", *(f"{seconds[dtype]:.2f}" for dtype in BOTH)))
    found.append(("float32 / bfloat16, median of the pairs", "", f"{ratio:.2f}×"))
    drifts = sorted(case.drift for case in cases)
    found.append(("difference of log p(y), nats a token: median", "", f"{statistics.median(drifts):.4f}"))
    found.append(("the largest of all", "", f"{drifts[-1]:.4f}"))
    found.append(("the same set of three", "", f"{sum(case.same for case in cases)} of {len(cases)}"))
    kept = [case.effect["bfloat16"] / case.effect["float32"] for case in cases if case.effect["float32"] > 0]
    found.append(("its joint effect, scored in float32, of float32's: mean", "", f"{statistics.mean(kept):.3f}"))
    found.append(("the least", "", f"{min(kept):.3f}"))
    for kind in ("optimal", "one-swap-optimal", "none"):
        found.append((f"certificate {kind}", *(str(sum(c.certificates[d] == kind for c in cases)) for d in BOTH)))
    return found


if __name__ == "__main__":
    main()
