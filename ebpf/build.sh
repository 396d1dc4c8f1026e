#!/bin/sh
# Builds the kernel programs, ebpf/chadthrottle.bpf.o and ebpf/counter.bpf.o, each with the
# record of what made it.
#
#   ebpf/build.sh          build, and replace the objects that are checked in
#   ebpf/build.sh --check  build elsewhere, and compare: with the recorded tools the bytes
#                          must be the same; with others it says so, and whether they differ
#
# Needs Debian 12 (as root, to install what is missing). The object does not depend on the
# directory it is built in. BPF_OBJECT=FILE writes chadthrottle.bpf.o there instead, and no other.
set -eu

linker_version=0.13.0
llvm=22

cd "$(dirname "$0")/.."
root=$PWD
cache=${XDG_CACHE_HOME:-$HOME/.cache}/chadthrottle

# Debian's compiler, which has libcore for the BPF target; not a rustup one before it.
rustc=/usr/bin/rustc
cargo=/usr/bin/cargo

install_packages() {
    echo "installing: $*" >&2
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >&2
}

# The compiler, and LLVM's strip: GNU strip cannot read BPF.
tools() {
    if [ ! -x $cargo ] || [ ! -d /usr/lib/rustlib/bpfel-unknown-none ]; then
        install_packages rustc-web cargo-web libstd-rust-web-dev-bpf gcc libc6-dev
    fi
    strip=$(command -v llvm-strip rust-strip | head -n 1)
    if [ -z "$strip" ]; then
        install_packages llvm
        strip=$(command -v llvm-strip)
    fi
}

# bpf-linker, against the compiler's own LLVM; kept, because it takes minutes.
linker() {
    linker=$cache/bpf-linker-$linker_version-llvm$llvm/bin/bpf-linker
    if [ ! -x "$linker" ] || ! "$linker" --version >/dev/null 2>&1; then
        library=$(ldconfig -p | sed -n "s/.*libLLVM.*$llvm.* => //p" | head -n 1)
        prefix=$(mktemp -d)
        mkdir "$prefix/lib"
        ln -s "$library" "$prefix/lib/libLLVM.so"
        LLVM_PREFIX=$prefix RUSTC=$rustc CARGO_TARGET_DIR=$prefix/target $cargo install \
            bpf-linker --version $linker_version --locked --no-default-features \
            --features llvm-$llvm --root "${linker%/bin/bpf-linker}" >&2
        rm -r "$prefix"
    fi
}

# Map definitions need full debug information. Everything is inlined: a BPF function takes at
# most five arguments, and its BTF cannot describe Rust's enums.
flags="-C link-arg=--btf -C link-arg=--llvm-args=--inline-threshold=100000 -C target-cpu=v3 \
    -C debuginfo=2 -C panic=abort"

build() { # BINARY TO
    target=$(mktemp -d)
    home=${CARGO_HOME:-$HOME/.cargo}
    env -u CARGO_ENCODED_RUSTFLAGS \
        RUSTC=$rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$target" CARGO_INCREMENTAL=0 \
        CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 \
        RUSTFLAGS="-C linker=$linker $flags --remap-path-prefix=$root=. \
            --remap-path-prefix=$home=/cargo --remap-path-prefix=$target=/target" \
        $cargo build --quiet --locked --release --package chadthrottle-ebpf \
        --bin "$1" --features kernel --target bpfel-unknown-none
    # Line information is a third of the object and helps nobody but the verifier's log.
    "$strip" -g -R .BTF.ext -R .rel.BTF.ext "$target/bpfel-unknown-none/release/$1" -o "$2"
    rm -r "$target"
}

tool_record() {
    echo "compiler: $($rustc --version)"
    echo "linker: $("$linker" --version)"
    echo "strip: $("$strip" --version | sed -n 's/.*\(LLVM version.*\)/\1/p')"
    echo "flags: $flags"
}

checksum() {
    sha256sum "$1" | cut -d ' ' -f 1
}

check() { # BINARY OBJECT
    rebuilt=$(mktemp)
    build "$1" "$rebuilt"
    if cmp -s "$rebuilt" "$2"; then
        echo "$2: rebuilt, the same bytes"
    elif [ "$(tool_record)" = "$(grep -v '^sha256: ' "$2.record")" ]; then
        echo "$2: the recorded tools give other bytes; run ebpf/build.sh" >&2
        exit 1
    else
        echo "$2: other tools than recorded give other bytes; test what they built" >&2
        tool_record | diff "$2.record" - >&2 || true
    fi
    rm "$rebuilt"
}

replace() { # BINARY OBJECT
    build "$1" "$2"
    { tool_record; echo "sha256: $(checksum "$2")"; } >"$2.record"
}

each() { # WHAT
    "$1" chadthrottle-kernel ebpf/chadthrottle.bpf.o
    "$1" chadthrottle-counter ebpf/counter.bpf.o
}

tools
linker
case "${1:-}" in
'')
    if [ -n "${BPF_OBJECT:-}" ]; then build chadthrottle-kernel "$BPF_OBJECT"; else each replace; fi
    ;;
--check) each check ;;
*)
    echo "usage: ebpf/build.sh [--check]" >&2
    exit 2
    ;;
esac
