#!/usr/bin/env bash
# Every experiment on the bundled model, in the sizes of docs/results.md:   experiments/bundled.sh DATA [OUT]
# DATA holds alpaca.jsonl, tldr_news.jsonl, counsel_chat.jsonl and aqua.jsonl (docs/datasets.md has their form).
# Stop it and start it again as you like. It takes hours on two cores.
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

run table1 25 alpaca,tldr_news,counsel_chat
run table5 10 alpaca
run figure6 10 alpaca
run table7 10 alpaca,tldr_news,counsel_chat
run table8 10 alpaca
run figure5 10 alpaca
run figure8 8 aqua
run figure9 10 alpaca
# Times are told apart best when nothing else runs.
run table2 4 alpaca --workers 1 --worker-cpus 2
