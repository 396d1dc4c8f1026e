# chadthrottle. `make run` and `make test` do all their own set-up on Debian 12 with Rust.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
# Tests and the demonstration need root; building does not. An empty runner is an error.
ifneq ($(SUDO),)
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER = $(SUDO)
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER = $(SUDO)
endif

BUILD_PACKAGES := gcc libc6-dev pkg-config libnftnl-dev libmnl-dev iproute2
BENCH_PACKAGES = $(TEST_PACKAGES) iputils-ping python3-venv trickle wondershaper
KERNEL_PACKAGES := iproute2 qemu-system-x86 busybox-static kmod cpio xz-utils zstd iperf3 bpftool \
    binutils nftables
TEST_PACKAGES := $(BUILD_PACKAGES) bpftool iperf3 curl nftables util-linux procps tmux

KERNEL :=

.PHONY: run build test test-kernels lint bench picture man ebpf ebpf-check clean

# Builds and starts `sudo chadthrottle run ARGS`; without ARGS and without a terminal it
# limits a short built-in transfer and shows the rate it got.
run: packages-run build
	@if [ -z "$(ARGS)" ] && ! [ -t 0 -a -t 1 ]; \
	then $(SUDO) target/release/chadthrottle demo; \
	else $(SUDO) target/release/chadthrottle run $(ARGS); fi

build:
	cargo build --release --locked --package chadthrottle

# Everything: unit tests, cases on this kernel, and the kernels in QEMU.
test: packages-test packages-kernels lint
	tests/run-all

# Debian kernels in QEMU: which backends work there, and that the chosen one holds its limit.
# KERNEL=6.12 for one series.
test-kernels: packages-run packages-kernels
	tests/vm/matrix $(KERNEL)

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings

# Writes docs/benchmarks.md; ARGS='--grid brief --backend nft "tcp upload"' for other cells.
bench: packages-bench build
	cargo build --release --locked --package chadthrottle-tests
	[ -x target/peers/bin/tt ] || { python3 -m venv target/peers && target/peers/bin/pip install -q traffictoll==1.5.0; }
	$(SUDO) target/release/bench --output docs/benchmarks.md $(ARGS)

# Writes the README's picture: the live view on a real terminal, limiting a live transfer.
picture: packages-test build
	cargo build --release --locked --package chadthrottle-tests
	$(SUDO) target/release/picture docs/view.svg

# Writes the manual pages from what --help says.
man: packages-run
	CHADTHROTTLE_MAN=write cargo test --quiet --locked --package chadthrottle manual

# Rebuilds the kernel objects that are checked in; users need not.
ebpf:
	ebpf/build.sh

# Rebuilds it elsewhere and compares: the same tools must give the same bytes.
ebpf-check:
	ebpf/build.sh --check

clean:
	cargo clean

# Installs what is missing, and nothing when nothing is.
packages-run: PACKAGES = $(BUILD_PACKAGES)
packages-test: PACKAGES = $(TEST_PACKAGES)
packages-bench: PACKAGES = $(BENCH_PACKAGES)
packages-kernels: PACKAGES = $(KERNEL_PACKAGES)
packages-run packages-test packages-bench packages-kernels:
	@missing=$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; \
	done); \
	if [ -n "$$missing" ]; then \
	    $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
	fi
