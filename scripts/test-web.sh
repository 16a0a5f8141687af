#!/usr/bin/env bash
# test-web.sh: the package for browsers, built and driven in Chromium. Part of ./scripts/test.sh.
#
#   build-web.sh -> pkg/ -> tests/web/test.mjs, then pages.mjs (examples/web) -> Chromium without a window, with SwiftShader and without WebGPU
#
#   ./scripts/test-web.sh [NAME]    NAME: only suites and pages whose name contains it
#   LOWBIT_WEB_DEV=1                tests the package of build-web.sh --dev
#   LOWBIT_FULL=1                   every scheme on every kernel, instead of a sample
#
# Needs node, npm and Chromium (scripts/setup.sh), and once the network. Where these are missing it says so, and fails under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

leave_out() {
  warn "the browser was left out: $*"
  if in_ci; then exit 1; fi
  exit 0
}

for program in node npm; do
  command -v "$program" >/dev/null || leave_out "no $program (Node 18 or newer, with npm)"
done
[ -n "$(chromium_program)" ] || leave_out "no Chromium"
fetch_node_packages tests/web target/web-test || leave_out "npm could not fetch playwright-core"
./scripts/build-web.sh ${LOWBIT_WEB_DEV:+--dev}
# Node looks for packages beside the script.
rm -rf target/web-test/page
cp -r tests/web/page tests/web/*.mjs target/web-test
LOWBIT_CHROMIUM=$(chromium_program)
export LOWBIT_CHROMIUM
failed=0
none=0
for tests in "test.mjs pkg" "pages.mjs ."; do
  status=0
  # shellcheck disable=SC2086 # a script and its folder
  node target/web-test/$tests "$@" || status=$?
  case $status in
    0) ;;
    2) none=$((none + 1)) ;;
    *) failed=1 ;;
  esac
done
[ "$none" -lt 2 ] || die "no test of this name"
exit "$failed"
