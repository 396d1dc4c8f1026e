//! Where our filters hang: the clsact qdisc of an interface, which may be somebody else's.

use std::{thread, time::Duration};

use chadthrottle_core::{
    BackendId, Direction, Error, ErrorKind, Host, Result,
    journal::{Entry, Exclusive, Journal, Undo, exclusive},
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};

use super::{
    message::{EGRESS, INGRESS, NEW, Spot, filter, queueing},
    u32::COOKIE,
};
use crate::{
    links::Link,
    netns::Netns,
    rtnetlink::{Refusal, Reply, Socket, attributes, text_of, u32_of},
};

/// `struct tcmsg`.
const HEADER: usize = 20;
/// `TCA_KIND`, `TCA_OPTIONS`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_U32_SEL`, `TCA_U32_MARK`.
const SELECTOR: u16 = 5;
const MARK: u16 = 10;
/// Our preferences: behind those that tools hand out by themselves (49152 and down), so that
/// whoever filters on purpose is asked first.
const FIRST_PREFERENCE: u16 = 0xd000;
/// Tables of u32 belong to all filters of a hook; `tc` and the kernel take low numbers, or 0x800
/// and up.
const FIRST_TABLE: u32 = 0x600;
const TABLES: u32 = 0x800;
/// The kernel frees a filter some time after it is deleted; until then what it led to is in use.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// A limit has so many preferences in a row: for downloads and uploads, IPv4 and IPv6 each. u32
/// keeps the tables of both hooks of a clsact qdisc together, by preference.
const PREFERENCES: u16 = 4;

/// IPv4 and IPv6: the ethertypes of a direction's two preferences.
pub(super) const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];

/// Which hook a direction uses.
pub(super) fn parent(direction: Direction) -> TcHandle {
    match direction {
        Direction::Download => INGRESS,
        Direction::Upload => EGRESS,
    }
}

/// A filter or table as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) preference: u16,
    pub(super) kind: String,
    /// 0 for the line that stands for all of a preference.
    pub(super) handle: u32,
    /// The bytes of a u32 filter's selector.
    pub(super) selector: Vec<u8>,
    /// The mark that a u32 filter asks for, and its mask.
    pub(super) mark: Option<[u32; 2]>,
    /// It carries the cookie of our actions.
    pub(super) ours: bool,
}

/// Our place on an interface.
#[derive(Debug)]
pub(super) struct Hook {
    pub(super) link: Link,
    /// The first of our preferences.
    preference: u16,
    entry: Option<Entry>,
    made_clsact: bool,
    /// Filters of others that are asked before ours, by hook.
    pub(super) others: Vec<Direction>,
}

impl Hook {
    /// Takes a place on an interface, recorded first; makes the clsact qdisc when there is none.
    pub(super) fn take(
        rt: &mut Socket,
        netns: &Netns,
        link: &Link,
        directions: &[Direction],
        journal: Option<(&Journal, &Host)>,
    ) -> Result<Self> {
        // Other instances of ours may be about to make or delete the same qdisc.
        let guard = journal.map(|(_, host)| exclusive(host)).transpose()?;
        let found = holder(rt, link)?;
        if found == Holder::Ingress && directions.contains(&Direction::Upload) {
            return Err(ingress_in_the_way(link));
        }
        let listed = Direction::BOTH
            .iter()
            .map(|&direction| Ok((direction, list(rt, spot(link.index, direction))?)))
            .collect::<Result<Vec<_>>>()?;
        let used = || listed.iter().flat_map(|(_, filters)| filters);
        let taken =
            |free: u16| used().any(|filter| filter.preference & !(PREFERENCES - 1) == free);
        let preference = (FIRST_PREFERENCE..u16::MAX)
            .step_by(usize::from(PREFERENCES))
            .find(|&free| !taken(free))
            .ok_or_else(|| full(link))?;
        let others = listed
            .iter()
            .filter(|(direction, filters)| {
                directions.contains(direction) && filters.iter().any(|filter| !filter.is_ours())
            })
            .map(|(direction, _)| *direction)
            .collect();
        let made_clsact = found == Holder::None
            || guard.as_ref().zip(journal).is_some_and(|(guard, (_, host))| {
                made_by_chadthrottle(guard, host, netns, link)
            });
        let mut hook =
            Self { link: link.clone(), preference, entry: None, made_clsact, others };
        if let Some((journal, _)) = journal {
            let undo = Undo::Filters {
                netns: netns.id(),
                link: link.index,
                name: link.name.clone(),
                preference,
                made_clsact,
            };
            hook.entry = Some(journal.record(Some(BackendId::Tc), &undo)?);
        }
        if found == Holder::None
            && let Err(refusal) = add_clsact(rt, link.index)
        {
            if let (Some((journal, _)), Some(entry)) = (journal, hook.entry) {
                journal.done(entry)?;
            }
            return Err(no_clsact(link, refusal));
        }
        Ok(hook)
    }

    /// Deletes our filters and tables, and the qdisc when it is of our making and nobody uses it.
    /// An interface that is gone has taken everything with it.
    pub(super) fn release(
        self,
        rt: &mut Socket,
        journal: Option<(&Journal, &Host)>,
    ) -> Result<()> {
        let guard = journal.map(|(_, host)| exclusive(host)).transpose()?;
        remove(rt, self.link.index, self.preference, self.made_clsact)
            .map_err(|refusal| cannot_remove(&self.link.name, refusal))?;
        drop(guard);
        match (journal, self.entry) {
            (Some((journal, _)), Some(entry)) => journal.done(entry),
            _ => Ok(()),
        }
    }

    pub(super) fn spot(&self, direction: Direction) -> Spot {
        spot(self.link.index, direction)
    }

    /// The preference of a direction and a family: 0 is IPv4, 1 is IPv6.
    pub(super) fn preference(&self, direction: Direction, family: usize) -> u16 {
        first(self.preference, direction) + family as u16
    }
}

impl Listed {
    /// Whether a preference is one of ours, of this or another instance.
    fn is_ours(&self) -> bool {
        self.ours || (self.kind == "u32" && self.preference >= FIRST_PREFERENCE)
    }
}

/// The first of a direction's two preferences.
fn first(preference: u16, direction: Direction) -> u16 {
    match direction {
        Direction::Download => preference,
        Direction::Upload => preference + 2,
    }
}

pub(super) fn spot(link: u32, direction: Direction) -> Spot {
    Spot { link, parent: parent(direction) }
}

/// Numbers for so many tables that nobody uses at either hook of this interface.
pub(super) fn free_tables(rt: &mut Socket, link: u32, count: usize) -> Result<Vec<u32>> {
    let mut listed = list(rt, spot(link, Direction::Download))?;
    listed.extend(list(rt, spot(link, Direction::Upload))?);
    let used = |table: u32| listed.iter().any(|filter| filter.handle >> 20 == table);
    Ok((FIRST_TABLE..TABLES).filter(|&table| !used(table)).take(count).collect())
}

/// The filters of one hook; none when the interface or the qdisc is gone.
pub(super) fn list(rt: &mut Socket, spot: Spot) -> Result<Vec<Listed>> {
    listed(rt, spot)
        .map_err(|refusal| refusal.explain("list the filters of interface", spot.link))
}

fn listed(rt: &mut Socket, spot: Spot) -> Result<Vec<Listed>, Refusal> {
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

/// What holds the handle `ffff:` of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    None,
    Clsact,
    /// The older qdisc, which has no egress hook. Both at once are not possible.
    Ingress,
}

fn holder(rt: &mut Socket, link: &Link) -> Result<Holder> {
    let mut request = TcMessage::default();
    request.header.index = link.index.cast_signed();
    let replies = match rt.dump(RouteNetlinkMessage::GetQueueDiscipline(request)) {
        Ok(replies) => replies,
        Err(refusal) if is_gone(&refusal) => Vec::new(),
        Err(refusal) => return Err(refusal.explain("list the qdiscs of", &link.name)),
    };
    let kinds = replies.iter().filter_map(|reply| {
        // The dump is of all interfaces on kernels that do not filter it.
        let same = u32_of(reply.payload.get(4..)?)? == link.index;
        let kind = attributes(&reply.payload, HEADER).find(|(kind, _)| *kind == KIND)?.1;
        same.then(|| text_of(kind))
    });
    let mut holder = Holder::None;
    for kind in kinds {
        match kind.as_str() {
            "clsact" => holder = Holder::Clsact,
            "ingress" => holder = Holder::Ingress,
            _ => {}
        }
    }
    Ok(holder)
}

fn made_by_chadthrottle(guard: &Exclusive, host: &Host, netns: &Netns, link: &Link) -> bool {
    let recorded = guard.recorded(host).unwrap_or_default();
    recorded.iter().any(|undo| match undo {
        Undo::Filters { netns: id, link: index, made_clsact, .. } => {
            *made_clsact && (*id, *index) == (netns.id(), link.index)
        }
        _ => false,
    })
}

fn clsact(link: u32) -> TcMessage {
    let spot = Spot { link, parent: TcHandle::CLSACT };
    queueing(spot, TcHandle { major: u16::MAX, minor: 0 }, "clsact", ())
}

fn add_clsact(rt: &mut Socket, link: u32) -> Result<(), Refusal> {
    rt.execute(RouteNetlinkMessage::NewQueueDiscipline(clsact(link)), NEW)
}

/// Deletes all of our preferences from both hooks, and the qdisc if it is ours and empty.
///
/// First what decides, so that packets pass freely at once; then the tables, which are in use
/// until the kernel has freed what led to them, and which would stay if somebody else has u32
/// filters at the same hook.
pub(super) fn remove(
    rt: &mut Socket,
    link: u32,
    preference: u16,
    made_clsact: bool,
) -> Result<(), Refusal> {
    for direction in Direction::BOTH {
        let (spot, preference) = (spot(link, direction), first(preference, direction));
        let mut ours = listed(rt, spot)?;
        ours.retain(|filter| filter.preference & !1 == preference);
        let tables: Vec<&Listed> = ours.iter().filter(|filter| is_table(filter)).collect();
        let roots = ours.iter().filter(|filter| {
            let table = filter.handle >> 20;
            // What hangs in a table of ours goes with it.
            filter.handle & 0xfff != 0 && !tables.iter().any(|t| t.handle >> 20 == table)
        });
        let roots: Vec<_> = roots.map(|filter| delete_message(spot, filter)).collect();
        rt.execute_all(roots.into_iter().map(|message| (message, 0)))?;
        for table in tables {
            delete_table(rt, spot, table)?;
        }
        for (number, ethertype) in ETHERTYPES.iter().enumerate() {
            let all = filter(spot, 0, preference + number as u16, *ethertype, Vec::new());
            match rt.execute(RouteNetlinkMessage::DelTrafficFilter(all), 0) {
                Err(refusal) if !is_gone(&refusal) => return Err(refusal),
                _ => {}
            }
        }
    }
    if made_clsact { remove_clsact(rt, link) } else { Ok(()) }
}

/// Tables we made, not the one that each preference has by itself.
fn is_table(filter: &Listed) -> bool {
    let table = filter.handle >> 20;
    filter.handle.trailing_zeros() >= 20 && (FIRST_TABLE..TABLES).contains(&table)
}

fn delete_message(spot: Spot, listed: &Listed) -> RouteNetlinkMessage {
    let ethertype = ETHERTYPES[usize::from(listed.preference & 1)];
    let message = filter(spot, listed.handle, listed.preference, ethertype, Vec::new());
    RouteNetlinkMessage::DelTrafficFilter(message)
}

fn delete_table(rt: &mut Socket, spot: Spot, table: &Listed) -> Result<(), Refusal> {
    let rounds = PATIENCE.as_millis() / PAUSE.as_millis();
    for _ in 0..rounds {
        match rt.execute(delete_message(spot, table), 0) {
            Err(refusal) if refusal.code() == libc::EBUSY => thread::sleep(PAUSE),
            Err(refusal) if !is_gone(&refusal) => return Err(refusal),
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn remove_clsact(rt: &mut Socket, link: u32) -> Result<(), Refusal> {
    let used = Direction::BOTH.iter().any(|&direction| {
        list(rt, spot(link, direction)).is_ok_and(|filters| !filters.is_empty())
    });
    if used {
        return Ok(());
    }
    match rt.execute(RouteNetlinkMessage::DelQueueDiscipline(clsact(link)), 0) {
        Err(refusal) if !is_gone(&refusal) => Err(refusal),
        _ => Ok(()),
    }
}

/// The interface, the qdisc, the preference or the filter does not exist (any more).
pub(super) fn is_gone(refusal: &Refusal) -> bool {
    matches!(refusal.code(), libc::ENOENT | libc::ENODEV | libc::EINVAL)
}

fn ingress_in_the_way(link: &Link) -> Error {
    Error::new(ErrorKind::Failed, "add a clsact qdisc to", &link.name)
        .meaning(
            "Somebody's ingress qdisc is there; it excludes clsact and has no hook for uploads.",
        )
        .advice(format!(
            "Ask its owner to use clsact (tc qdisc show dev {}), or limit downloads only.",
            link.name
        ))
}

fn full(link: &Link) -> Error {
    Error::new(ErrorKind::Failed, "find a free preference on", &link.name)
        .meaning("Thousands of limits have filters there.")
        .advice("Run chadthrottle clean.")
}

fn no_clsact(link: &Link, refusal: Refusal) -> Error {
    let missing = refusal.code() == libc::ENOENT;
    let error = refusal.explain("add a clsact qdisc to", &link.name);
    if missing {
        return error
            .meaning("The kernel has no clsact qdisc (CONFIG_NET_SCH_INGRESS).")
            .remedy(chadthrottle_core::check::Remedy::LoadModule("sch_ingress".to_owned()));
    }
    error
}

fn cannot_remove(name: &str, refusal: Refusal) -> Error {
    refusal.explain("delete our filters from", name).advice("Run chadthrottle clean.")
}
