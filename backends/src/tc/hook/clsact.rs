//! The clsact qdisc: who has it, making it, deleting it.

use chadthrottle_core::{
    Direction, Error, ErrorKind, Host, Result,
    check::Remedy,
    journal::{Exclusive, Undo},
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};

use super::{
    listed::{HEADER, KIND, is_gone, list},
    spot,
};
use crate::{
    links::Link,
    netns::Netns,
    rtnetlink::{Refusal, Socket, attributes, text_of, u32_of},
    tc::message::{NEW, Spot, queueing},
};

/// What holds the handle `ffff:` of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    None,
    Clsact,
    /// The older qdisc, which has no egress hook. Both at once are not possible.
    Ingress,
}

pub(super) fn holder(rt: &mut Socket, link: &Link) -> Result<Holder> {
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

pub(super) fn made_by_chadthrottle(
    guard: &Exclusive,
    host: &Host,
    netns: &Netns,
    link: &Link,
) -> bool {
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

pub(super) fn add_clsact(rt: &mut Socket, link: u32) -> Result<(), Refusal> {
    rt.execute(RouteNetlinkMessage::NewQueueDiscipline(clsact(link)), NEW)
}

pub(super) fn remove_clsact(rt: &mut Socket, link: u32) -> Result<(), Refusal> {
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

pub(super) fn ingress_in_the_way(link: &Link) -> Error {
    Error::new(ErrorKind::Failed, "add a clsact qdisc to", &link.name)
        .meaning(
            "Somebody's ingress qdisc is there; it excludes clsact and has no hook for uploads.",
        )
        .advice(format!(
            "Ask its owner to use clsact (tc qdisc show dev {}), or limit downloads only.",
            link.name
        ))
}

pub(super) fn no_clsact(link: &Link, refusal: Refusal) -> Error {
    let missing = refusal.code() == libc::ENOENT;
    let error = refusal.explain("add a clsact qdisc to", &link.name);
    if missing {
        return error
            .meaning("The kernel has no clsact qdisc (CONFIG_NET_SCH_INGRESS).")
            .remedy(Remedy::LoadModule("sch_ingress".to_owned()));
    }
    error
}
