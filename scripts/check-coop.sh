#!/usr/bin/env bash
# check-coop.sh: the products on cooperative matrices, which no adapter of Debian stable has, on lavapipe 26 against the reference.
#
#   Debian testing: Mesa's Vulkan drivers -> unpacked in target/lavapipe, beside the system -> lowbit selftest --kernel coop --kernel dot_coop
#
# By default a dozen schemes, with LOWBIT_FULL=1 every one. What it needs: scripts/beside.sh. Where that cannot be had it says so, and fails under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh
# shellcheck source=scripts/beside.sh
. scripts/beside.sh

SUITE=testing
PACKAGES=(mesa-vulkan-drivers libvulkan1)
SCHEMES=(q4_0 q8_0 q4_k q6_k iq4_nl mxfp4 nvfp4 nf4-g64 int4-g128 int3-g64-asym int8-row int8-tensor e4m3-row codebook4-g64 int4-g128-perm bf16)

find_cargo
why=$(why_not_beside)
[ -z "$why" ] || leave_out "cooperative matrices" "$why"
dir=$PWD/target/lavapipe
mkdir -p "$dir"
lib=$dir/root/usr/lib/x86_64-linux-gnu
if ! [ -e "$dir/lvp.json" ]; then
  unpack_beside "$dir/root" "$SUITE" "${PACKAGES[@]}" || leave_out "cooperative matrices" "lavapipe could not be had from $SUITE"
  printf '{"file_format_version":"1.0.1","ICD":{"api_version":"1.4.0","library_path":"%s/libvulkan_lvp.so"}}\n' "$lib" >"$dir/lvp.json"
fi
cargo build --release --quiet
args=(selftest --device vulkan:llvmpipe --kernel coop --kernel dot_coop)
if [ "${LOWBIT_FULL:-}" != 1 ]; then
  for scheme in "${SCHEMES[@]}"; do args+=(--scheme "$scheme"); done
fi
# shellcheck disable=SC2086 # the loader and its arguments
eval "VK_DRIVER_FILES=$dir/lvp.json $(loader_beside "$dir/root") ${CARGO_TARGET_DIR:-target}/release/lowbit ${args[*]}"
