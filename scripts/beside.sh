#!/usr/bin/env bash
# beside.sh: packages of a newer Debian, unpacked beside the system and not into it. Sourced by scripts that need a program or driver which
# this release has not: . scripts/setup.sh; . scripts/beside.sh
#
# Needs Debian's apt and its archive keyring, 64-bit x86, and once the network (the mirror that this machine's apt uses); no root.

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Says why nothing can be unpacked here, if so.
why_not_beside() {
  if ! command -v apt-get >/dev/null || [ "$(os ID)" != debian ] || ! [ -e "$KEYRING" ]; then
    say "no Debian"
  elif [ "$(uname -m)" != x86_64 ]; then
    say "not x86_64"
  fi
}

# Unpacks packages $3... of the suite $2 and what they depend on in the folder $1, as if nothing were installed.
unpack_beside() {
  local root=$1 apt=$1.apt suite=$2 mirror deb
  shift 2
  mirror=$(apt_indexes | awk -F'|' '$3 == "main" && $2 !~ /security/ && !found { print $1; found = 1 }')
  [ -n "$mirror" ] || return 1
  rm -rf "$root" "$apt"
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc/parts}
  : >"$apt/status"
  echo "deb [signed-by=$KEYRING] $mirror $suite main" >"$apt/etc/sources.list"
  apt_beside() {
    apt-get -qq -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
      -o Dir::Cache="$apt/cache" -o Dir::Etc::sourcelist="$apt/etc/sources.list" -o Dir::Etc::sourceparts="$apt/etc/parts" \
      -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@"
  }
  apt_beside update && apt_beside install -y --download-only "$@" >/dev/null || return 1
  for deb in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$deb" "$root" || return 1; done
  rm -r "$apt"
}

# Words that start a program with the C library and the libraries under the folder $1, and those in the folders $2...
loader_beside() {
  local lib=$1/usr/lib/x86_64-linux-gnu more
  shift
  more=$(printf ":$lib/%s" "$@")
  say "'${lib%/usr/lib/x86_64-linux-gnu}/usr/lib64/ld-linux-x86-64.so.2' --library-path '$lib${more%":$lib/"}'"
}
