#!/usr/bin/env bash
# setup-wasm.sh: a Rust that builds for wasm32-unknown-unknown.
#
#   . scripts/setup-wasm.sh     defines wasm_toolchain, does nothing; setup.sh must have been read before
#   wasm_toolchain              sets WASM_STD and WASM_ENV: env "${WASM_ENV[@]}" cargo build "${WASM_STD[@]}" --target wasm32-unknown-unknown
#
# Where the active toolchain has the target's standard library (`rustup target add wasm32-unknown-unknown`), nothing is needed. Elsewhere the
# compiler that Debian builds its browsers with is unpacked into target/wasm-toolchain, from the sources that this machine's apt has, and builds the
# standard library from its own sources. Nothing is installed, nothing is run as root, and Rust's own toolchains are not touched.

WASM_TARGET=wasm32-unknown-unknown
WASM_STD=()
WASM_ENV=()

# Has the active toolchain the standard library of the target?
has_wasm_std() {
  local dir
  dir=$(rustc --print target-libdir --target "$WASM_TARGET" 2>/dev/null) || return 1
  compgen -G "$dir/libstd-*.rlib" >/dev/null
}

# The newest installed or available package whose name matches the pattern $1, by the version in the name.
newest_package() { apt-cache --names-only search "$1" | sed 's/ - .*//' | sort -V | tail -n 1; }

# Unpacks the compiler into the folder $1.
unpack_wasm_toolchain() {
  local dir=$1 std llvm deb
  command -v apt-get >/dev/null || die "no standard library for $WASM_TARGET here: rustup target add $WASM_TARGET"
  std=$(newest_package '^libstd-rust-web-[0-9.]+$')
  if [ -z "$std" ]; then
    apt_get update || warn "apt could not be asked"
    std=$(newest_package '^libstd-rust-web-[0-9.]+$')
  fi
  [ -n "$std" ] || die "apt has no rustc-web, and there is no standard library for $WASM_TARGET: rustup target add $WASM_TARGET"
  # The compiler's LLVM, and the linker of the same one.
  llvm=$(apt-cache depends "$std" | sed -n 's/.*Depends: libllvm\([0-9]*\).*/\1/p' | sed -n 1p)
  say "setup: unpacking rustc-web ($std, LLVM $llvm) into $dir"
  rm -rf "$dir.part"
  mkdir -p "$dir.part/debs"
  (cd "$dir.part/debs" && apt-get -q download rustc-web libstd-rust-web-dev rust-web-src "$std" "libllvm$llvm" "lld-$llvm")
  for deb in "$dir.part"/debs/*.deb; do dpkg-deb -x "$deb" "$dir.part"; done
  rm -r "$dir.part/debs"
  ln -s "wasm-ld-$llvm" "$dir.part/usr/bin/wasm-ld"
  mv "$dir.part" "$dir"
}

wasm_toolchain() {
  local dir=$PWD/target/wasm-toolchain
  if has_wasm_std; then return 0; fi
  [ -x "$dir/usr/bin/rustc" ] || unpack_wasm_toolchain "$dir"
  # That compiler is a stable one; building a standard library is not stable yet.
  WASM_STD=(-Zbuild-std=std,panic_abort)
  WASM_ENV=(RUSTC="$dir/usr/bin/rustc" RUSTC_BOOTSTRAP=1 LD_LIBRARY_PATH="$(echo "$dir"/usr/lib/*-linux-gnu)"
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$dir/usr/bin/wasm-ld")
}
