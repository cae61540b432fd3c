#!/usr/bin/env bash
# Runs clang-tidy over sources: those that are named, or those that differ from the main branch.
# Several seconds a file, hence not part of tests/run.sh.
#
#   bash tests/tidy/clang_tidy.sh                      what changed
#   bash tests/tidy/clang_tidy.sh core/*.cpp           these
#   bash tests/tidy/clang_tidy.sh --all                every source of the floors
set -euo pipefail
cd "$(dirname "$0")/../.."
database=${HEADRACE_TIDY_BUILD:-build/tidy}

# A compile database is enough: nothing is built. Clang's own flags, or it would stop at GCC's.
cmake -S . -B "$database" -G Ninja -DCMAKE_CXX_COMPILER=clang++-14 -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_EXPORT_COMPILE_COMMANDS=ON >/dev/null

case "${1:-}" in
  --all) mapfile -t files < <(git ls-files '*.cpp' ':!tests/golden') ;;
  "")
    base=$(git merge-base HEAD origin/main 2>/dev/null || git rev-parse 'HEAD~1')
    mapfile -t files < <({ git diff --name-only --diff-filter=d "$base" -- '*.cpp'
                           git ls-files --others --exclude-standard -- '*.cpp'; } | sort -u)
    ;;
  *) files=("$@") ;;
esac
[ "${#files[@]}" -gt 0 ] || { echo "nothing to check"; exit 0; }

printf '%s\n' "${files[@]}" | xargs -P "${HEADRACE_JOBS:-$(nproc)}" -n 1 \
  clang-tidy-14 --quiet -p "$database" --extra-arg=-Wno-unknown-warning-option 2>/dev/null &&
  echo "${#files[@]} files, no findings"
