#!/usr/bin/env bash
# Format, lints and tidy: what needs no privilege and no test.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo fmt --all --check
# A workspace of its own, of which nobody notices before `make fuzz` refuses it that its lock file is out of date or that it
# does not compile any more.
cargo fmt --manifest-path fuzz/Cargo.toml --check
cargo update --quiet --workspace --locked --manifest-path fuzz/Cargo.toml
RUSTFLAGS="--cfg fuzzing" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/fuzz/lint" PYRITE_PAGE=none \
  cargo clippy --quiet --no-deps --locked --manifest-path fuzz/Cargo.toml -- -D warnings
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo run --quiet --locked --package pyrite-bench --bin tidy
