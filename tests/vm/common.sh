# Sourced by the scripts here: where things are kept, and how they end.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${CHADTHROTTLE_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chadthrottle/vm}
mkdir -p "$cache"

# Ends with a message. Status 2: this machine or the mirror is the reason, nothing was tested.
give_up() {
    echo "${0##*/}: $*" >&2
    exit 2
}

# Packs the tree $1 as the cpio archive $2, all of it root's.
pack() {
    (cd "$1" && find . | LC_ALL=C sort | cpio --create --format=newc --owner=0:0 --quiet) > "$2.$$"
    mv "$2.$$" "$2"
}

# Builds what is tested, and the cases that run in the guest, unless CHADTHROTTLE_PROGRAMS says where
# they are.
build() {
    [ -n "${CHADTHROTTLE_PROGRAMS:-}" ] && return
    local what=(--release --locked --quiet --manifest-path "$root/Cargo.toml"
        --package chadthrottle --package chadthrottle-tests)
    cargo build "${what[@]}"
    cargo test --no-run "${what[@]}" --test conformance_tc --test tc_spaces --test update
}
