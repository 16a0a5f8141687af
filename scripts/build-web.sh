#!/usr/bin/env bash
# build-web.sh: the package for browsers, in pkg/.
#
#   cargo (wasm32, profile web, feature web)           -> tools/wasm-bindgen -> wasm-opt -> pkg/lowbit_bg.wasm, lowbit_raw.js
#   the same with web-tokenizer, a module of its own   -> ...                             -> pkg/lowbit_tokenizer_bg.wasm, lowbit_tokenizer.js
#   web/*.js, lowbit.d.ts, README.md, package.json                                        -> pkg/
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
rm -rf pkg
mkdir pkg

# The features $2 of the crate as the module $1: NAME_bg.wasm and its JavaScript side $3. $4 is lowbit's own optimisation.
build_module() {
  local name=$1 features=$2 script=$3 level=$4
  env "${WASM_ENV[@]}" CARGO_PROFILE_WEB_OPT_LEVEL="$level" RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+${TARGET_FEATURES//,/,+}" cargo rustc --locked --lib --crate-type cdylib \
    "${WASM_STD[@]}" --target "$WASM_TARGET" --target-dir target/web --profile "$profile" --no-default-features --features "$features"
  cargo run --quiet --release --locked --manifest-path tools/wasm-bindgen/Cargo.toml --target-dir target/wasm-bindgen -- \
    "target/web/$WASM_TARGET/$profile/lowbit.wasm" target/web/pkg "$script"
  if [ "$profile" = web ]; then
    node target/binaryen/node_modules/binaryen/bin/wasm-opt -O3 --enable-simd --enable-bulk-memory --enable-mutable-globals \
      --enable-nontrapping-float-to-int --enable-sign-ext --enable-reference-types --enable-multivalue --strip-debug --strip-producers \
      "target/web/pkg/${script}_bg.wasm" -o "pkg/${name}_bg.wasm"
  else
    cp "target/web/pkg/${script}_bg.wasm" "pkg/${name}_bg.wasm"
  fi
  sed "s/${script}_bg\.wasm/${name}_bg.wasm/" "target/web/pkg/$script.js" >"pkg/$script.js"
}

[ "$profile" != web ] || fetch_node_packages web target/binaryen || die "npm could not fetch binaryen"
build_module lowbit web lowbit_raw 3
# No loop of lowbit's is in it.
build_module lowbit_tokenizer web-tokenizer lowbit_tokenizer s
cp web/*.js web/lowbit.d.ts web/README.md LICENSE-* pkg/
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | sed -n 1p)
node -e '
  const { devDependencies, ...manifest } = JSON.parse(require("fs").readFileSync("web/package.json", "utf8"));
  console.log(JSON.stringify({ ...manifest, version: process.argv[1] }, null, 2));
' "$version" >pkg/package.json
size() { printf '%d bytes, %d with gzip' "$(cat "$@" | wc -c)" "$(cat "$@" | gzip -9c | wc -c)"; }
printf 'pkg/: lowbit %s, lowbit_bg.wasm %s; JavaScript %s; for models of texts lowbit_tokenizer_bg.wasm %s\n' "$version" "$(size pkg/lowbit_bg.wasm)" \
  "$(size pkg/*.js)" "$(size pkg/lowbit_tokenizer_bg.wasm)"
