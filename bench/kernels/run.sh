#!/usr/bin/env bash
# Runs Pyrite on Debian's kernels under QEMU and on the running one, and has what it did there judged.
#
#   5.10 6.1 6.12   boot, load, verify, attach, profile, unwind; so does `running`, without QEMU
#   hotplug         CPUs go and come back while they are sampled
#   units           systemd is the first process; its units come out as services
#   refusals        lockdown, no BTF, no privilege: one clear sentence each
#
# usage: run.sh [--pyrite FILE] [CASE…]
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
pyrite=$target/release/pyrite
if [ "${1:-}" = --pyrite ]; then pyrite=$2; shift 2; fi
cases=("$@")
[ $# -gt 0 ] || cases=(5.10 6.1 6.12 running hotplug units refusals)
directory=$(realpath -m "$target/kernels")
results=$directory/results
mkdir -p "$results"

# boot CASE SUITE ROOT MEMORY PARAMETERS: what the guest finds is in RESULTS/CASE.txt.
# QEMU translates: KVM is not everywhere, and where it is nested it may fail in the middle.
boot() {
  local kernel
  kernel=$(bench/kernels/fetch.sh "$2" "$directory")
  timeout 300 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "$4" -nodefaults -display none -no-reboot \
    -serial "file:$results/$1.console" -serial "file:$results/$1.txt" \
    -kernel "$kernel" -initrd "$directory/$3.cpio" -append "console=ttyS0 panic=-1 quiet mitigations=off $5" \
    2>"$results/$1.qemu" || { cat "$results/$1.qemu" >&2; echo "QEMU did not end by itself" >&2; }
}

here() {
  local scratch
  scratch=$(mktemp -d)
  HERE=$directory/pyrite PYRITE=$directory/pyrite/pyrite SCRATCH=$scratch RESULTS=$results/running.txt \
    bash "$directory/pyrite/guest/profile.sh"
  rm -rf "$scratch"
}

bench/kernels/stage.sh "$pyrite" "$directory"
for case in "${cases[@]}"; do
  echo "kernels: $case"
  rm -f "$results/$case".*
  start=$SECONDS
  case $case in
    5.10) boot 5.10 bullseye small 1024 pyrite.task=profile ;;
    6.1) boot 6.1 bookworm small 1024 pyrite.task=profile ;;
    6.12) boot 6.12 trixie small 1024 pyrite.task=profile ;;
    running) here ;;
    hotplug) boot hotplug bookworm small 1024 pyrite.task=hotplug ;;
    units) boot units bookworm systemd 2048 'rdinit=/lib/systemd/systemd systemd.unit=pyrite-check.target' ;;
    refusals) boot refusals trixie small 1024 'pyrite.task=refusals lockdown=confidentiality' ;;
    *) echo "no such case: $case" >&2; exit 2 ;;
  esac
  printf 'took %s\n' $((SECONDS - start)) >>"$results/$case.txt"
done
cargo run --quiet --locked --package pyrite-bench --bin kernels -- "$results" "${cases[@]}"
