//! Taking our filters and tables away.

use std::{thread, time::Duration};

use chadthrottle_core::Direction;
use netlink_packet_route::RouteNetlinkMessage;

use super::{
    ETHERTYPES,
    clsact::remove_clsact,
    first,
    listed::{FIRST_TABLE, Listed, NODES, TABLES, is_gone, listed},
    spot,
};
use crate::{
    rtnetlink::{Refusal, Socket},
    tc::message::{Spot, filter},
};

/// The kernel frees a filter some time after it is deleted; until then what it led to is in use.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

/// Deletes all of our preferences from both hooks, and the qdisc if it is ours and empty.
///
/// First what decides, so that packets pass freely at once; then the tables, which are in use
/// until the kernel has freed what led to them, and which would stay if somebody else has u32
/// filters at the same hook.
pub(in crate::tc) fn remove(
    rt: &mut Socket,
    link: u32,
    preference: u16,
    made_clsact: bool,
) -> Result<(), Refusal> {
    for direction in Direction::BOTH {
        remove_from(rt, spot(link, direction), first(preference, direction))?;
    }
    if made_clsact { remove_clsact(rt, link) } else { Ok(()) }
}

/// Deletes the two preferences of one hook.
pub(super) fn remove_from(rt: &mut Socket, spot: Spot, preference: u16) -> Result<(), Refusal> {
    let mut ours = listed(rt, spot)?;
    ours.retain(|filter| filter.preference & !1 == preference);
    let tables: Vec<&Listed> = ours.iter().filter(|filter| is_table(filter)).collect();
    let roots = ours.iter().filter(|filter| {
        let table = filter.handle >> 20;
        // What hangs in a table of ours goes with it.
        filter.handle & NODES != 0 && !tables.iter().any(|t| t.handle >> 20 == table)
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
    Ok(())
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
