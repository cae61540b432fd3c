#!/usr/bin/env bash
# From nothing to text: installs what is missing, builds, makes a model at least four times larger than the
# memory budget, generates from it within that budget and prints the swap report. Under 10 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${HEADRACE_QUICKSTART_DIR:-$PWD/build/quickstart}

bash tests/install.sh
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" --target headrace
headrace=$PWD/build/release/headrace

if [ ! -f "$work/model/config.json" ]; then
  rm -rf "$work/model"
  mkdir -p "$work"
  "$headrace" synth "$work/model" --family llama --size 2200MiB --dtype bfloat16
fi

echo
echo "== a model of more than 2 GiB, planned for 512 MiB of memory"
"$headrace" plan "$work/model" --memory 512MiB --prompt-len 16 --gen-len 32 --store "$work/stores"

echo
echo "== 32 tokens within 512 MiB (random weights: the words mean nothing, the bytes do)"
"$headrace" profile -o "$work/trace.json.gz" -- \
  generate "$work/model" -p "The water wheel turns" -n 32 --ignore-eos --memory 512MiB --store "$work/stores"
echo
echo "The process held at most 512 MiB; \`headrace plan\` says why each byte moved. The trace opens in ui.perfetto.dev:"
echo "  $work/trace.json.gz"
