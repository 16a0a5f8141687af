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
# shellcheck source=scripts/beside.sh
. scripts/beside.sh

SUITE=unstable
PACKAGES=(llama.cpp libggml0)

# Writes the program $2, which starts one of llama.cpp's with the C library and the libraries under the folder $1. It finds the code for this
# processor where it is started.
write_run() {
  local lib=$1/usr/lib/x86_64-linux-gnu
  cat >"$2" <<RUN
#!/bin/sh
program=$1/usr/bin/\$1
shift
cd '$lib/ggml/backends0' || exit
exec $(loader_beside "$1" ggml/backends0 llama) "\$program" "\$@"
RUN
  chmod +x "$2"
}

find_cargo
why=$(why_not_beside)
[ -z "$why" ] || leave_out "llama.cpp" "$why"
dir=$PWD/target/llama
mkdir -p "$dir"
if ! [ -x "$dir/run" ]; then
  unpack_beside "$dir/root" "$SUITE" "${PACKAGES[@]}" || leave_out "llama.cpp" "its packages could not be had from $SUITE"
  write_run "$dir/root" "$dir/run"
fi
say "llama.cpp: $("$dir/run" llama-completion --version 2>&1 | sed -n 's/^version: //p')"
LOWBIT_TEST_LLAMA=$dir/run cargo test --release --test hf llama_cpp:: -- --show-output
