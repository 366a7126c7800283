# What one does with this tree. Namespaces need root: run as root or as somebody who may sudo.
# A clean machine with Rust, gcc, git and make is enough; what else is needed is installed by scripts/ensure-tools.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Seconds for each fuzz target.
FUZZ_SECONDS ?= 60

.PHONY: help build demo test test-long unit namespace-tests lint licences fuzz clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | awk -F'\t' '{ printf "  make %-16s %s\n", $$1, $$2 }'

build: ## the executable, optimised: target/release/minivpn
	$(CARGO) build --release -p minivpn

demo: ## a stock OpenVPN server, our client, 10 s of traffic, nothing left behind
	scripts/demo

test: unit licences namespace-tests ## everything, with the short form of the namespace tests

test-long: export MINIVPN_TEST_LONG = 1
test-long: unit licences namespace-tests ## everything, complete: 1,000 seeds, the whole matrix, 20 renegotiations each, 200 MB transfers

# The ring backend first: the executable that it leaves is replaced by the default one's.
# loom recompiles everything under its own cfg, hence a directory of its own; three preemptions find what there is to find,
# and without a bound the models take hours.
# ipsec-mb is loaded by the tests of the data plane, hence ensure-tools.
unit: ## unit tests with both cryptography backends, and the model of the ring
	scripts/ensure-tools
	$(CARGO) test -p controlplane -p dataplane -p minivpn --no-default-features --features ring
	$(CARGO) test --workspace --exclude tests
	$(CARGO) test -p tests --lib
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 $(CARGO) test -p link --release --test loom --target-dir $(TARGET)/loom

namespace-tests: ## the real kernel and a stock OpenVPN; as root or through sudo
	scripts/namespace-tests

lint: ## formatting, and clippy with both backends
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p controlplane -p dataplane -p minivpn --all-targets --no-default-features --features ring -- -D warnings

licences: ## every dependency's licence, and that one cryptography backend is linked
	$(CARGO) test -p tests --test licences

fuzz: ## every fuzz target for FUZZ_SECONDS (60); needs cargo-fuzz and a nightly toolchain
	cd fuzz && for target in $$($(CARGO) fuzz list); do \
		$(CARGO) fuzz run --features libfuzzer "$$target" -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

clean: ## build output, and whatever a killed test left
	$(CARGO) clean
	scripts/as-root scripts/sweep
