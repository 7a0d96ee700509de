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
cargo test --workspace --locked
step 'done'
