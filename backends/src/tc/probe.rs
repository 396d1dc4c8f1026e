//! What this kernel lets the backend do, by real calls.

use chadthrottle_core::{
    Host,
    check::{Check, ProbeReport, Remedy, Verdict},
    host::missing_capabilities,
};
use rustix::thread::CapabilitySet;

/// Asks in the order in which things are needed, and stops at the first no.
pub(super) fn probe(_: &Host) -> ProbeReport {
    let missing =
        missing_capabilities(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_PTRACE).join(", ");
    let works = missing.is_empty();
    ProbeReport {
        checks: vec![Check {
            name: "capabilities",
            asked: "use the capabilities for devices, filters and the sockets of others"
                .to_owned(),
            verdict: if works { Verdict::Works } else { Verdict::Denied },
            evidence: if works {
                "all there".to_owned()
            } else {
                format!("the effective set lacks {missing}")
            },
            remedy: if works { Remedy::None } else { Remedy::GrantCapability(missing) },
        }],
    }
}
