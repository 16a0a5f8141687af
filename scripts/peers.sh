#!/usr/bin/env bash
# peers.sh: lowbit beside other engines, the same products in one run: prepares what can be had of them, compares results, then times in turns.
#
#   ./scripts/peers.sh [--only PEER] [--device NAME] [--json FILE] ...      (--help says all)
#
#   peer                          what of it                                                   where
#   lowbit, candle,               crates, benches/peers and the packages in it                 target/peers/build
#   burn, web-rwkv
#   ggml-vulkan, ggml-cpu         llama.cpp's ggml: Debian's packages, benches/peers/ggml.c    target/peers/ggml, beside the system
#   onnxruntime(-webgpu)          PyPI, benches/peers/onnxruntime-peer.py                      target/peers/venv(-webgpu)
#
# A program per peer lies in target/peers/bin in the end, or NAME.why with the reason why not; the table has that reason. burn and web-rwkv take minutes
# to build. Needs the network once, no root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh
# shellcheck source=scripts/beside.sh
. scripts/beside.sh

SUITE=unstable
GGML_PACKAGES=(libggml0 libggml0-backend-vulkan libggml-dev)
ONNX_PACKAGES=(onnx==1.23.2 numpy==2.4.6 ml_dtypes==0.6.0 protobuf==7.36.2 typing_extensions==4.16.0 packaging==26.3 flatbuffers==25.12.19)

dir=$PWD/target/peers
bin=$dir/bin

# Is the peer $1, or one of $@, asked for?
wanted() {
  local name
  [ ${#only[@]} -gt 0 ] || return 0
  for name in "$@"; do
    case " ${only[*]} " in *" $name "*) return 0 ;; esac
  done
  return 1
}

# There is no program $1, because of $2.
without() {
  rm -f "$bin/$1"
  say "$2" >"$bin/$1.why"
  warn "$1: $2"
}

# Builds the package $2 under benches/peers, whose binary is peer-$1. Further arguments are environment.
build() {
  local name=$1 folder=$2
  shift 2
  if env "$@" cargo build --release --locked --quiet --manifest-path "$folder/Cargo.toml" --target-dir "$dir/build" 2>"$dir/$name.log"; then
    ln -sf "$dir/build/release/peer-$name" "$bin/$name"
    rm -f "$bin/$name.why"
  else
    without "$name" "did not build: $(grep -m1 '^error' "$dir/$name.log" || tail -n1 "$dir/$name.log")"
  fi
}

build_ggml() {
  local why lib=$dir/ggml/usr/lib/x86_64-linux-gnu
  why=$(why_not_beside)
  if [ -n "$why" ]; then without ggml "$why, so its packages cannot be unpacked"; return; fi
  if ! [ -e "$lib/libggml.so" ] && ! unpack_beside "$dir/ggml" "$SUITE" "${GGML_PACKAGES[@]}"; then
    rm -rf "$dir/ggml"
    without ggml "its packages could not be had from $SUITE"
    return
  fi
  # Its libraries want a newer C library than this system's, which the program gets when it is started.
  if ! cc -O2 -Wall -o "$dir/peer-ggml" benches/peers/ggml.c -I "$dir/ggml/usr/include" -L "$lib" -lggml -lggml-base \
    -Wl,--allow-shlib-undefined 2>"$dir/ggml.log"; then
    without ggml "did not build: $(grep -m1 error "$dir/ggml.log")"
    return
  fi
  # It finds its backends where it is started. Its threads, which would wait for each other in loops, stop whole time slices where others work too.
  cat >"$bin/ggml" <<RUN
#!/bin/sh
cd '$lib/ggml/backends0' || exit
export OMP_WAIT_POLICY=passive
exec $(loader_beside "$dir/ggml" ggml/backends0) '$dir/peer-ggml' "\$@"
RUN
  chmod +x "$bin/ggml"
  rm -f "$bin/ggml.why"
}

# The environment $2 with the package $3 and what it needs, for the peer $1.
build_onnxruntime() {
  local name=$1 venv=$dir/$2 package=$3
  if ! [ -x "$venv/bin/pip" ] && ! python3 -m venv --clear "$venv" >"$dir/$name.log" 2>&1; then
    without "$name" "python3 makes no environment"
    return
  fi
  if ! "$venv/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary :all: "$package" "${ONNX_PACKAGES[@]}" >"$dir/$name.log" 2>&1; then
    without "$name" "pip could not install $package: $(tail -n1 "$dir/$name.log")"
    return
  fi
  printf '#!/bin/sh\nexec %q %q "$@"\n' "$venv/bin/python" "$PWD/benches/peers/${4:-onnxruntime-peer.py}" >"$bin/$name"
  chmod +x "$bin/$name"
  rm -f "$bin/$name.why"
}

only=()
help=no
previous=
for word in "$@"; do
  [ "$previous" != --only ] || only+=("$word")
  case $word in --only=*) only+=("${word#--only=}") ;; -h | --help) help=yes ;; esac
  previous=$word
done

find_cargo
mkdir -p "$bin"
# What scripts/peers-encoder.sh asks for, and nothing else.
if [ "${PEERS_PREPARE:-}" = onnxruntime-encoder ]; then
  cargo build --release --locked --quiet --manifest-path benches/peers/Cargo.toml --target-dir "$dir/build" --bin peers-encoder
  build_onnxruntime onnxruntime-encoder venv onnxruntime==1.31.1 onnxruntime-encoder.py
  exit
fi
cargo build --release --locked --quiet --manifest-path benches/peers/Cargo.toml --target-dir "$dir/build"
if [ $help = no ]; then
  ln -sf "$dir/build/release/peer-lowbit" "$bin/lowbit"
  cargo build --release --quiet # lowbit, which writes the operands
  ! wanted ggml-cpu ggml-vulkan || build_ggml
  ! wanted onnxruntime || build_onnxruntime onnxruntime venv onnxruntime==1.31.1
  ! wanted onnxruntime-webgpu || build_onnxruntime onnxruntime-webgpu venv-webgpu onnxruntime-webgpu==1.27.0
  # candle chooses its vector instructions when it is compiled.
  ! wanted candle || build candle benches/peers/candle RUSTFLAGS="-C target-cpu=native"
  ! wanted web-rwkv || build web-rwkv benches/peers/web-rwkv
  ! wanted burn || build burn benches/peers/burn
  if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; then
    VK_DRIVER_FILES=$(driver_files)
    export VK_DRIVER_FILES
  fi
fi
exec "$dir/build/release/peers" "$@"
