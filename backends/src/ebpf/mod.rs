//! The eBPF backend: BPF programs on cgroups.
