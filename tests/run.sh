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
results=build/test-results
rm -rf "$results"
mkdir -p "$results"

# A compiler cache serves every clone, wherever it lies.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

# A step that is not ctest's: its output and "exit CODE" go to a log that the summary reads.
step() {  # name command…
  local log="$results/$1.log" start=$SECONDS
  "${@:2}" >"$log" 2>&1 </dev/null
  local code=$?
  echo "exit $code" >>"$log"
  printf '  %-28s %s (%s s)\n' "$1" "$([ $code -eq 0 ] && echo ok || echo FAILED)" $((SECONDS - start))
  [ $code -eq 0 ] || tail -n 40 "$log"
  return $code
}

build() {  # preset target
  step "configure-$1" cmake --preset "$1" && step "build-$1" cmake --build --preset "$1" -j "$jobs" --target "$2"
}

tests() {  # preset regex jobs
  ctest --test-dir "build/$1" -R "$2" -j "$3" --output-on-failure --output-junit "$PWD/$results/$1.xml" \
    --test-output-size-passed 10000000 --test-output-size-failed 10000000 2>&1 |
    grep -E 'Test +#|Failure|FAILED|seed|tests passed|Error|ERROR|SUMMARY' | grep -v Passed
}

libfuzzer() {  # driver fuzzer: from the driver's seeds, 8 seconds; tests/soak.sh draws other seeds
  local corpus="$results/corpus-$(basename "$1")"
  "$1" --write-corpus "$corpus" &&
    "$2" -seed=1 -max_total_time=8 -timeout=20 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
      -artifact_prefix="$results/" "$corpus"
}

bash tests/install.sh || { echo "tests/install.sh failed"; exit 1; }

say "the house"
step tidy python3 tests/tidy/tidy.py

say "release"
if build release all; then
  tests release . "$jobs"
  step install bash tests/install_test.sh build/release
  step cli python3 tests/engine/cli_test.py build/release/headrace
  step html python3 tests/engine/html_test.py build/release/headrace
  step bounded python3 tests/engine/bounded_test.py build/release/headrace
fi

if [ -z "$quick" ]; then
  say "address and undefined-behaviour checks: core, swap, engine, every parser"
  build asan sanitized && tests asan '^(core|swap|engine)_.*_test$|^fuzz_' "$jobs"
  say "libFuzzer: every parser, a few seconds each (tests/soak.sh runs them for long)"
  if build fuzz fuzzers; then
    for target in build/fuzz/tests/fuzz/fuzz_*_libfuzzer; do
      name=$(basename "$target" _libfuzzer)
      [ "$name" = fuzz_canary ] || step "lib$name" libfuzzer "${target%_libfuzzer}" "$target"
    done
  fi
  say "thread checks"
  build tsan threaded && tests tsan '^(core_threads|core_trace|swap_io|swap_pager|engine_steady)_test$' 1
fi

say "done"
shopt -s nullglob
python3 tests/support/summary.py "$results"/*.xml "$results"/*.log
