//! What the probe asks: real attempts in a network namespace that ends with the thread that made it.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use chadthrottle_core::{Direction, Error, ErrorKind, Result, check::Remedy};
use nix::sched::{CloneFlags, unshare};

use super::{
    device::Device,
    flows::{Flow, Tree},
    gate,
    hook::{Hook, list},
    marks::{INSTANCE, Marking, Table},
    shaper::Shaper,
    site::Tenant,
};
use crate::{
    links,
    moved::{Mark, Place},
    netns::Netns,
    rtnetlink::Socket,
    sockets::diag,
};

/// 10 Mbit/s: a rate at which large packets are cut, so that tbf is needed.
const RATE: u64 = 1_250_000;
const MTU: u32 = 1500;

/// What is asked, one thing after the other, each standing on what was made before.
pub(super) struct Scratch {
    rt: Socket,
    netns: Netns,
    shaper: Option<Shaper>,
    hook: Option<Hook>,
    tree: Option<Tree>,
}

/// A question: its name, what is done, and doing it; it answers with the evidence.
pub(super) type Question = (&'static str, &'static str, fn(&mut Scratch) -> Result<String>);

pub(super) const QUESTIONS: [Question; 8] = [
    ("socket-list", "list TCP and UDP sockets through sock_diag", |_| {
        diag::dump().map(|sockets| format!("{} in an empty namespace", sockets.len()))
    }),
    ("ifb", "create an ifb device", |scratch| {
        let device =
            Device::create(&mut scratch.rt, &scratch.netns, Direction::Download, None)?;
        let evidence = device.name.clone();
        scratch.shaper = Some(Shaper::bare(device, Direction::Download, RATE, MTU));
        Ok(evidence)
    }),
    ("htb", "put HTB with its classes on it", |scratch| {
        let (shaper, rt) = scratch.shaper()?;
        shaper.add_htb(rt).map(|()| "with 6 classes".to_owned())
    }),
    ("queues", "put queues below the classes", |scratch| {
        let (shaper, rt) = scratch.shaper()?;
        shaper.furnish_leaves(rt)?;
        Ok(shaper.queues().to_owned())
    }),
    ("u32", "sort packets into the classes by u32 filters", |scratch| {
        let (shaper, rt) = scratch.shaper()?;
        shaper.classify(rt).map(|()| "by protocol and family".to_owned())
    }),
    ("clsact", "put a clsact qdisc on an interface", |scratch| {
        let interface =
            Device::create(&mut scratch.rt, &scratch.netns, Direction::Upload, None)?;
        let links = links::list(&mut scratch.rt)?;
        let link = links.iter().find(|link| link.index == interface.index);
        let link = link.ok_or_else(|| lost("the interface"))?;
        let hook = Hook::take(&mut scratch.rt, &scratch.netns, link, None)?;
        scratch.hook = Some(hook);
        Ok(format!("on {}", link.name))
    }),
    ("mirred", "redirect a flow to the device by u32 and mirred", |scratch| {
        let device = scratch.shaper()?.0.device.index;
        let hook = scratch.hook.as_ref().ok_or_else(|| lost("the qdisc"))?;
        let mut tree = Tree::plant(&mut scratch.rt, hook, Direction::Download, device)?;
        let flows = flows();
        let target = (Tenant::REHEARSAL, device);
        let synced = tree.sync(&mut scratch.rt, hook, target, &flows);
        synced.map_err(|error| match error.errno() {
            libc::ENOENT => error.remedy(Remedy::LoadModule("act_mirred".to_owned())),
            _ => error,
        })?;
        scratch.tree = Some(tree);
        Ok(format!("{} filters", flows.len()))
    }),
    ("filters-read-back", "find the filters as they were meant", |scratch| {
        let (Some(hook), Some(tree)) = (&scratch.hook, &scratch.tree) else {
            return Err(lost("the filters"));
        };
        let listed = list(&mut scratch.rt, hook.spot(Direction::Download))?;
        if tree.is_intact(&listed, hook) {
            return Ok("the same".to_owned());
        }
        Err(Error::new(ErrorKind::NoBackend, "read back", "filters")
            .meaning("The kernel took them, but does not match what they say."))
    }),
];

impl Scratch {
    pub(super) fn enter() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::io("make", "a network namespace", errno.into()))?;
        let (rt, netns) = (links::socket()?, Netns::current()?);
        Ok(Self { rt, netns, shaper: None, hook: None, tree: None })
    }

    fn shaper(&mut self) -> Result<(&mut Shaper, &mut Socket)> {
        let shaper = self.shaper.as_mut().ok_or_else(|| lost("the device"))?;
        Ok((shaper, &mut self.rt))
    }
}

/// A connection of each family and transport.
fn flows() -> HashSet<Flow> {
    let v4 = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    let v6 = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    Flow::examples([v4, v6])
}

/// Makes all that marks need.
pub(super) fn try_marks() -> Result<()> {
    let mut scratch = Scratch::enter()?;
    let mark = Mark::from_value(0x0100_0001);
    let place = Place { path: "/".into(), id: 1, level: 1 };
    let _table = Table::open(&scratch.netns, mark, &[place])?;
    let interface = Device::create(&mut scratch.rt, &scratch.netns, Direction::Download, None)?;
    let links = links::list(&mut scratch.rt)?;
    let link = links.iter().find(|link| link.index == interface.index);
    let link = link.ok_or_else(|| lost("the interface"))?;
    let hook = Hook::take(&mut scratch.rt, &scratch.netns, link, None)?;
    for direction in Direction::BOTH {
        let rt = &mut scratch.rt;
        let target = (Tenant::REHEARSAL, interface.index);
        let planted = Marking::plant(rt, &hook, direction, mark.value() & INSTANCE).and_then(
            |mut all| {
                all.admit(rt, &hook, target, mark)?;
                Ok(all)
            },
        );
        let marking = planted.map_err(|error| match error.errno() {
            libc::ENOENT => error.remedy(Remedy::LoadModule("act_ctinfo".to_owned())),
            _ => error,
        })?;
        if !marking.is_intact(&list(rt, hook.spot(direction))?, &hook) {
            return Err(Error::new(ErrorKind::NoBackend, "match", "marks by u32 filters")
                .meaning("The kernel takes such filters and ignores the mark.")
                .remedy(Remedy::RebuildKernel("CONFIG_CLS_U32_MARK".to_owned())));
        }
    }
    Ok(())
}

/// Makes what holds new connections until they are found.
pub(super) fn try_gate() -> Result<()> {
    gate::attempt(&Scratch::enter()?.netns)
}

pub(super) fn lost(what: &str) -> Error {
    Error::new(ErrorKind::Failed, "find", what).meaning("It was made a moment ago.")
}
