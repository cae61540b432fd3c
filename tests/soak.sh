#!/usr/bin/env bash
# The long counts, for a night: every property and fault test with its random cases multiplied, and
# libFuzzer with coverage and the address sanitizer on every fuzz target. Writes what was run, with
# seeds, to docs/results/soak-DATE.md; exits 1 if anything was found.
#
#   bash tests/soak.sh [MINUTES [COUNT [REGEX]]]
#     MINUTES   of libFuzzer for each target                          (default 10)
#     COUNT     HEADRACE_TEST_COUNT: times the usual number of cases  (default 50)
#     REGEX     only the programs whose names match                   (default: all)
# HEADRACE_TEST_SEED repeats a run; HEADRACE_SOAK_OUT names another report.
set -uo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-10}
count=${2:-50}
only=${3:-.}
[[ "$minutes" =~ ^[1-9][0-9]*$ && "$count" =~ ^[1-9][0-9]*$ ]] ||
  { echo "tests/soak.sh: MINUTES and COUNT are whole numbers from 1"; exit 2; }
plain=${HEADRACE_SOAK_BUILD:-build/release}
[ -d "$plain/tests" ] ||
  { echo "$plain/tests: not built; cmake --preset release && cmake --build --preset release"; exit 2; }
seed=${HEADRACE_TEST_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
report=${HEADRACE_SOAK_OUT:-docs/results/soak-$(date +%F).md}
clang=${HEADRACE_SOAK_CLANG:-build/soak}
jobs=${HEADRACE_JOBS:-$(nproc)}
findings=0
logs=$clang/logs
mkdir -p "$logs" "$clang/findings" "$(dirname "$report")"

# Names of test programs whose random cases HEADRACE_TEST_COUNT multiplies.
property_tests() {
  find "$plain/tests" -type f -executable -name '*_test' -printf '%f %p\n' 2>/dev/null | sort |
    while read -r name path; do
      [[ "$name" =~ $only ]] && grep -q HEADRACE_TEST_COUNT "$path" && echo "$name $path"
    done
}

fuzz_targets() {
  sed -n 's/^headrace_fuzz(\(fuzz_[a-z]*\).*/\1/p' tests/fuzz/CMakeLists.txt | grep -E "$only"
}

note() { printf '%s\n' "$*" >>"$report.new"; }

finding() {  # name log
  findings=$((findings + 1))
  note ""
  note "\`$1\`:"
  note '```'
  grep -aE 'ERROR|SUMMARY|Assert|Failure|FAILED|fuzz:|Error' "$2" | sed "s|$PWD/||g" | cut -c 1-300 | head -n 20 >>"$report.new"
  note '```'
}

run_property_tests() {
  local name path start code tests
  note "## Property and fault tests: HEADRACE_TEST_COUNT=$count HEADRACE_TEST_SEED=$seed"
  note ""
  note "| program | tests passed | seconds | result |"
  note "|---|---|---|---|"
  while read -r name path; do
    start=$SECONDS
    HEADRACE_TEST_COUNT=$count HEADRACE_TEST_SEED=$seed timeout 14400 "$path" \
      >"$logs/$name.log" 2>&1 </dev/null
    code=$?
    tests=$(grep -Eo '^\[  PASSED  \] [0-9]+' "$logs/$name.log" | grep -Eo '[0-9]+$')
    note "| $name | ${tests:-0} | $((SECONDS - start)) | $([ $code -eq 0 ] && echo ok || echo "exit $code") |"
    [ $code -eq 0 ] || failed+=("$name")
  done < <(property_tests)
}

run_libfuzzer() {
  local name log code units cover new result
  cmake -S . -B "$clang" -G Ninja -DCMAKE_C_COMPILER=clang-14 -DCMAKE_CXX_COMPILER=clang++-14 \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DHEADRACE_DEBUG_ASSERTS=ON \
    -DHEADRACE_SANITIZE=fuzzer-no-link,address >"$logs/configure.log" 2>&1 ||
    { finding "clang configure" "$logs/configure.log"; return; }
  note ""
  note "## libFuzzer with the address sanitizer: $minutes min a target, seed $((seed % 2147483647 + 1))"
  note ""
  note "| target | inputs run | edges covered | inputs kept | result |"
  note "|---|---|---|---|---|"
  for name in $(fuzz_targets); do
    if ! cmake --build "$clang" -j "$jobs" --target "$name" "${name}_libfuzzer" \
        >"$logs/$name.build.log" 2>&1; then
      note "| $name | | | | does not build |"
      failed+=("$name.build")
      continue
    fi
    log=$logs/$name.log
    "$clang/tests/fuzz/$name" --write-corpus "$clang/corpus/$name"
    # The corpus of earlier nights is kept, so that each begins where the last one ended.
    "$clang/tests/fuzz/${name}_libfuzzer" -max_total_time=$((minutes * 60)) \
      -seed=$((seed % 2147483647 + 1)) -max_len=65536 -timeout=30 -rss_limit_mb=4096 \
      -print_final_stats=1 -artifact_prefix="$clang/findings/$name-" "$clang/corpus/$name" \
      >"$log" 2>&1
    code=$?
    units=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    new=$(sed -n 's/^stat::new_units_added: *//p' "$log")
    cover=$(grep -Eo 'cov: [0-9]+' "$log" | tail -n 1 | grep -Eo '[0-9]+')
    result=ok
    if [ "$name" = fuzz_canary ]; then  # its fault is planted: a fuzzer that misses it is blind
      [ $code -ne 0 ] && result="planted fault found" || { result="planted fault MISSED"; code=1; }
      [ "$result" = "planted fault found" ] && code=0
    elif [ $code -ne 0 ]; then
      result="exit $code"
    fi
    [ $code -eq 0 ] || failed+=("$name")
    note "| $name | ${units:-?} | ${cover:-?} | ${new:-?} | $result |"
  done
}

: >"$report.new"
note "# Soak of $(date +%F)"
note ""
note "Commit $(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo ' with changes'); $(nproc)" \
  "processors; $(g++ --version | head -n 1); $(clang++-14 --version | head -n 1)."
note "Command: \`bash tests/soak.sh $minutes $count '$only'\`, seed $seed."
note ""
failed=()
run_property_tests
run_libfuzzer
note ""
note "## Findings"
[ "${#failed[@]}" -eq 0 ] && { note ""; note "None."; }
for name in "${failed[@]}"; do finding "$name" "$logs/$name.log"; done
mv "$report.new" "$report"
echo "$report: $findings findings"
[ "$findings" -eq 0 ]
