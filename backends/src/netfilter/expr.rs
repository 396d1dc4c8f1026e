//! Expressions that the nftnl crate lacks.

use std::{ffi::CStr, fmt};

use nftnl::{
    Rule,
    expr::Expression,
    nftnl_sys::{self as nft, libc},
};

use super::{
    map::Map,
    sys::{OBJECT_COUNTER, Raw, Value},
};

/// `limit rate over R bytes/second burst B bytes`: true for what is too much.
///
/// The kernel's bucket holds R + B bytes (`nft_limit_init`, `net/netfilter/nft_limit.c`) and is
/// full at first. It counts the bytes of packets as they are at this hook: in `input` and
/// `output` from the IP header on, in netdev egress with the link's header.
#[derive(Debug, Clone, Copy)]
pub struct LimitOver {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes beyond one second of the rate.
    pub burst: u32,
}

impl Expression for LimitOver {
    fn to_expr(&self, rule: &Rule<'_>) -> std::ptr::NonNull<nft::nftnl_expr> {
        let bytes = libc::NFT_LIMIT_PKT_BYTES as u32;
        let inverted = libc::NFT_LIMIT_F_INV as u32;
        let values = vec![
            (nft::NFTNL_EXPR_LIMIT_RATE, Value::U64(self.rate)),
            (nft::NFTNL_EXPR_LIMIT_UNIT, Value::U64(1)), // second
            (nft::NFTNL_EXPR_LIMIT_BURST, Value::U32(self.burst)),
            (nft::NFTNL_EXPR_LIMIT_TYPE, Value::U32(bytes)),
            (nft::NFTNL_EXPR_LIMIT_FLAGS, Value::U32(inverted)),
        ];
        Raw { name: c"limit", values }.to_expr(rule)
    }
}

/// `counter name "x"`: counts in a named counter.
#[derive(Debug, Clone, Copy)]
pub struct CountIn<'a>(pub &'a CStr);

impl Expression for CountIn<'_> {
    fn to_expr(&self, rule: &Rule<'_>) -> std::ptr::NonNull<nft::nftnl_expr> {
        let values = vec![
            (nft::NFTNL_EXPR_OBJREF_IMM_TYPE, Value::U32(OBJECT_COUNTER)),
            (nft::NFTNL_EXPR_OBJREF_IMM_NAME, Value::Text(self.0.to_owned())),
        ];
        Raw { name: c"objref", values }.to_expr(rule)
    }
}

/// `vmap @x` of what register 1 holds: goes on where the map says.
#[derive(Debug, Clone, Copy)]
pub struct GoByMap<'a>(pub &'a Map);

impl Expression for GoByMap<'_> {
    fn to_expr(&self, rule: &Rule<'_>) -> std::ptr::NonNull<nft::nftnl_expr> {
        let values = vec![
            (nft::NFTNL_EXPR_LOOKUP_SREG, Value::U32(libc::NFT_REG_1 as u32)),
            (nft::NFTNL_EXPR_LOOKUP_DREG, Value::U32(libc::NFT_REG_VERDICT as u32)),
            (nft::NFTNL_EXPR_LOOKUP_SET, Value::Text(self.0.name.clone())),
            (nft::NFTNL_EXPR_LOOKUP_SET_ID, Value::U32(self.0.id)),
        ];
        Raw { name: c"lookup", values }.to_expr(rule)
    }
}

/// How a packet gets to user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueBy {
    /// The expression `queue` (`nft_queue`, `CONFIG_NFT_QUEUE`).
    Queue,
    /// The target `NFQUEUE` of iptables (`xt_NFQUEUE`), through `nft_compat`.
    Target,
}

impl fmt::Display for QueueBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "nft_queue",
            Self::Target => "nft_compat and xt_NFQUEUE",
        })
    }
}

/// `queue num N`: hands the packet to whoever serves this queue of `nfnetlink_queue`.
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    /// Its number.
    pub number: u16,
    /// When nobody serves it the packet goes on to the next chain instead of being dropped.
    pub bypass: bool,
    /// What the kernel has.
    pub by: QueueBy,
}

impl Expression for Queue {
    fn to_expr(&self, rule: &Rule<'_>) -> std::ptr::NonNull<nft::nftnl_expr> {
        let bypass = u16::from(self.bypass); // NFT_QUEUE_FLAG_BYPASS, NFQ_FLAG_BYPASS: 1
        match self.by {
            QueueBy::Queue => {
                let values = vec![
                    (nft::NFTNL_EXPR_QUEUE_NUM, Value::U16(self.number)),
                    (nft::NFTNL_EXPR_QUEUE_TOTAL, Value::U16(1)),
                    (nft::NFTNL_EXPR_QUEUE_FLAGS, Value::U16(bypass)),
                ];
                Raw { name: c"queue", values }.to_expr(rule)
            }
            QueueBy::Target => {
                // struct xt_NFQ_info_v3, padded to 8 bytes as XT_ALIGN does.
                let info = [self.number, 1, bypass, 0];
                let info = info.iter().flat_map(|field| field.to_ne_bytes()).collect();
                let values = vec![
                    (nft::NFTNL_EXPR_TG_NAME, Value::Text(c"NFQUEUE".to_owned())),
                    (nft::NFTNL_EXPR_TG_REV, Value::U32(3)),
                    (nft::NFTNL_EXPR_TG_INFO, Value::Owned(info)),
                ];
                Raw { name: c"target", values }.to_expr(rule)
            }
        }
    }
}
