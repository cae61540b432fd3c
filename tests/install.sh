#!/usr/bin/env bash
# Installs what building and testing Headrace needs on Debian 12: nothing that is there already.
set -euo pipefail

packages=(
  build-essential cmake ninja-build ccache pkg-config
  liburing-dev libboost1.81-dev libboost-json1.81-dev libfmt-dev libcli11-dev libyaml-cpp-dev
  libpcre2-dev libutf8proc-dev libxxhash-dev zlib1g-dev
  libgtest-dev libgmock-dev libdnnl-dev
  clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev
  git python3 e2fsprogs chromium
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

echo "installing: ${missing[*]}" >&2
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
"${as_root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
