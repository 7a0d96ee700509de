#!/usr/bin/env bash
# All tests, in the order in which a failure is cheapest to see. The privileged ones (bpf_*, root_*) run where we are
# root; under CI a privileged test that cannot run is a failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
step() { printf '\n=== %s (%ss)\n' "$1" "$SECONDS"; }

step 'format, lints, tidy'
bench/dev/lint.sh
step 'page: types, units, browser'
bench/dev/page.sh test
step 'unit, integration and privileged tests'
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --workspace --locked 2>&1 | tee "$log"
step 'done'
# Each test binary closes with a line of its own; this is their sum.
awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
