#!/usr/bin/env bash
# Builds the standalone player, viewer/player/page.html, from viewer/web with the pinned packages of its lockfile.
#   scripts/build_player.sh           type check, then write the page
#   scripts/build_player.sh --check   type check, build beside it, and fail unless the committed page is the same, byte for byte
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
page=$root/viewer/player/page.html
case "${1:-}" in
    "" | --check) ;;
    *) sed -n '2,4p' "$0" | cut -c3-; exit 2 ;;
esac
command -v node >/dev/null || { echo "node is missing: install Node.js 18 or newer" >&2; exit 2; }
cd "$root/viewer/web"
# An unchanged lockfile need not be installed again.
if ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
    cp package-lock.json node_modules/.installed
fi
node_modules/.bin/tsc --noEmit
if [ "${1:-}" != --check ]; then
    node build.mjs "$page"
    exit
fi
built=$(mktemp)
trap 'rm -f "$built"' EXIT
node build.mjs "$built"
if ! cmp "$built" "$page"; then
    echo "viewer/player/page.html is not what viewer/web builds; run scripts/build_player.sh and commit the page" >&2
    exit 1
fi
echo "viewer/player/page.html is what viewer/web builds"
