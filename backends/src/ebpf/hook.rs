//! The places on a cgroup where our programs are attached.

use crate::bpf::AttachType;

/// In the order in which they are attached: the sockets must be known before their packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    SockCreate,
    SockOps,
    Ingress,
    Egress,
}

impl Hook {
    pub(super) const ALL: [Self; 4] =
        [Self::SockCreate, Self::SockOps, Self::Ingress, Self::Egress];

    /// The name of its program in the object.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::SockCreate => "chadthrottle_sock_create",
            Self::SockOps => "chadthrottle_sockops",
            Self::Ingress => "chadthrottle_ingress",
            Self::Egress => "chadthrottle_egress",
        }
    }

    /// What the log calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::SockCreate => "sock_create",
            Self::SockOps => "sock_ops",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    pub(super) fn attach_type(self) -> AttachType {
        match self {
            Self::SockCreate => AttachType::InetSockCreate,
            Self::SockOps => AttachType::SockOps,
            Self::Ingress => AttachType::InetIngress,
            Self::Egress => AttachType::InetEgress,
        }
    }
}
