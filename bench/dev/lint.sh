#!/usr/bin/env bash
# Format, lints and tidy: what needs no privilege and no test.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo fmt --all --check
# A workspace of its own.
cargo fmt --manifest-path fuzz/Cargo.toml --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo run --quiet --locked --package pyrite-bench --bin tidy
