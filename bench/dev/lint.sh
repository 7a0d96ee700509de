#!/usr/bin/env bash
# Format, lints and tidy: what needs no privilege and no test.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo fmt --all --check
# A workspace of its own, with a lock file that nobody notices to be out of date before `make fuzz` refuses it.
cargo fmt --manifest-path fuzz/Cargo.toml --check
cargo update --quiet --workspace --locked --manifest-path fuzz/Cargo.toml
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo run --quiet --locked --package pyrite-bench --bin tidy
