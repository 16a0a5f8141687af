#!/usr/bin/env bash
# gpu-bench.sh: for a machine with a real GPU. Checks lowbit on it, then times it, and keeps the results.
#
#   ./scripts/gpu-bench.sh            the differential and engine tests on the GPU, then benches/engine.rs (about ten minutes)
#   ./scripts/gpu-bench.sh --quick    criterion's quick mode
#   ./scripts/gpu-bench.sh --any      takes a software adapter where there is no GPU: to try the script
#
# Writes benches/results/ADAPTER-DATE.txt (machine, commit, what the tests and benches printed) and ADAPTER-DATE.json (the table of
# the benches). ADAPTER is the first that `lowbit devices` lists and that is no software; the CPU engine and all other adapters
# are timed along, for comparison. WGPU_BACKEND limits which there are.
#
# Needs Rust, a C linker and the GPU's driver; installs nothing. A failed test ends it before anything is timed: wrong results
# have no speed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

bench_args=()
any=no
for arg in "$@"; do
  case $arg in
    --quick) bench_args+=(--quick) ;;
    --any) any=yes ;;
    -h | --help)
      sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *)
      warn "unknown argument '$arg' (there are --quick and --any)"
      exit 2
      ;;
  esac
done

find_cargo
# Which adapters a continuous-integration machine must have is not the question here.
unset CI

# Builds the program along, with the same dependencies as the tests.
cargo test --release --no-run --test differential --test engine
target=${CARGO_TARGET_DIR:-target}
devices=$("$target"/release/lowbit devices --json)
name_where() { awk -F'"' -v software="$1" '/"name":/ { name = $4 } $0 ~ "\"software\": " software { print name; exit }' <<<"$devices"; }
adapter=$(name_where false)
if [ -z "$adapter" ]; then
  [ "$any" = yes ] || die "no real GPU here (--any takes a software adapter); lowbit devices says what there is"
  adapter=$(name_where true)
  [ -n "$adapter" ] || die "no adapter at all"
  tests=(cpu)
else
  tests=(real_gpus cpu)
fi

slug=$(tr -cs 'A-Za-z0-9' '-' <<<"${adapter,,}" | sed 's/^-*//; s/-*$//')
date=$(date -u +%Y-%m-%d)
mkdir -p benches/results
out=benches/results/$slug-$date
part=$(mktemp)
trap 'rm -f "$part"' EXIT

describe() {
  say "adapter  $adapter"
  say "date     $(date -u '+%Y-%m-%d %H:%M UTC')"
  say "commit   $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet HEAD 2>/dev/null || echo ' with changes')"
  say "system   $(uname -srm)"
  say "cpu      $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | sed -n 1p), $(getconf _NPROCESSORS_ONLN) threads"
  say "rustc    $(rustc --version)"
  if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader || true; fi
  say
}

run() {
  describe
  say "== the differential suite"
  cargo test --release --test differential -- --nocapture --test-threads=1 --exact "${tests[@]}"
  say
  say "== the engine's promises"
  cargo test --release --test engine
  say
  say "== benches"
  cargo bench --bench engine -- "${bench_args[@]}"
}

run 2>&1 | tee "$part"
cp "$part" "$out.txt"
cp "$target"/tmp/engine-bench.json "$out.json"
say
say "kept: $out.txt and $out.json"
