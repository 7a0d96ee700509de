# The menu. `make run` and `make test` do all the set-up a fresh Debian 12 or Ubuntu machine with git, make and
# rustup needs; the other targets are their parts.

SHELL := /bin/bash
.DEFAULT_GOAL := help
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR
PREFIX ?= /usr/local
DESTDIR ?=
BINARY := $(CARGO_TARGET_DIR)/release/pyrite
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## build Pyrite and start it on this node (ARGS="--listen …" is passed on)
	@bench/dev/as-root.sh $(BINARY) run $(ARGS)

.PHONY: build
build: deps-build page ## build the release binary with its page
	cargo build --release --locked --package pyrite

.PHONY: page
page: ## build the web page into ui/web/dist
	@bench/dev/page.sh build

.PHONY: test
test: deps-test page ## everything CI runs: format, lints, tidy, unit, integration, privileged, page
	@bench/dev/test.sh

.PHONY: lint
lint: deps-build deps-fuzz page ## format, clippy and tidy only
	@bench/dev/lint.sh

.PHONY: bench
bench: build ## the overhead harness; see bench/README.md for the others
	@bench/dev/as-root.sh $$(command -v cargo) run --release --locked --package pyrite-bench --bin overhead -- $(ARGS)

.PHONY: bench-hot
bench-hot: deps-build page ## CPU time of each hot path, each result asserted (ARGS="push flame" chooses)
	cargo bench --locked --package pyrite-bench --bench hot -- $(ARGS)

.PHONY: bench-days
bench-days: deps-build page ## a day of fifty containers in the store by itself: bytes at rest, cold and warm queries
	cargo bench --locked --package pyrite-bench --bench days -- $(ARGS)

.PHONY: bench-store
bench-store: build ## an hour of fifty containers pushed and asked for over HTTP (ARGS="--url …" adds other servers)
	cargo run --release --locked --package pyrite-bench --bin store-load -- --pyrite $(BINARY) $(ARGS)

.PHONY: kernels
kernels: deps-kernels build ## Debian's 5.10, 6.1 and 6.12 kernels under QEMU, and the running one (ARGS="6.1 hotplug" chooses)
	@bench/dev/as-root.sh bench/kernels/run.sh $(ARGS)

.PHONY: fuzz
fuzz: deps-fuzz ## every parser on mutated input, each for a minute (ARGS="--seconds 600 elf maps" chooses)
	@fuzz/run.sh $(ARGS)

.PHONY: bench-unwind
bench-unwind: deps-build page ## unwind tables: CPU time and memory of each, and large executables against gimli
	cargo bench --locked --package pyrite-bench --bench hot -- unwind
	cargo test --release --locked --package pyrite-unwind --test it -- --ignored --nocapture

.PHONY: accuracy
accuracy: deps-build deps-accuracy page ## how often stacks are right, by an independent judge (ARGS="--seconds 5 chain go" chooses)
	@bench/dev/as-root.sh $$(command -v cargo) bench --locked --package pyrite-bench --bench accuracy -- $(ARGS)

.PHONY: bench-switches
bench-switches: deps-test ## what a context switch costs beside an empty program, as root, judged by its bound
	cargo test --locked --package pyrite-bpf --test it bpf_switch_cost -- --nocapture

.PHONY: install
install: build ## put the binary and the systemd unit in place
	install -D -m 0755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/pyrite
	install -d -m 0755 $(DESTDIR)/etc/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' profiler/agent/pyrite.service > $(DESTDIR)/etc/systemd/system/pyrite.service
	@echo 'installed; start it with: systemctl daemon-reload && systemctl enable --now pyrite'

.PHONY: deps-build
deps-build:
	@bench/dev/packages.sh build

.PHONY: deps-kernels
deps-kernels:
	@bench/dev/packages.sh build kernels

.PHONY: deps-fuzz
deps-fuzz:
	@bench/dev/packages.sh build fuzz

.PHONY: deps-accuracy
deps-accuracy:
	@bench/dev/packages.sh accuracy

.PHONY: deps-test
deps-test:
	@bench/dev/packages.sh build test fuzz
