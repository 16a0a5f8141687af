#!/usr/bin/env bash
# peers-web.sh: lowbit beside onnxruntime-web's MatMulNBits (npm, WebGPU) in one page of one Chromium: results compared, then timed in turns.
#
#   build-web.sh -> pkg/, npm: onnxruntime-web -> benches/peers/web/page -> Chromium -> the table
#
#   ./scripts/peers-web.sh [--quick] [--json FILE]
#
# K = N of 2048 and 4096, 4 bits in blocks of 32, M of 1 and 128, f32 activations (accuracy_level 0) and int8 ones (4). Needs node, npm, Chromium, and once
# the network. Takes the package that is in pkg/, and builds it where there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

case "${1:-}" in
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
dir=target/web-peers
[ -n "$(chromium_program)" ] || die "no Chromium"
fetch_node_packages benches/peers/web "$dir" || die "npm could not fetch onnxruntime-web"
[ -e pkg/lowbit.js ] || ./scripts/build-web.sh
rm -rf "$dir/page"
cp -r benches/peers/web/page benches/peers/web/run.mjs tests/web/browser.mjs tests/web/serve.mjs "$dir"
LOWBIT_CHROMIUM=$(chromium_program) node "$dir/run.mjs" pkg "$@"
