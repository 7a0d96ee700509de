#!/usr/bin/env bash
# Installs the Debian packages that building (`build`), testing (`test`) and other targets need, when root; else prints the one
# command that does. Only what is missing is installed; a machine that has all of it is left alone.
set -euo pipefail

declare -A packages=(
  # clang and llvm compile and strip the BPF programs, libclang makes their bindings, gcc builds SQLite and jemalloc.
  [build]="gcc libc6-dev make clang llvm libclang-dev"
  # Containers, a browser, an independent pprof reader and the Python SDK are driven for real by the tests; libdw judges
  # stacks.
  [test]="podman runc netavark aardvark-dns iptables busybox-static chromium python3-venv python3-pip procps libdw-dev"
  # Kernels are booted under QEMU with roots made by busybox and debootstrap; the archive's keys verify both.
  [kernels]="qemu-system-x86 cpio busybox-static debootstrap debian-archive-keyring"
  # libFuzzer itself is C++.
  [fuzz]="g++"
  # What stacks are judged by, and the toolchains of the programs that they are judged on.
  [accuracy]="libdw-dev g++ musl-tools python3"
)
missing=()
need() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed' || missing+=("$1"); }

for group in "$@"; do
  for package in ${packages[$group]}; do need "$package"; done
done
if [[ " $* " == *" test "* || " $* " == *" accuracy "* ]] && ! command -v go >/dev/null; then need golang-go; fi
if [[ " $* " == *" accuracy "* ]]; then
  if ! command -v javac >/dev/null || ! command -v java >/dev/null; then need default-jdk-headless; fi
  if ! command -v node >/dev/null; then need nodejs; fi
fi
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
