#!/usr/bin/env bash
# Every experiment of docs/results.md on two small models:   experiments/bundled.sh DATA [OUT]
#
# DATA holds alpaca.jsonl, tldr_news.jsonl, counsel_chat.jsonl, aqua.jsonl and jailbreak.jsonl (docs/datasets.md has their
# form).
# GEMMA, if set, is a GGUF file of Gemma 3 270M, a base model whose prompts are plain; its records have a folder of their
# own. Without it the second model is left out.
#
# Stop it and start it again as you like: records stay, and each step goes on from them. The steps come in the order of
# their worth, with growing limits, so what is there at any time is balanced and can be reported with its n.
# WORKERS is the number of Ray workers, one core each; with 1 (the default) everything runs in one process on one core.
set -euo pipefail
data=$1
out=${2:-runs}
jopa=${JOPA:-.venv/bin/jopa}
python=${PYTHON:-.venv/bin/python}
workers=${WORKERS:-1}
parallel=(--threads 1)
[ "$workers" -le 1 ] || parallel=(--ray --workers "$workers")

bench() { # FOLDER EXPERIMENT LIMIT SETS [OPTIONS]
  local folder=$1 file=experiments/$2.toml limit=$3 sets=$4 files=() name
  shift 4
  # All data sets of the file are named at each start, because a folder keeps where each is read from.
  for name in $(sed -n '/\[\[data\]\]/,/^$/s/^name = "\(.*\)"$/\1/p' "$file"); do
    case $name in
    ambiguous | jbb-benign | aqua-questions) files+=(--data "$name=$out/$name.jsonl") ;;
    *) [ ! -f "$data/$name.jsonl" ] || files+=(--data "$name=$data/$name.jsonl") ;;
    esac
  done
  # SmolLM2 answers many prompts with nothing at all when the paper's prefilled sentence comes first, so it is left out.
  "$jopa" bench "$file" --out "$folder" --limit "$limit" --sets "$sets" "${files[@]}" --prefill "" \
    --max-new-tokens 50 "${parallel[@]}" "$@"
  "$jopa" report "$folder"
}

first() { bench "$out/$1" "$1" "$2" "$3" --model bundled "${@:4}"; }

second() { [ -z "${GEMMA:-}" ] || bench "$out/gemma/$1" "$1" "$2" "$3" --model "$GEMMA" --plain "${@:4}"; }

mkdir -p "$out"
"$python" analysis/ambiguous_words.py --write "$out/ambiguous.jsonl"
"$python" analysis/case_studies.py --write "$data" "$out"
three=alpaca,tldr_news,counsel_chat
table1="random;last-attention;attention;grad-x-input;attention-gradient;ablation;context-cite;interactions;jopa;joint"

for n in 3 10 20 40 60; do
  first table1 "$n" "$three" --methods "$table1"
  first ambiguous "$((2 * n))" ambiguous
  [ "$n" -gt 20 ] || first domains "$n" code,abstracts,dialogue
  [ "$n" -gt 20 ] || first figure6 "$n" alpaca
  [ "$n" -gt 20 ] || first table5 "$n" alpaca
  [ "$n" -gt 20 ] || first figure5 "$n" alpaca --methods "random;last-attention;ablation;context-cite;jopa;joint"
  [ "$n" -gt 20 ] || first table7 "$n" alpaca
  [ "$n" -gt 20 ] || first hyperparameters "$n" alpaca
  [ "$n" -gt 10 ] || first figure8 "$n" aqua --methods "random;last-attention;ablation;joint"
  [ "$n" -gt 20 ] || first table8 "$n" alpaca
  [ "$n" -gt 20 ] || first figure9 "$n" alpaca
  [ "$n" -gt 20 ] || first table1 "$n" alpaca --methods integrated-gradients
  [ "$n" -gt 20 ] || second table1 "$n" "$three" --methods "$table1"
  [ "$n" -gt 20 ] || second ambiguous "$((2 * n))" ambiguous
  [ "$n" -gt 20 ] || second domains "$n" code,abstracts,dialogue
done
first case-studies 30 jbb-benign
first case-studies 10 aqua-questions --methods "joint;ablation"
# Times are told apart best when nothing else runs.
first table2 3 alpaca
