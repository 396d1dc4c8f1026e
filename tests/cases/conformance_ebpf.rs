//! The conformance cases on the eBPF backend.

chadthrottle_tests::conformance!("ebpf");
