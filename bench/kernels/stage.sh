#!/usr/bin/env bash
# Builds what the guests boot: DIRECTORY/small.cpio, a busybox with the workloads, and DIRECTORY/systemd.cpio, a Debian with
# systemd; both with Pyrite and the tasks of guest/ under /pyrite. Also DIRECTORY/pyrite itself, for the running kernel.
#
# usage: stage.sh PYRITE DIRECTORY
set -euo pipefail
here=$(realpath "$(dirname "$0")")
pyrite=$(realpath "$1")
directory=$(realpath -m "$2")
workloads=$here/../../fixtures/workloads

pack() { (cd "$1" && find . | cpio --create --format=newc --owner=0:0 --quiet); }

# The libraries that a program is linked against, and its dynamic linker.
libraries() { ldd "$1" | grep --only-matching '/[^ ]*'; }

stage_pyrite() {
  local root=$directory/pyrite
  rm -rf "$root"
  mkdir -p "$root/lib"
  # Function names of Pyrite itself are of no interest here, and a guest's memory is small.
  strip -o "$root/pyrite" "$pyrite"
  cp $(libraries "$pyrite") "$root/lib"
  cp -r "$here/guest" "$root/guest"
  cc -O2 -Wall -Werror -shared -fPIC -o "$root/verifier_stats.so" "$here/verifier_stats.c" -ldl
  cc -O2 -g -fno-omit-frame-pointer -mno-omit-leaf-frame-pointer -o "$root/chain-fp" "$workloads/chain.c"
  cc -O2 -g -fomit-frame-pointer -o "$root/chain-nofp" "$workloads/chain.c"
  cc -O2 -g -fno-omit-frame-pointer -pthread -o "$root/syscalls" "$workloads/syscalls.c"
  cc -O2 -g -fno-omit-frame-pointer -pthread -o "$root/waits" "$workloads/waits.c"
}

# Everything that is not Pyrite's: packed apart, for the kernel takes several archives one after the other.
stage_small() {
  local root=$directory/small
  rm -rf "$root"
  mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,lib64,lib/x86_64-linux-gnu}
  cp "$(command -v busybox)" "$root/bin/busybox"
  cp $(libraries "$pyrite") "$root/lib/x86_64-linux-gnu"
  cp "$(libraries "$pyrite" | grep ld-linux)" "$root/lib64"
  printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
  install -m 755 "$here/guest/init" "$root/init"
  pack "$root" >"$directory/small.base.cpio"
}

# Fetched once: a hundred megabytes.
stage_debian() {
  local root=$directory/debian mirror
  [ -s "$directory/debian.base.cpio" ] && return
  rm -rf "$root"
  read -r mirror _ < <("$here/mirror.sh")
  debootstrap --variant=minbase --include=systemd,systemd-sysv bookworm "$root" "$mirror" \
    >"$directory/debootstrap.log" 2>&1 || { tail "$directory/debootstrap.log" >&2; exit 1; }
  rm -rf "$root"/{usr/share/{doc,locale,man,info},var/cache/apt,var/lib/apt/lists,usr/lib/python3}
  pack "$root" >"$directory/debian.base.cpio.partial"
  mv "$directory/debian.base.cpio.partial" "$directory/debian.base.cpio"
  rm -rf "$root"
}

# What is Pyrite's, in a root of its own.
stage_overlay() {
  local root=$directory/overlay
  rm -rf "$root"
  mkdir -p "$root/etc/systemd/system"
  cp -r "$directory/pyrite" "$root/pyrite"
  cp "$(command -v busybox)" "$root/pyrite/busybox"
  cp "$here"/guest/units/* "$root/etc/systemd/system"
  pack "$root" >"$directory/overlay.cpio"
}

mkdir -p "$directory"
stage_pyrite
stage_small
stage_debian
stage_overlay
cat "$directory/small.base.cpio" "$directory/overlay.cpio" >"$directory/small.cpio"
cat "$directory/debian.base.cpio" "$directory/overlay.cpio" >"$directory/systemd.cpio"
