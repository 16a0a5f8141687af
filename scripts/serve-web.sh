#!/usr/bin/env bash
# serve-web.sh: the pages of examples/web on localhost.
#
#   build-web.sh, if there is no pkg/ -> a server of examples/web, pkg/, data/digits and examples/texts on 127.0.0.1
#
#   ./scripts/serve-web.sh          prints the addresses; Ctrl-C ends it
#   PORT=8123                       where it listens (8080)
#   ./scripts/serve-web.sh --help   this text
#
# Needs node; building needs what build-web.sh needs. Remove pkg/ to have it built anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
. scripts/setup.sh

case "${1:-}" in
  "") ;;
  --help | -h) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "scripts/${BASH_SOURCE[0]##*/}"; exit ;;
  *) die "unknown argument $1: --help or nothing" ;;
esac
command -v node >/dev/null || die "no node (18 or newer)"
[ -f pkg/lowbit_bg.wasm ] || ./scripts/build-web.sh
exec node --input-type=module -e '
  import { pages, serve } from "./tests/web/serve.mjs";
  const port = Number(process.argv[1]);
  try {
    const { url } = await serve(pages("."), port);
    for (const page of ["", "digits.html", "file.html", "search.html", "bench.html"]) console.log(`${url}/${page}`);
  } catch (error) {
    console.error(`error: port ${process.argv[1]} cannot be had (${error.message}); PORT=N takes another`);
    process.exit(1);
  }
' "${PORT:-8080}"
