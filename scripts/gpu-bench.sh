#!/usr/bin/env bash
# gpu-bench.sh: for a machine with a real GPU. Checks lowbit on it, times it, and keeps the results; under ten minutes.
#
#   ./scripts/gpu-bench.sh                   self-test of the schemes that are timed, lowbit bench (f32; sums in f16, for matrix units; int8
#                                            activations), lowbit tune, then the whole self-test
#   ./scripts/gpu-bench.sh --quick           fewer cases, shorter measurements, no whole self-test
#   ./scripts/gpu-bench.sh --any             takes a software adapter where there is no GPU: to try the script
#   ./scripts/gpu-bench.sh --binary FILE     a lowbit built elsewhere, on a machine without Rust (build it with LOWBIT_COMMIT set to the
#                                            commit: its results carry that)
#   ./scripts/gpu-bench.sh --out DIR         instead of benches/results/ADAPTER-DATE
#
# Writes into the folder: machine.txt, selftest.txt; for each bench its table, .json and roofline .svg (bench, bench-f16, bench-int8); tune.txt.
# Nothing is remembered by the tuner. ADAPTER is the first that
# `lowbit devices` lists and that is no software; WGPU_BACKEND limits which there are.
#
# Needs the GPU's driver, and without --binary Rust and a C linker; installs nothing. A failed test ends it before anything is timed:
# wrong results have no speed. The whole self-test, last, has WHOLE_SECONDS; if they are not enough, that is said and counts as a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

# The schemes that `lowbit bench` times on a GPU.
SCHEMES=(f16 q8_0 q4_0 q4_k nf4-g64 int4-g128 int8-row)
WHOLE_SECONDS=300

bench_args=()
any=no
quick=no
binary=
out=
while [ $# -gt 0 ]; do
  case $1 in
    --quick)
      quick=yes
      bench_args+=(--quick)
      ;;
    --any) any=yes ;;
    --binary | --out)
      [ $# -ge 2 ] || die "$1 needs a value"
      if [ "$1" = --binary ]; then binary=$2; else out=$2; fi
      shift
      ;;
    -h | --help)
      sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *)
      warn "unknown argument '$1' (there are --quick, --any, --binary and --out)"
      exit 2
      ;;
  esac
  shift
done

if [ -z "$binary" ]; then
  find_cargo
  cargo build --release
  binary=${CARGO_TARGET_DIR:-target}/release/lowbit
fi
[ -x "$binary" ] || die "$binary cannot be run"

devices=$("$binary" devices --json)
# Name and backend of the first adapter that is software, or is not.
first_where() {
  awk -F'"' -v software="$1" '/"name":/ { name = $4 } /"backend":/ { backend = tolower($4) }
    $0 ~ "\"software\": " software { print backend ":" name; exit }' <<<"$devices"
}
adapter=$(first_where false)
if [ -z "$adapter" ]; then
  [ "$any" = yes ] || die "no real GPU here (--any takes a software adapter); lowbit devices says what there is"
  adapter=$(first_where true)
  [ -n "$adapter" ] || die "no adapter at all"
fi

slug=$(tr -cs 'A-Za-z0-9' '-' <<<"${adapter,,}" | sed 's/^-*//; s/-*$//')
out=${out:-benches/results/$slug-$(date -u +%Y-%m-%d)}
mkdir -p "$out"

describe() {
  say "adapter  $adapter"
  say "date     $(date -u '+%Y-%m-%d %H:%M UTC')"
  say "lowbit   $("$binary" --version)"
  say "system   $(uname -srm)"
  say "cpu      $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | sed -n 1p), $(getconf _NPROCESSORS_ONLN) threads"
  if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader || true; fi
  say
  "$binary" devices
}

describe 2>&1 | tee "$out/machine.txt"
say
say "== self-test of what is timed"
"$binary" selftest --device "$adapter" "${SCHEMES[@]/#/--scheme=}" 2>&1 | tee "$out/selftest.txt"
say
# lowbit bench with the arguments from the second on, into files that are named as the first says.
bench() {
  local name=$1
  shift
  say "== $name"
  "$binary" bench --device "$adapter" "${bench_args[@]}" "$@" --json "$out/$name.json" --svg "$out/$name.svg" --force 2>&1 |
    tee "$out/$name.txt"
}

bench bench
bench bench-f16 matmul --activation f16 --accumulate f16 --scheme f16 --scheme q8_0 --scheme q4_0 --scheme q4_k
bench bench-rows matvec --scheme q4_0 --scheme q8_0 --shape 1x11008x4096 --shape 4x11008x4096 --shape 8x11008x4096 --shape 16x11008x4096
bench bench-int8 matvec matmul --activation int8 --scheme int8-row --scheme q8_0 --scheme q4_0
say
say "== tune"
"$binary" tune --device "$adapter" --dry-run --shape 1x4096x4096 --shape 16x4096x4096 --shape 512x4096x4096 --shape 1x512x16384 --scheme q4_0 --scheme q8_0 2>&1 |
  tee "$out/tune.txt"
if [ "$quick" = no ]; then
  say
  say "== the whole self-test"
  timeout "$WHOLE_SECONDS" "$binary" selftest --device "$adapter" 2>&1 | tee "$out/selftest.txt" ||
    die "the whole self-test failed, or took more than $WHOLE_SECONDS s: see $out/selftest.txt"
  say
  say "== the portable tier"
  timeout "$WHOLE_SECONDS" "$binary" selftest --device "$adapter" --portable 2>&1 | tee "$out/selftest-portable.txt" ||
    die "the portable tier failed, or took more than $WHOLE_SECONDS s: see $out/selftest-portable.txt"
fi
say
say "kept: $out"
