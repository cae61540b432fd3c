#!/usr/bin/env bash
# Installs a build into a temporary folder, builds examples/generate.cpp against it as somebody
# else's project would, and compares what it generates with what the program generates.
#
#   bash tests/install_test.sh [BUILD]      default: build/release
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$(realpath "${1:-build/release}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" >"$work/install.log" ||
  { cat "$work/install.log"; exit 1; }
headrace=$work/prefix/bin/headrace
"$headrace" version >/dev/null

# What is installed must not lean on where it was built.
if grep -rlF -e "$root" -e "$build" "$work/prefix/include" "$work/prefix"/lib*/ \
    --include='*.h' --include='*.cmake'; then
  echo "the files above name the source or build folder"
  exit 1
fi

mkdir "$work/user"
cp examples/generate.cpp "$work/user/"
cat >"$work/user/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES CXX)
find_package(headrace 0.1 REQUIRED)
add_executable(user generate.cpp)
target_link_libraries(user PRIVATE headrace::engine)
END
cmake -S "$work/user" -B "$work/user/build" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$work/prefix" >"$work/configure.log" 2>&1 || { tail -n 40 "$work/configure.log"; exit 1; }
cmake --build "$work/user/build" >"$work/build.log" 2>&1 || { grep -m 20 -E "error|undefined" "$work/build.log"; exit 1; }

export XDG_CACHE_HOME=$work/cache
"$headrace" --quiet synth "$work/model" --family llama --size 8MiB --dtype float32
"$headrace" --quiet --json generate "$work/model" --ids 1,2,3 -n 8 --ignore-eos --temperature 0 \
  --memory 48MiB --store "$work/stores" >"$work/program.json"
expected=$(grep -Eo '"token_ids":\[[0-9,]*\]' "$work/program.json" | grep -Eo '[0-9,]+\]' | tr -d ']')
# Another budget: the same tokens.
actual=$("$work/user/build/user" "$work/model" 64MiB "$work/stores" 8 1 2 3 | xargs | tr ' ' ',')
echo "program: $expected"
echo "library: $actual"
[ -n "$expected" ] && [ "$expected" = "$actual" ]
