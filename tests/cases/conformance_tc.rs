//! The conformance cases on the tc backend.

chadthrottle_tests::conformance!("tc");
