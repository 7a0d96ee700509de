#!/usr/bin/env bash
# Runs a command as root: directly where we are root, by sudo where there is one, else says how.
set -euo pipefail
if [ "$(id -u)" -eq 0 ]; then exec "$@"; fi
kept=CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR,PYRITE_DEBIAN_MIRROR,PATH
if command -v sudo >/dev/null; then exec sudo --preserve-env=$kept "$@"; fi
echo "Pyrite watches the whole node and so must run as root; as root, run:" >&2
echo "  $(realpath "$1") ${*:2}" >&2
exit 1
