#!/usr/bin/env bash
# test-web.sh: the package for browsers, built and driven in Chromium. Part of ./scripts/test.sh.
#
#   build-web.sh -> pkg/ -> tests/web/test.mjs, then pages.mjs (examples/web) -> Chromium without a window, with SwiftShader and without WebGPU
#                        -> tests/web/dawn.mjs -> Dawn in Node with lavapipe, which has the tiers that SwiftShader has not
#
#   ./scripts/test-web.sh [NAME]    NAME: only suites and pages whose name contains it; `dawn` is one
#   LOWBIT_WEB_DEV=1                tests the package of build-web.sh --dev
#   LOWBIT_FULL=1                   every scheme on every kernel, instead of a sample
#   LOWBIT_TEST_MODEL               as in test.sh: a model of sentences beside its config and tokenizer, which `lowbit` packs for the pages
#
# Needs node, npm and Chromium (scripts/setup.sh), and once the network. Where these are missing it says so, and fails under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

why=$(why_no_node)
[ -z "$why" ] || leave_out "the browser" "$why"
[ -n "$(chromium_program)" ] || leave_out "the browser" "no Chromium"
fetch_node_packages tests/web target/web-test || leave_out "the browser" "npm could not fetch playwright-core"
./scripts/build-web.sh ${LOWBIT_WEB_DEV:+--dev}
# Node looks for packages beside the script.
rm -rf target/web-test/page
cp -r tests/web/page tests/web/*.mjs target/web-test
LOWBIT_CHROMIUM=$(chromium_program)
LOWBIT_GOLDEN=$PWD/tests/data
export LOWBIT_CHROMIUM LOWBIT_GOLDEN

# The model of sentences as the pages get it, in LOWBIT_WEB_MODELS; and what the search page should find, by the command line.
pack_models() {
  local model=${LOWBIT_TEST_MODEL:-target/test-data/model.safetensors} packed
  if ! [ -f "$model" ]; then
    if in_ci; then die "LOWBIT_TEST_MODEL is not set"; fi
    warn "models of texts were left out: LOWBIT_TEST_MODEL is not set (scripts/test.sh fetches a model)"
    return 0
  fi
  LOWBIT_WEB_MODELS=$PWD/target/web-test/models
  export LOWBIT_WEB_MODELS
  mkdir -p "$LOWBIT_WEB_MODELS"
  for packed in f32.safetensors:f32 int4.safetensors:int4-g32 q8_0.gguf:q8_0; do
    target/release/lowbit quantize "$(dirname "$model")" -o "$LOWBIT_WEB_MODELS/${packed%:*}" --scheme "${packed#*:}" --device cpu --force >/dev/null
  done
  cat tests/web/queries.txt examples/texts/sentences.txt >"$LOWBIT_WEB_MODELS/wanted.txt"
  target/release/lowbit embed "$LOWBIT_WEB_MODELS/int4.safetensors" --device cpu --text "$LOWBIT_WEB_MODELS/wanted.txt" \
    -o "$LOWBIT_WEB_MODELS/wanted.safetensors" --force
}
cargo build --quiet --release --locked --bin lowbit
target/release/lowbit quantize data/digits/classifier.safetensors -o target/web-test/digits-int3.safetensors --scheme int3-row --method mse --device cpu --force >/dev/null
pack_models
lavapipe=$(lavapipe_manifest | sed -n 1p)
[ -n "$lavapipe" ] || leave_out "Dawn in Node" "no lavapipe"
failed=0
none=0
for tests in "test.mjs pkg" "pages.mjs ." "dawn.mjs pkg $lavapipe"; do
  status=0
  # shellcheck disable=SC2086 # a script, its folder, and what else it takes
  node target/web-test/$tests "$@" || status=$?
  case $status in
    0) ;;
    2) none=$((none + 1)) ;;
    *) failed=1 ;;
  esac
done
[ "$none" -lt 3 ] || die "no test of this name"
exit "$failed"
