#!/usr/bin/env bash
# check-llama.sh: llama.cpp itself beside lowbit: what it quantizes and says of models made here. Part of LOWBIT_FULL=1 ./scripts/test.sh.
#
#   Debian unstable: llama.cpp and all it depends on -> unpacked in target/llama, beside the system -> cargo test --test hf llama_cpp::
#
# Needs Debian's apt and its archive keyring, 64-bit x86, and once the network (the mirror that this machine's apt uses); no root. Where these
# are missing it says so, and fails under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

SUITE=unstable
PACKAGES=(llama.cpp libggml0)
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

leave_out() {
  warn "llama.cpp was left out: $*"
  if in_ci; then exit 1; fi
  exit 0
}

# Unpacks the packages and what they depend on in the folder $1, as if nothing were installed.
unpack() {
  local root=$1 apt=$1.apt mirror deb
  mirror=$(apt_indexes | awk -F'|' '$3 == "main" && $2 !~ /security/ && !found { print $1; found = 1 }')
  [ -n "$mirror" ] || return 1
  rm -rf "$root" "$apt"
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc/parts}
  : >"$apt/status"
  echo "deb [signed-by=$KEYRING] $mirror $SUITE main" >"$apt/etc/sources.list"
  beside() {
    apt-get -qq -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
      -o Dir::Cache="$apt/cache" -o Dir::Etc::sourcelist="$apt/etc/sources.list" -o Dir::Etc::sourceparts="$apt/etc/parts" \
      -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@"
  }
  beside update && beside install -y --download-only "${PACKAGES[@]}" >/dev/null || return 1
  for deb in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$root" || return 1; done
  rm -r "$apt"
}

# Writes the program $2, which starts one of llama.cpp's with the C library and the libraries under the folder $1. It finds the code for this
# processor where it is started.
write_run() {
  local lib=$1/usr/lib/x86_64-linux-gnu
  cat >"$2" <<RUN
#!/bin/sh
program=$1/usr/bin/\$1
shift
cd '$lib/ggml/backends0' || exit
exec '$1/usr/lib64/ld-linux-x86-64.so.2' --library-path '$lib:$lib/ggml/backends0:$lib/llama' "\$program" "\$@"
RUN
  chmod +x "$2"
}

find_cargo
command -v apt-get >/dev/null && [ "$(os ID)" = debian ] && [ -e "$KEYRING" ] || leave_out "no Debian"
[ "$(uname -m)" = x86_64 ] || leave_out "not x86_64"
dir=$PWD/target/llama
mkdir -p "$dir"
if ! [ -x "$dir/run" ]; then
  unpack "$dir/root" || leave_out "its packages could not be had from $SUITE"
  write_run "$dir/root" "$dir/run"
fi
say "llama.cpp: $("$dir/run" llama-completion --version 2>&1 | sed -n 's/^version: //p')"
LOWBIT_TEST_LLAMA=$dir/run cargo test --release --test hf llama_cpp:: -- --show-output
