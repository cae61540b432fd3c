#!/usr/bin/env bash
# The test command: installs what is missing, builds, runs every test, and closes with
# "N passed, N failed, N skipped". Under 25 minutes on 2 cores.
#
#   bash tests/run.sh            everything
#   bash tests/run.sh --quick    the release build's tests alone
set -uo pipefail
cd "$(dirname "$0")/.."
quick=${1:-}
jobs=$(nproc)
passed=0
failed=0
skipped=0
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

say() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }

bash tests/install.sh || { echo "tests/install.sh failed"; exit 1; }

build() {  # preset targets…
  cmake --preset "$1" >"$results/$1.configure" 2>&1 || { cat "$results/$1.configure"; return 1; }
  cmake --build --preset "$1" -j "$jobs" --target "${@:2}" >"$results/$1.build" 2>&1 ||
    { tail -n 60 "$results/$1.build"; return 1; }
}

# Adds up what GoogleTest programs report; a program that dies counts as one failure.
count() {  # name exit-code log
  local p f s
  p=$(grep -Eo '^\[  PASSED  \] [0-9]+' "$3" | grep -Eo '[0-9]+$' | tail -n 1)
  f=$(grep -Eo '^ *[0-9]+ FAILED TESTS?' "$3" | grep -Eo '[0-9]+' | tail -n 1)
  s=$(grep -Eo '^\[  SKIPPED \] [0-9]+' "$3" | grep -Eo '[0-9]+$' | tail -n 1)
  passed=$((passed + ${p:-0}))
  skipped=$((skipped + ${s:-0}))
  if [ "$2" -ne 0 ]; then
    failed=$((failed + ${f:-1}))
    printf 'FAILED %s (exit %s)\n' "$1" "$2"
    grep -E '^\[  FAILED  \]|Failure|SCOPED|seed|Error|ERROR' "$3" | head -n 40
    tail -n 25 "$3"
  elif [ -z "${p:-}" ]; then
    passed=$((passed + 1))  # a script or a program without GoogleTest
  fi
}

run_one() {  # name command…
  local name=$1 log start=$SECONDS
  shift
  log="$results/$(echo "$name" | tr '/ ' '__').log"
  timeout 900 "$@" >"$log" 2>&1 </dev/null
  count "$name" $? "$log"
  grep -E '^\[  SKIPPED \] .*[a-z]' "$log" | sort -u | head -n 5
  printf '  %-44s %4ss\n' "$name" $((SECONDS - start))
}

run_tests() {  # preset regex
  local dir="build/$1" program
  for program in $(find "$dir/tests" -type f -executable -name '*_test' | sort); do
    [[ "$(basename "$program")" =~ $2 ]] || continue
    run_one "$1/$(basename "$program")" "$program"
  done
}

say "layout of the house"
run_one tidy python3 tests/tidy/tidy.py

say "release build"
if build release all; then
  say "release tests"
  run_tests release .
  for script in tests/engine/*.sh; do run_one "$(basename "$script" .sh)" bash "$script" build/release/headrace; done
else
  echo "FAILED release build"
  failed=$((failed + 1))
fi

if [ -z "$quick" ]; then
  say "address and undefined-behaviour checks"
  if build asan sanitized; then run_tests asan .; else failed=$((failed + 1)); fi
  say "thread checks"
  if build tsan threaded; then run_tests tsan .; else failed=$((failed + 1)); fi
fi

printf '\n%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
