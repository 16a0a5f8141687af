#!/usr/bin/env bash
# demo.sh [ARGS...]: builds lowbit and runs it with ARGS; without any, it runs the demo.
#
# On Debian and Ubuntu a missing linker, Vulkan loader or driver is installed first (scripts/setup.sh), which takes root or
# sudo; a machine with a Vulkan driver is left as it is. Where nothing can be installed, the demo runs on what is there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/setup.sh
. "$root/scripts/setup.sh"

find_cargo
setup_demo
exec cargo run --release --manifest-path "$root/Cargo.toml" -- "$@"
