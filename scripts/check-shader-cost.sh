#!/usr/bin/env bash
# check-shader-cost.sh: what the kernels cost on AMD GPUs, by the compiler of Mesa's RADV driver, beside the committed table. Needs no card.
#
#   lowbit shaders --dump target/shader-cost/wgsl -> tools/shader-cost -> tools/shader-cost/costs.tsv
#
#   ./scripts/check-shader-cost.sh            fails on a spill, on lost wide loads, dot or matrix instructions, and on an inverse throughput more
#                                             than a tenth above the table's (under another Mesa than the table's that is only told)
#   ./scripts/check-shader-cost.sh --write    writes the table again
#
# The tiers are those of AMD under Mesa (f16, whose subgroup size varies) and of GPUs with one subgroup size of 32, both without and with cooperative
# matrices. Where there is no RADV it says so,
# and fails under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

SCHEMES=(q4_0 q8_0 q4_k q6_k iq4_nl mxfp4 nf4-g64 int4-g128 int4-g128-asym int8-row e4m3-row f16)
TIERS=(f16 f16+coop16 f16+subgroups32 f16+subgroups32+coop16)
table=tools/shader-cost/costs.tsv

case "${1:---check}" in
  --check | --write) mode=${1:---check} ;;
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) die "unknown argument $1: --check or --write" ;;
esac

find_cargo
if ! driver_manifests | grep -c '/radeon_icd[^/]*\.json$' >/dev/null; then
  warn "shader costs were left out: no RADV (mesa-vulkan-drivers)"
  if in_ci; then exit 1; fi
  exit 0
fi
dir=target/shader-cost
args=()
for scheme in "${SCHEMES[@]}"; do args+=(--scheme "$scheme"); done
for tier in "${TIERS[@]}"; do args+=(--tier "$tier"); done
rm -rf "$dir/wgsl"
cargo run --release --quiet -- shaders --dump "$dir/wgsl" "${args[@]}"
cargo run --release --quiet --locked --manifest-path tools/shader-cost/Cargo.toml --target-dir "$dir" -- "$mode" "$table" "$dir/wgsl"
