#!/usr/bin/env bash
# setup.sh: what the demo and the tests need from the system, installed through apt where it is missing.
#
#   ./scripts/setup.sh         installs for the tests (the default), then says which adapters are missing
#   ./scripts/setup.sh demo    installs a linker, the Vulkan loader and Mesa's drivers, each only where there is none
#   . scripts/setup.sh         defines the functions, does nothing (demo.sh and test.sh use it so)
#
#   need                         package                                              for
#   cc                           gcc, libc6-dev                                       cargo's linker
#   libvulkan.so.1, an ICD       libvulkan1, mesa-vulkan-drivers (Mesa 24 or newer)   lavapipe: Vulkan in software
#   libEGL.so.1, Mesa's EGL      libegl1, libegl-mesa0, libgl1-mesa-dri               lavapipe through wgpu's GL backend
#   vk_swiftshader_icd.json      chromium (Debian only: Ubuntu's is a snap)           SwiftShader: Vulkan without f16
#   chromium                     chromium (the same)                                  the tests of the package for browsers
#   node, npm                    nodejs, npm                                          building that package and driving Chromium
#   spirv-val                    spirv-tools                                          judging the generated SPIR-V
#   ensurepip                    python3, python3-venv                                fetching the test model and gguf-py with pip
#
# Nothing is run as root, and apt is not asked, when everything is there. Never touched: Rust's own toolchain. Where apt is
# absent, this only reports. Under CI (the variable CI set, and not "false") a missing adapter is an error.

MESA_MIN=24 # Debian 12's own Mesa is 22.3; its backports have 25
MESA_PACKAGES=(mesa-vulkan-drivers libegl-mesa0 libgl1-mesa-dri)

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "setup: $*" >&2; }
die() {
  warn "$*"
  exit 1
}

# Ends a script whose subject $1 cannot be tested here, because of $2: an error under CI.
leave_out() {
  warn "$1 was left out: $2"
  if in_ci; then exit 1; fi
  exit 0
}

in_ci() { [ -n "${CI:-}" ] && [ "$CI" != false ]; }

# One field of /etc/os-release: `os ID`.
os() { sed -n "s/^$1=//p" /etc/os-release 2>/dev/null | tr -d '"'; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    warn "not root and no sudo: cannot run: $*"
    return 1
  fi
}

apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }

# Are all of the versions on stdin, one per line, those of a Mesa as new as the tests need? ("(none)" is no version.)
mesa_is_new() {
  local version any=no
  while read -r version; do
    if ! [[ "$version" =~ ^[0-9] ]] || ! dpkg --compare-versions "$version" ge "$MESA_MIN"; then return 1; fi
    any=yes
  done
  [ "$any" = yes ]
}

# The version of the installed package $1, or nothing.
installed_version() { dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null | sed -n 's/^installed //p' | sed -n 1p; }

# The versions of Mesa's packages that apt would install by itself. All are asked for: one of them may be installed from
# backports already, and apt then keeps to that one's version, but not to the others'.
mesa_candidates() { LC_ALL=C apt-cache policy "${MESA_PACKAGES[@]}" | sed -n 's/^ *Candidate: *//p'; }

# The package indexes that this machine's apt uses, however its sources are written: URI|suite|component per line.
apt_indexes() {
  # shellcheck disable=SC2016 # the $(...) are apt's own
  apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(COMPONENT)' 'Created-By: Packages'
}

# Makes the suite $1 (the release's backports) known to apt, from the mirror that serves the release itself.
add_suite() {
  local suite=$1 release indexes uri file keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  release=${suite%-backports}
  indexes=$(apt_indexes)
  if grep -qF "|$suite|main" <<<"$indexes"; then return 0; fi
  uri=$(awk -F'|' -v release="$release" '$2 == release && $3 == "main" && !found { print $1; found = 1 }' <<<"$indexes")
  if [ -z "$uri" ]; then
    warn "apt has no source for $release main, so $suite cannot be added"
    return 1
  fi
  file=/etc/apt/sources.list.d/$suite.sources
  if [ -e "$file" ]; then
    warn "$file exists, but apt has no index of it"
    return 1
  fi
  say "setup: adding $suite from $uri as $file"
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$suite"
    if [ -e "$keyring" ]; then printf 'Signed-By: %s\n' "$keyring"; fi
  } | as_root tee "$file" >/dev/null
  apt_get update
}

install_packages() {
  say "setup: installing: $*"
  apt_get install -y --no-install-recommends "$@"
}

# Installs Mesa's packages $@, from backports where the release's own Mesa is too old. apt's lists must be fresh.
install_mesa() {
  if mesa_candidates | mesa_is_new; then
    install_packages "$@"
  elif [ "$(os ID)" = debian ] && add_suite "$(os VERSION_CODENAME)-backports"; then
    install_packages -t "$(os VERSION_CODENAME)-backports" "$@"
  else
    warn "no Mesa $MESA_MIN or newer is to be had here; taking the one there is"
    install_packages "$@"
  fi
}

# The manifests of the installed Vulkan drivers, where the loader looks for them by itself; one per line.
driver_manifests() {
  local dir file
  local -A seen=()
  for dir in "${XDG_CONFIG_HOME:-$HOME/.config}" /etc/xdg /usr/local/etc /etc \
    "${XDG_DATA_HOME:-$HOME/.local/share}" /usr/local/share /usr/share; do
    for file in "$dir"/vulkan/icd.d/*.json; do
      if [ -e "$file" ] && [ -z "${seen[$file]:-}" ]; then
        seen[$file]=1
        printf '%s\n' "$file"
      fi
    done
  done
}

lavapipe_manifest() { driver_manifests | sed -n '/\/lvp_icd[^/]*\.json$/p'; }

# SwiftShader's lies in the browser's own directory, where the loader does not look.
swiftshader_manifest() {
  local dir
  for dir in /usr/lib/chromium /usr/lib/chromium-browser /opt/google/chrome; do
    if [ -e "$dir/vk_swiftshader_icd.json" ]; then
      printf '%s\n' "$dir/vk_swiftshader_icd.json"
      return 0
    fi
  done
}

# A Chromium that is no snap, or nothing.
chromium_program() {
  local program
  for program in /usr/bin/chromium /usr/bin/google-chrome /opt/google/chrome/chrome; do
    if [ -x "$program" ] && [ -n "$(swiftshader_manifest)" ]; then
      printf '%s\n' "$program"
      return 0
    fi
  done
}

# What is missing of Node and npm, or nothing.
why_no_node() {
  local program
  for program in node npm; do
    command -v "$program" >/dev/null || printf 'no %s (Node 18 or newer, with npm)' "$program"
  done
}

# Leaves the npm packages that the lock file in the folder $1 pins in the folder $2.
fetch_node_packages() {
  if cmp -s "$1/package-lock.json" "$2/package-lock.json" && [ -d "$2/node_modules" ]; then return 0; fi
  mkdir -p "$2"
  cp "$1/package.json" "$1/package-lock.json" "$2"
  if ! (cd "$2" && npm ci --ignore-scripts --no-fund --no-audit >npm.log 2>&1); then
    rm "$2/package-lock.json"
    cat "$2/npm.log" >&2
    return 1
  fi
}

# A value for VK_DRIVER_FILES, with which one process sees every driver: those of GPUs, lavapipe's and SwiftShader's.
driver_files() { { driver_manifests && swiftshader_manifest; } | paste -sd: -; }

# No `grep -q` and no `head` in pipes here: they leave early, and under pipefail the writer's SIGPIPE reads as failure.
has_library() { PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null | grep -F "$1 " >/dev/null; }

has_vulkan() {
  has_library libvulkan.so.1 && [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}$(driver_manifests)" ]
}

has_mesa_egl() { has_library libEGL.so.1 && has_library libEGL_mesa.so.0; }

has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

# cargo, where rustup put it, also for a shell that has not read the profile since.
find_cargo() {
  if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    export PATH
  fi
  command -v cargo >/dev/null || die "no cargo in PATH: install Rust first (https://www.rust-lang.org/tools/install)"
}

# For the demo. It also runs without any of this, on the CPU engine, so what fails here is only said.
setup_demo() {
  local plain=() mesa=()
  command -v cc >/dev/null || plain+=(gcc libc6-dev)
  has_vulkan || mesa+=(libvulkan1 mesa-vulkan-drivers)
  if [ $((${#plain[@]} + ${#mesa[@]})) -eq 0 ]; then return 0; fi
  if ! command -v apt-get >/dev/null; then
    warn "no apt here; going on without: ${plain[*]} ${mesa[*]}"
    return 0
  fi
  apt_get update || { warn "going on without: ${plain[*]} ${mesa[*]}"; return 0; }
  [ ${#plain[@]} -eq 0 ] || install_packages "${plain[@]}" || warn "no C compiler: cargo will not be able to link"
  [ ${#mesa[@]} -eq 0 ] || install_mesa "${mesa[@]}" || warn "no Vulkan: the demo runs on the CPU engine alone"
}

# For the tests: everything in the table above. What could not be installed is said; an adapter that is missing in the end is
# an error under CI, and elsewhere the tests take those that are there.
setup_test() {
  local plain=() mesa=() package
  if command -v apt-get >/dev/null; then
    command -v cc >/dev/null || plain+=(gcc libc6-dev)
    command -v spirv-val >/dev/null || plain+=(spirv-tools)
    has_venv || plain+=(python3 python3-venv)
    if [ "$(os ID)" = debian ] && [ -z "$(swiftshader_manifest)" ]; then plain+=(chromium); fi
    command -v node >/dev/null || plain+=(nodejs)
    command -v npm >/dev/null || plain+=(npm)
    for package in "${MESA_PACKAGES[@]}"; do
      installed_version "$package" | mesa_is_new || mesa+=("$package")
    done
    for package in libvulkan1 libegl1; do
      [ -n "$(installed_version $package)" ] || mesa+=("$package")
    done
    # On a release without a newer Mesa, an older one that is there already is no reason to run apt each time.
    if [ "$(os ID)" != debian ] && has_vulkan && has_mesa_egl; then mesa=(); fi
    if [ ${#mesa[@]} -gt 0 ]; then mesa=(libvulkan1 libegl1 "${MESA_PACKAGES[@]}"); fi
    if [ $((${#plain[@]} + ${#mesa[@]})) -gt 0 ]; then
      apt_get update || warn "apt could not be asked for: ${plain[*]} ${mesa[*]}"
      [ ${#mesa[@]} -eq 0 ] || install_mesa "${mesa[@]}" || warn "could not install: ${mesa[*]}"
      [ ${#plain[@]} -eq 0 ] || install_packages "${plain[@]}" || warn "could not install: ${plain[*]}"
    fi
  fi
  report_missing
}

report_missing() {
  local missing=()
  { has_library libvulkan.so.1 && [ -n "$(lavapipe_manifest)" ]; } || missing+=("lavapipe (Vulkan): Mesa's Vulkan drivers and the Vulkan loader")
  { has_library libvulkan.so.1 && [ -n "$(swiftshader_manifest)" ]; } || missing+=("SwiftShader (Vulkan): a Chromium or Chrome that is not a snap")
  has_mesa_egl || missing+=("lavapipe (GL): Mesa's EGL and GL drivers")
  command -v spirv-val >/dev/null || missing+=("spirv-val: SPIRV-Tools")
  { command -v node >/dev/null && command -v npm >/dev/null; } || missing+=("node and npm: the package for browsers")
  if [ ${#missing[@]} -eq 0 ]; then
    say "setup: lavapipe (Vulkan and GL), SwiftShader, spirv-val and node are there"
    return 0
  fi
  printf 'setup: missing: %s\n' "${missing[@]}" >&2
  if in_ci; then
    warn "under CI this is an error"
    return 1
  fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  case "${1:-test}" in
    test) setup_test ;;
    demo) setup_demo ;;
    *) die "unknown argument $1: demo or test" ;;
  esac
fi
