#!/usr/bin/env bash
# peers-encoder.sh: lowbit's sentence encoder beside onnxruntime's on the CPU: f32 and int8, the same model and shapes, in turns of one run.
#
#   ./scripts/peers-encoder.sh [MODEL_FOLDER] [--json FILE] ...      (--help says all; without a folder the model of scripts/test.sh)
#
# onnxruntime comes from PyPI into target/peers/venv, as scripts/peers.sh does it. Both are compared with transformers' embeddings before they are timed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

find_cargo
PEERS_PREPARE=onnxruntime-encoder ./scripts/peers.sh
exec target/peers/build/release/peers-encoder "$@"
