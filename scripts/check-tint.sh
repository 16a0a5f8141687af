#!/usr/bin/env bash
# check-tint.sh: every generated shader but those with cooperative matrices, which browsers have not, through Tint, the WGSL compiler of Chromium. Part of ./scripts/test.sh.
#
#   lowbit shaders --dump target/tint/wgsl -> tests/web/tint.mjs -> Dawn for Node (npm's webgpu, pinned by tests/web/package-lock.json)
#
# Needs Node 18 or newer and npm, and once the network; no GPU, no driver. Where these are missing it says so, and fails under CI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

find_cargo
why=$(why_no_node)
[ -z "$why" ] || leave_out "Tint" "$why"
dir=target/tint
fetch_node_packages tests/web "$dir" || leave_out "Tint" "npm could not fetch webgpu"
# Node looks for packages beside the script.
cp tests/web/tint.mjs "$dir"
rm -rf "$dir/wgsl"
cargo run --release --quiet -- shaders --dump "$dir/wgsl" --json >"$dir/list.json"
node "$dir/tint.mjs" "$dir/list.json"
