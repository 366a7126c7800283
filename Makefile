# What one does with this tree. Namespaces need root: run as root or as somebody who may sudo.
# A clean machine with Rust, gcc, git and make is enough; what else is needed is installed by scripts/ensure-tools.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Seconds for each fuzz target.
FUZZ_SECONDS ?= 60

.PHONY: help build demo test test-long unit namespace-tests container-tests lint licences fuzz miri clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | awk -F'\t' '{ printf "  make %-16s %s\n", $$1, $$2 }'

build: ## the executable, optimised: target/release/minivpn
	$(CARGO) build --release -p minivpn

demo: ## our gateway by one command, our client, 10 s of traffic, nothing left behind
	scripts/demo

test: unit licences namespace-tests ## everything, with the short form of the namespace tests

test-long: export MINIVPN_TEST_LONG = 1
test-long: unit licences namespace-tests container-tests ## everything, complete: 1,000 seeds, the whole matrix, 20 renegotiations each, 200 MB transfers

# The ring backend first: the executable that it leaves is replaced by the default one's.
# The feature `faults` stands in a command of its own, so that it is in no other build.
# loom recompiles everything under its own cfg, hence a directory of its own; three preemptions find what there is to find,
# and without a bound the models take hours.
# ipsec-mb is loaded by the tests of the data plane, hence ensure-tools.
unit: ## unit tests with both cryptography backends, calls that fail (feature faults), and the model of the ring
	scripts/ensure-tools
	$(CARGO) test -p controlplane -p dataplane -p minivpn --no-default-features --features ring
	$(CARGO) test --workspace --exclude tests --exclude benches
	$(CARGO) test -p benches --lib
	$(CARGO) test -p dataplane --features trial --lib sys::
	$(CARGO) test -p dataplane --features faults --test faults --test split_faults
	$(CARGO) test -p tests --lib
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 $(CARGO) test -p link --release --test loom --target-dir $(TARGET)/loom

namespace-tests: ## the real kernel and a stock OpenVPN; as root or through sudo
	scripts/namespace-tests

container-tests: ## the image under podman with both seccomp profiles, a stock client through it; installs podman and runc
	scripts/container-tests

lint: ## formatting, and clippy with both backends
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p dataplane --all-targets --features faults -- -D warnings
	$(CARGO) clippy -p controlplane -p dataplane -p minivpn --all-targets --no-default-features --features ring -- -D warnings

licences: ## every dependency's licence, and that one cryptography backend is linked
	$(CARGO) test -p tests --test licences

fuzz: ## every fuzz target for FUZZ_SECONDS (60) each; needs cargo-fuzz and a nightly toolchain
	cd fuzz && for target in $$($(CARGO) fuzz list); do \
		$(CARGO) fuzz run --features libfuzzer "$$target" -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

# The ring backend: Miri runs none of it, and its build is shorter. What makes system calls or calls C cannot run: see MIRI_TESTS.
# A second time with AVX2, whose loads Miri checks as well. Generated cases are few, because Miri is slow; proptest wants the current directory.
MIRI := MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=8
MIRI_TESTS ?= tun:: sys::simd sys::arena sys::cmsg sys::wire sys::zerocopy::completions networkio:: datachannel::replay datachannel::header datachannel::ping datachannel::mssfix packetmuxer peers::routes
miri: ## the pure buffer code under Miri; needs a nightly toolchain with the miri component
	$(MIRI) $(CARGO) +nightly miri test -p dataplane --no-default-features --features ring,trial --lib --target-dir $(TARGET)/miri -- $(MIRI_TESTS)
	$(MIRI) RUSTFLAGS="-C target-feature=+avx2" $(CARGO) +nightly miri test -p dataplane --no-default-features --features ring --lib --target-dir $(TARGET)/miri-avx2 -- sys::simd

clean: ## build output, and whatever a killed test left
	$(CARGO) clean
	scripts/as-root scripts/sweep
