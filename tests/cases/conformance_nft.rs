//! The conformance cases on the nftables backend.

chadthrottle_tests::conformance!("nft");
