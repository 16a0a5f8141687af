#!/usr/bin/env bash
# build-web.sh: the package for browsers, in pkg/.
#
#   cargo (wasm32, profile web) -> tools/wasm-bindgen -> wasm-opt -> pkg/lowbit_bg.wasm, lowbit_raw.js
#   web/*.js, lowbit.d.ts, README.md, package.json                -> pkg/
#
#   ./scripts/build-web.sh          the package as it is published, and its size
#   ./scripts/build-web.sh --dev    builds in a fifth of the time, for whoever changes it: not optimised across crates, no wasm-opt
#
# Needs the target wasm32-unknown-unknown (scripts/setup-wasm.sh sees to it), node and npm; wasm-opt is npm's binaryen, pinned by
# web/package-lock.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh
# shellcheck source=scripts/setup-wasm.sh
. scripts/setup-wasm.sh

# Instructions that every browser with WebGPU has.
TARGET_FEATURES=simd128,bulk-memory,mutable-globals,nontrapping-fptoint,sign-ext,reference-types,multivalue

case "${1:-}" in
  "") profile=web ;;
  --dev) profile=release ;;
  -h | --help)
    sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) die "unknown argument $1: --dev or nothing" ;;
esac
find_cargo
why=$(why_no_node)
[ -z "$why" ] || die "$why"
wasm_toolchain
env "${WASM_ENV[@]}" RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+${TARGET_FEATURES//,/,+}" cargo rustc --locked --lib --crate-type cdylib \
  "${WASM_STD[@]}" --target "$WASM_TARGET" --target-dir target/web --profile "$profile" --no-default-features --features web
cargo run --quiet --release --locked --manifest-path tools/wasm-bindgen/Cargo.toml --target-dir target/wasm-bindgen -- \
  "target/web/$WASM_TARGET/$profile/lowbit.wasm" target/web/pkg lowbit_raw
rm -rf pkg
mkdir pkg
if [ "$profile" = web ]; then
  fetch_node_packages web target/binaryen || die "npm could not fetch binaryen"
  node target/binaryen/node_modules/binaryen/bin/wasm-opt -O3 --enable-simd --enable-bulk-memory --enable-mutable-globals \
    --enable-nontrapping-float-to-int --enable-sign-ext --enable-reference-types --enable-multivalue --strip-debug --strip-producers \
    target/web/pkg/lowbit_raw_bg.wasm -o pkg/lowbit_bg.wasm
else
  cp target/web/pkg/lowbit_raw_bg.wasm pkg/lowbit_bg.wasm
fi
sed 's/lowbit_raw_bg\.wasm/lowbit_bg.wasm/' target/web/pkg/lowbit_raw.js >pkg/lowbit_raw.js
cp web/*.js web/lowbit.d.ts web/README.md LICENSE-* pkg/
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | sed -n 1p)
node -e '
  const { devDependencies, ...manifest } = JSON.parse(require("fs").readFileSync("web/package.json", "utf8"));
  console.log(JSON.stringify({ ...manifest, version: process.argv[1] }, null, 2));
' "$version" >pkg/package.json
printf 'pkg/: lowbit %s, lowbit_bg.wasm %d bytes, %d with gzip; JavaScript %d bytes, %d with gzip\n' "$version" "$(wc -c <pkg/lowbit_bg.wasm)" \
  "$(gzip -9c pkg/lowbit_bg.wasm | wc -c)" "$(cat pkg/*.js | wc -c)" "$(cat pkg/*.js | gzip -9c | wc -c)"
