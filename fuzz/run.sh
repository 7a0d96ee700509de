#!/usr/bin/env bash
# Builds the fuzz targets with the stable compiler and runs each for a bounded time; fails if one of them does.
# usage: run.sh [--seconds N] [TARGET…]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=60
if [ "${1:-}" = --seconds ]; then seconds=$2; shift 2; fi
directory=$(realpath -m "${CARGO_TARGET_DIR:-target}/fuzz")
host=$(rustc -vV | sed -n 's/^host: //p')

# The coverage that libFuzzer steers by comes from an LLVM pass that any rustc can run; only sanitizers would need a
# nightly one. A --target keeps these flags from build scripts and procedural macros.
flags="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  flags="$flags -Cllvm-args=-sanitizer-coverage-$option"
done
RUSTFLAGS="$flags" CARGO_TARGET_DIR="$directory/build" PYRITE_PAGE=none \
  cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target "$host"
fuzz=$directory/build/$host/release/pyrite-fuzz

rm -rf "$directory/seeds"
# libFuzzer misses the sanitizers, which are not there.
PYRITE_FUZZ_SEEDS=$directory/seeds "$fuzz" 2> >(grep -v '^WARNING: Failed to find function' >&2)
targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(ls "$directory/seeds")
failed=()
for target in "${targets[@]}"; do
  mkdir -p "$directory"/{corpus,crashes}/"$target"
  log=$directory/$target.log
  # A time out is wall time, and a busy machine may let a process stand for a while. What libFuzzer does then takes memory in
  # a signal handler, and may wait for itself for ever.
  if PYRITE_FUZZ_TARGET=$target timeout --signal=KILL $((seconds + 120)) \
    "$fuzz" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$directory/crashes/$target/" "$directory/corpus/$target" "$directory/seeds/$target" >"$log" 2>&1; then
    awk -v target="$target" '/^stat::number_of_executed_units/ { runs = $2 } / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
      END { printf "%-16s %12d runs, %6d edges covered\n", target, runs, cov }' "$log"
  else
    failed+=("$target")
    printf '%-16s FAILED\n' "$target"
    grep -A12 -m1 -E 'panicked at|ERROR: libFuzzer' "$log" || tail -n 20 "$log"
  fi
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}; the inputs are in $directory/crashes" >&2
  exit 1
fi
