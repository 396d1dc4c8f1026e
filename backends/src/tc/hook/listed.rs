//! What the kernel lists of a hook.

use chadthrottle_core::{Direction, Error, ErrorKind, Result};
use netlink_packet_route::{RouteNetlinkMessage, tc::TcMessage};

use super::{FIRST_PREFERENCE, spot};
use crate::{
    links::Link,
    rtnetlink::{Refusal, Reply, Socket, attributes, text_of, u32_of},
    tc::{message::Spot, u32::COOKIE},
};

/// `struct tcmsg`.
pub(super) const HEADER: usize = 20;
/// `TCA_KIND`, `TCA_OPTIONS`.
pub(super) const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_U32_SEL`, `TCA_U32_MARK`.
const SELECTOR: u16 = 5;
const MARK: u16 = 10;
/// Tables of u32 belong to all filters of a hook; `tc` and the kernel take low numbers, or 0x800
/// and up.
pub(super) const FIRST_TABLE: u32 = 0x600;
pub(super) const TABLES: u32 = 0x800;

/// The bits of a handle that number a filter within a bucket of a table; 0 is the bucket itself.
pub(in crate::tc) const NODES: u32 = 0xfff;

/// A filter or table as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tc) struct Listed {
    pub(in crate::tc) preference: u16,
    pub(in crate::tc) kind: String,
    /// 0 for the line that stands for all of a preference.
    pub(in crate::tc) handle: u32,
    /// The bytes of a u32 filter's selector.
    pub(in crate::tc) selector: Vec<u8>,
    /// The mark that a u32 filter asks for, and its mask.
    pub(in crate::tc) mark: Option<[u32; 2]>,
    /// It carries the cookie of our actions.
    pub(in crate::tc) ours: bool,
}

impl Listed {
    /// Whether a preference is one of ours, of this or another instance.
    pub(super) fn is_ours(&self) -> bool {
        self.ours || (self.kind == "u32" && self.preference >= FIRST_PREFERENCE)
    }
}

/// Numbers for so many tables that nobody uses at either hook of this interface.
pub(in crate::tc) fn free_tables<const COUNT: usize>(
    rt: &mut Socket,
    link: &Link,
) -> Result<[u32; COUNT]> {
    let mut listed = list(rt, spot(link.index, Direction::Download))?;
    listed.extend(list(rt, spot(link.index, Direction::Upload))?);
    let used = |table: u32| listed.iter().any(|filter| filter.handle >> 20 == table);
    let free = (FIRST_TABLE..TABLES).filter(|&table| !used(table)).take(COUNT);
    free.collect::<Vec<_>>().try_into().map_err(|_| no_table(link))
}

/// No number is left for a table, or for a filter in one.
pub(in crate::tc) fn no_table(link: &Link) -> Error {
    Error::new(ErrorKind::Failed, "find free u32 tables on", &link.name)
        .meaning("Hundreds of instances have filters there.")
        .advice("Run chadthrottle clean.")
}

/// The filters of one hook; none when the interface or the qdisc is gone.
pub(in crate::tc) fn list(rt: &mut Socket, spot: Spot) -> Result<Vec<Listed>> {
    listed(rt, spot)
        .map_err(|refusal| refusal.explain("list the filters of interface", spot.link))
}

pub(super) fn listed(rt: &mut Socket, spot: Spot) -> Result<Vec<Listed>, Refusal> {
    let mut request = TcMessage::default();
    request.header.index = spot.link.cast_signed();
    request.header.parent = spot.parent;
    match rt.dump(RouteNetlinkMessage::GetTrafficFilter(request)) {
        Ok(replies) => Ok(replies.iter().filter_map(parse).collect()),
        Err(refusal) if is_gone(&refusal) => Ok(Vec::new()),
        Err(refusal) => Err(refusal),
    }
}

fn parse(reply: &Reply) -> Option<Listed> {
    let header = reply.payload.get(..HEADER)?;
    let mut listed = Listed {
        preference: (u32_of(&header[16..])? >> 16) as u16,
        kind: String::new(),
        handle: u32_of(&header[8..])?,
        selector: Vec::new(),
        mark: None,
        ours: reply.payload.windows(COOKIE.len()).any(|bytes| bytes == COOKIE),
    };
    for (kind, value) in attributes(&reply.payload, HEADER) {
        match kind {
            KIND => listed.kind = text_of(value),
            OPTIONS => {
                for (kind, value) in attributes(value, 0) {
                    match kind {
                        SELECTOR => listed.selector = value.to_vec(),
                        MARK => {
                            let mask = value.get(4..).and_then(u32_of);
                            listed.mark = u32_of(value).zip(mask).map(Into::into);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(listed)
}

/// The interface, the qdisc, the preference or the filter does not exist (any more).
pub(super) fn is_gone(refusal: &Refusal) -> bool {
    matches!(refusal.code(), libc::ENOENT | libc::ENODEV | libc::EINVAL)
}
