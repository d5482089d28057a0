#!/usr/bin/env bash
# Every experiment on the bundled model, in the sizes of docs/results.md:   experiments/bundled.sh DATA [OUT]
# DATA holds alpaca.jsonl, tldr_news.jsonl, counsel_chat.jsonl and aqua.jsonl (docs/datasets.md has their form).
# Stop it and start it again as you like; larger limits go on from these. It takes hours on two cores.
set -euo pipefail
data=$1
out=${2:-runs}
jopa=${JOPA:-.venv/bin/jopa}

run() { # EXPERIMENT LIMIT SETS [OPTIONS]
  local files=()
  for name in ${3//,/ }; do files+=(--data "$name=$data/$name.jsonl"); done
  # SmolLM2 answers many prompts with nothing at all when the paper's prefilled sentence comes first, so it is left out.
  "$jopa" bench "experiments/$1.toml" --out "$out/$1" --limit "$2" --sets "$3" "${files[@]}" \
    --model bundled --prefill "" --max-new-tokens 50 --ray --workers 2 "${@:4}"
  "$jopa" report "$out/$1"
}

most="random;last-attention;attention;grad-x-input;ablation;context-cite;jopa;jopa"
run table1 25 alpaca --methods "$most;integrated-gradients"
# On longer prompts without the dearest methods, and with the paper's search as far as its own figures go.
run table1 25 tldr_news,counsel_chat --methods "${most/context-cite;jopa/jopa, N = 50}"
run table5 5 alpaca
run figure6 5 alpaca
run figure5 4 alpaca --methods "$most"
run table8 3 alpaca
run figure9 3 alpaca
run table7 3 alpaca --methods "jopa"
run figure8 1 aqua --methods "${most/jopa;/}"
# Times are told apart best when nothing else runs.
run table2 1 alpaca --workers 1 --worker-cpus 2
