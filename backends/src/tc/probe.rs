//! What this kernel lets the backend do, by real calls in a network namespace of their own, which
//! ends with the thread that made it. Nothing of the host is touched.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use chadthrottle_core::{
    Direction, Error, ErrorKind, Host, Result,
    check::{Check, ProbeReport, Remedy, Verdict},
    error::describe,
    host::missing_capabilities,
};
use nix::sched::{CloneFlags, unshare};
use rustix::thread::CapabilitySet;

use super::{
    device::Device,
    flows::{Flow, Tree},
    hook::Hook,
    marks::{Marking, Table},
    shaper::Shaper,
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

/// How packets are known: forced for tests. `marks` or `flows`.
const ATTRIBUTION: &str = "CHADTHROTTLE_TC_ATTRIBUTION";

/// Asks in the order in which things are needed, and stops at the first no. Says too whether marks
/// can be used, where it came so far.
pub(super) fn probe(_: &Host) -> (ProbeReport, Option<bool>) {
    let mut marks = None;
    let mut report = ProbeReport::default();
    report.checks.push(capabilities());
    if report.works() {
        let checks = thread::scope(|scope| {
            let scratch = thread::Builder::new().name("tc-probe".into());
            match scratch.spawn_scoped(scope, in_scratch_namespace) {
                Ok(thread) => thread.join().unwrap_or_default(),
                Err(_) => Vec::new(),
            }
        });
        report.checks.extend(checks);
    }
    if report.works() {
        let (check, works) = attribution();
        report.checks.push(check);
        marks = Some(works);
    }
    (report, marks)
}

/// Either way works; marks are exact, flows need no more than what was asked before.
fn attribution() -> (Check, bool) {
    let marks = marks();
    let evidence = match &marks {
        Ok(()) => "marks: every packet is known by its socket's cgroup".to_owned(),
        Err(error) => {
            let reason = error.source.as_ref().map(describe).unwrap_or_default();
            let (operation, object) = (&error.operation, &error.object);
            format!(
                "flows: a new connection waits until it is found, or is free so long where nothing can \
                 hold it, for milliseconds; for marks \
                 the kernel would have to {operation} {object}: {reason}{}",
                error.meaning
            )
        }
    };
    let check = Check {
        name: "attribution",
        asked: "know the packets of a socket by marks, or else by flows".to_owned(),
        verdict: Verdict::Works,
        evidence,
        remedy: marks.as_ref().err().map(|error| error.remedy.clone()).unwrap_or_default(),
    };
    (check, marks.is_ok())
}

/// Whether all that marks need can be made, in a namespace of its own.
pub(super) fn marks() -> Result<()> {
    match std::env::var(ATTRIBUTION).as_deref() {
        Ok("flows") => {
            return Err(Error::new(ErrorKind::NoBackend, "use", "marks")
                .meaning(format!("{ATTRIBUTION} says so.")));
        }
        Ok("marks") => return Ok(()),
        _ => {}
    }
    thread::scope(|scope| {
        let scratch = thread::Builder::new().name("tc-probe".into());
        let failed = |error| Error::io("start a thread for", "the probe", error);
        let thread = scratch.spawn_scoped(scope, try_marks).map_err(failed)?;
        thread.join().unwrap_or_else(|_| Err(lost("the probe")))
    })
}

fn try_marks() -> Result<()> {
    let mut scratch = Scratch::enter()?;
    let mark = Mark::from_value(0x0100_0001);
    let place = Place { path: "/".into(), id: 1, level: 1 };
    let _table = Table::open(&scratch.netns, mark, &[place])?;
    let interface = Device::create(&mut scratch.rt, &scratch.netns, Direction::Download, None)?;
    let links = links::list(&mut scratch.rt)?;
    let link = links.iter().find(|link| link.index == interface.index);
    let link = link.ok_or_else(|| lost("the interface"))?;
    let hook = Hook::take(&mut scratch.rt, &scratch.netns, link, &Direction::BOTH, None)?;
    for direction in Direction::BOTH {
        let rt = &mut scratch.rt;
        let marking =
            Marking::plant(rt, &hook, direction, interface.index, mark).map_err(|error| {
                match error.errno() {
                    libc::ENOENT => error.remedy(Remedy::LoadModule("act_ctinfo".to_owned())),
                    _ => error,
                }
            })?;
        if !marking.is_intact(rt, &hook)? {
            return Err(Error::new(ErrorKind::NoBackend, "match", "marks by u32 filters")
                .meaning("The kernel takes such filters and ignores the mark.")
                .remedy(Remedy::RebuildKernel("CONFIG_CLS_U32_MARK".to_owned())));
        }
    }
    Ok(())
}

/// `CAP_NET_ADMIN` for devices, qdiscs and filters; `CAP_SYS_PTRACE` for the descriptor tables of
/// others, `CAP_SYS_ADMIN` for other network namespaces.
fn capabilities() -> Check {
    let needed =
        CapabilitySet::NET_ADMIN | CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_ADMIN;
    let missing = missing_capabilities(needed).join(", ");
    let works = missing.is_empty();
    Check {
        name: "capabilities",
        asked: "use the capabilities for devices, filters and the sockets of others".to_owned(),
        verdict: if works { Verdict::Works } else { Verdict::Denied },
        evidence: if works {
            "all there".to_owned()
        } else {
            format!("the effective set lacks {missing}")
        },
        remedy: if works { Remedy::None } else { Remedy::GrantCapability(missing) },
    }
}

/// What is asked, one thing after the other, each standing on what was made before.
struct Scratch {
    rt: Socket,
    netns: Netns,
    shaper: Option<Shaper>,
    hook: Option<Hook>,
    tree: Option<Tree>,
}

/// A question: its name, what is done, and doing it; it answers with the evidence.
type Question = (&'static str, &'static str, fn(&mut Scratch) -> Result<String>);

const QUESTIONS: [Question; 8] = [
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
        let hook = Hook::take(&mut scratch.rt, &scratch.netns, link, &Direction::BOTH, None)?;
        scratch.hook = Some(hook);
        Ok(format!("on {}", link.name))
    }),
    ("mirred", "redirect a flow to the device by u32 and mirred", |scratch| {
        let device = scratch.shaper()?.0.device.index;
        let hook = scratch.hook.as_ref().ok_or_else(|| lost("the qdisc"))?;
        let mut tree = Tree::plant(&mut scratch.rt, hook, Direction::Download, device)?;
        let flows = flows();
        tree.sync(&mut scratch.rt, hook, &flows).map_err(|error| match error.errno() {
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
        if tree.is_intact(&mut scratch.rt, hook)? {
            return Ok("the same".to_owned());
        }
        Err(Error::new(ErrorKind::NoBackend, "read back", "filters")
            .meaning("The kernel took them, but does not match what they say."))
    }),
];

impl Scratch {
    fn enter() -> Result<Self> {
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

fn in_scratch_namespace() -> Vec<Check> {
    let mut scratch = match Scratch::enter() {
        Ok(scratch) => scratch,
        Err(error) => {
            // Nothing about the backend itself.
            let asked = "make a network namespace to try things in";
            return vec![check("scratch-namespace", asked, Err(error), Verdict::Inconclusive)];
        }
    };
    let mut checks = Vec::new();
    for (name, asked, ask) in QUESTIONS {
        let answer = ask(&mut scratch);
        let missing = answer.as_ref().err().map_or(Verdict::Works, verdict);
        checks.push(check(name, asked, answer, missing));
        if missing != Verdict::Works {
            break;
        }
    }
    checks
}

/// What a refusal says.
fn verdict(error: &Error) -> Verdict {
    match (error.kind, error.errno()) {
        (ErrorKind::NotPermitted, _) => Verdict::Denied,
        (ErrorKind::NoBackend, _)
        | (_, libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Verdict::Missing,
        _ => Verdict::Inconclusive,
    }
}

fn check(name: &'static str, asked: &str, answer: Result<String>, verdict: Verdict) -> Check {
    let (evidence, remedy) = match answer {
        Ok(evidence) => (evidence, Remedy::None),
        Err(error) => {
            let said = error.source.as_ref().map(describe).unwrap_or_default();
            let evidence = [said, error.meaning].into_iter().filter(|text| !text.is_empty());
            (evidence.collect::<Vec<_>>().join(": "), error.remedy)
        }
    };
    Check { name, asked: asked.to_owned(), verdict, evidence, remedy }
}

fn lost(what: &str) -> Error {
    Error::new(ErrorKind::Failed, "find", what).meaning("It was made a moment ago.")
}
