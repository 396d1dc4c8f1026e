//! The bpf(2) calls that aya keeps private.
