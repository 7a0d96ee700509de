#!/usr/bin/env bash
# Installs the Debian packages that building (`build`) and testing (`test`) need, when root; else prints the one
# command that does. Only what is missing is installed; a machine that has all of it is left alone.
set -euo pipefail

declare -A packages=(
  # clang and llvm compile and strip the BPF programs, libclang makes their bindings, gcc builds SQLite and jemalloc.
  [build]="gcc libc6-dev make clang llvm libclang-dev"
  # Containers, a browser, an independent pprof reader and the Python SDK are driven for real by the tests.
  [test]="podman runc netavark aardvark-dns iptables busybox-static chromium python3-venv python3-pip procps"
)
missing=()
need() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed' || missing+=("$1"); }

for group in "$@"; do
  for package in ${packages[$group]}; do need "$package"; done
done
if [[ " $* " == *" test "* ]] && ! command -v go >/dev/null; then need golang-go; fi
# The page's build wants a Node that Debian 12 lacks; its replacement comes as a Python wheel (see page.sh).
if ! bench/dev/page.sh node-is-recent; then need python3-pip; fi

[ ${#missing[@]} -eq 0 ] && exit 0
install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
  echo "Pyrite needs these Debian packages; install them with:" >&2
  echo "  sudo apt-get update && sudo $install" >&2
  exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
$install >/dev/null
