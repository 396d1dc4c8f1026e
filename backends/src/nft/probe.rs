//! What this kernel lets the backend do, by cheap real calls.
//!
//! Each of them makes a table and deletes it in the same transaction: nobody ever sees it, and
//! what the kernel lacks fails it with an errno that tells which part.

use std::{ffi::CString, io};

use chadthrottle_core::{
    Host,
    check::{Check, ProbeReport, Remedy, Verdict},
    error::describe,
    host::missing_capabilities,
};
use nftnl::{
    Chain, ChainType, Hook, MsgType, Policy, ProtoFamily, Rule, Table,
    expr::{Expression, Socket, SocketKey},
};
use rustix::thread::CapabilitySet;

use super::queueing;
use crate::{
    netfilter::{Batch, Connection, LimitOver},
    netns::Netns,
};

/// Asks in the order in which things are needed, and stops at the first no: what comes after
/// would only say the same again. Also returns whether packets can be paced, when it came to that.
pub(super) fn probe(host: &Host) -> (ProbeReport, Option<bool>) {
    let mut report = ProbeReport::default();
    let first: [fn(&Host) -> Check; 2] = [cgroup2, capabilities];
    for ask in first {
        report.checks.push(ask(host));
        if report.first_failure().is_some() {
            return (report, None);
        }
    }
    let connection = match Connection::open() {
        Ok(connection) => connection,
        Err(error) => {
            let source = error.source.unwrap_or_else(|| io::ErrorKind::Other.into());
            report.checks.push(refused(NF_TABLES, &source, explain_table));
            return (report, None);
        }
    };
    let rest: [fn(&Connection) -> Check; 5] =
        [nf_tables, inet_family, table_owner, socket_cgroup, limit];
    for ask in rest {
        report.checks.push(ask(&connection));
        if report.first_failure().is_some() {
            return (report, None);
        }
    }
    let (check, paces) = pacing();
    report.checks.extend([check, egress(&connection)]);
    (report, Some(paces))
}

/// A question and its short name.
type Question = (&'static str, &'static str);

const NF_TABLES: Question = ("nf-tables", "create a table of nftables");

fn cgroup2(host: &Host) -> Check {
    let asked = ("cgroup2-mounted", "find the cgroup v2 hierarchy in mountinfo");
    match &host.cgroups {
        Some(cgroups) => works(asked, cgroups.mount.display().to_string()),
        None => Check {
            name: asked.0,
            asked: asked.1.to_owned(),
            verdict: Verdict::Missing,
            evidence: "no file system of type cgroup2 is mounted".to_owned(),
            remedy: Remedy::MountCgroup2,
        },
    }
}

/// `CAP_NET_ADMIN` changes nftables and marks sockets, `CAP_SYS_PTRACE` reaches the sockets of
/// others.
fn capabilities(_: &Host) -> Check {
    let asked =
        ("capabilities", "use the capabilities for nftables and for the sockets of others");
    let missing = missing_capabilities(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_PTRACE);
    let missing = missing.join(", ");
    if missing.is_empty() {
        return works(asked, "all there".to_owned());
    }
    Check {
        name: asked.0,
        asked: asked.1.to_owned(),
        verdict: Verdict::Denied,
        evidence: format!("the effective set lacks {missing}"),
        remedy: Remedy::GrantCapability(missing),
    }
}

/// Any family will do: which one is missing is the next question.
fn nf_tables(connection: &Connection) -> Check {
    let mut first = None;
    for family in [ProtoFamily::Inet, ProtoFamily::Ipv4, ProtoFamily::NetDev] {
        match tried(connection, family, false, None) {
            Ok(()) => return works(NF_TABLES, "made and deleted".to_owned()),
            Err(error) => first = first.or(Some(error)),
        }
    }
    let error = first.unwrap_or_else(|| io::ErrorKind::Other.into());
    refused(NF_TABLES, &error, explain_table)
}

fn explain_table(errno: i32) -> (Verdict, Remedy) {
    match errno {
        libc::EPERM | libc::EACCES => (Verdict::Denied, forbidden()),
        // EPROTONOSUPPORT: no nfnetlink; EOPNOTSUPP and EINVAL: nobody serves nftables there
        // (nfnetlink_rcv_batch, net/netfilter/nfnetlink.c).
        libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL => {
            (Verdict::Missing, Remedy::LoadModule("nf_tables".to_owned()))
        }
        _ => (Verdict::Inconclusive, Remedy::None),
    }
}

fn inet_family(connection: &Connection) -> Check {
    let asked = ("inet-family", "create a table of the family inet");
    answer(asked, tried(connection, ProtoFamily::Inet, false, None), |errno| match errno {
        libc::EOPNOTSUPP | libc::EAFNOSUPPORT => {
            (Verdict::Missing, Remedy::RebuildKernel("CONFIG_NF_TABLES_INET".to_owned()))
        }
        _ => explain_table(errno),
    })
}

/// Kernel 5.12: without it our table would outlive us.
fn table_owner(connection: &Connection) -> Check {
    let asked = ("table-owner", "create a table that the kernel deletes when we die");
    answer(asked, tried(connection, ProtoFamily::Inet, true, None), |errno| match errno {
        libc::EINVAL | libc::EOPNOTSUPP => (
            Verdict::Missing,
            Remedy::Do("Use a kernel from 5.13 on, or another backend.".to_owned()),
        ),
        _ => explain_table(errno),
    })
}

/// Kernel 5.13 and `nft_socket`.
fn socket_cgroup(connection: &Connection) -> Check {
    let asked = ("nft-socket", "add a rule that matches the cgroup of a socket");
    let socket = Socket::new(SocketKey::CgroupV2, 1);
    answer(asked, with_rule(connection, &socket), |errno| match errno {
        libc::ENOENT => (Verdict::Missing, Remedy::LoadModule("nft_socket".to_owned())),
        // It knows sockets, but not their cgroups; or CONFIG_SOCK_CGROUP_DATA is off.
        libc::EOPNOTSUPP | libc::EINVAL => (
            Verdict::Missing,
            Remedy::Do("Use a kernel from 5.13 on with CONFIG_SOCK_CGROUP_DATA.".to_owned()),
        ),
        _ => explain_table(errno),
    })
}

fn limit(connection: &Connection) -> Check {
    let asked = ("nft-limit", "add a rule with a limit in bytes per second");
    let limit = LimitOver { rate: 125_000, burst: 0 };
    answer(asked, with_rule(connection, &limit), |errno| match errno {
        libc::ENOENT => (Verdict::Missing, Remedy::LoadModule("nft_limit".to_owned())),
        _ => explain_table(errno),
    })
}

/// Not needed: without it the backend drops what it cannot pace.
fn pacing() -> (Check, bool) {
    match Netns::current().and_then(|here| queueing::start(&here)) {
        Ok(queueing) => (works(PACING, format!("by {}", queueing.by)), true),
        Err(error) => {
            let asked = ("pacing", "limit by dropping, without pacing");
            (works(asked, error.to_string()), false)
        }
    }
}

const PACING: Question = ("pacing", "hand packets to user space, to pace them");

/// Needed only where packets cannot be paced. Kernel 5.16.
fn egress(connection: &Connection) -> Check {
    let asked =
        ("egress", "drop at the egress of an interface, so that no sender sees an error");
    match with_egress(connection) {
        Ok(()) => works(asked, "made and deleted".to_owned()),
        Err(error) => {
            let asked = ("egress", "drop uploads in output, where senders of UDP see EPERM");
            let error = describe(&error);
            works(asked, format!("no egress hook in this kernel: {error}; 5.16 has it"))
        }
    }
}

/// Loopback is there in every network namespace.
fn with_egress(connection: &Connection) -> io::Result<()> {
    let name = CString::new(format!("chadthrottle-try-{}", std::process::id()));
    let table = Table::new(name.unwrap_or_default(), ProtoFamily::NetDev);
    let mut batch = Batch::new();
    batch.create_owned_table(table.get_name(), ProtoFamily::NetDev);
    let chain = super::egress::base_chain(&table, 1, "lo");
    batch.add("attach to the egress of an interface", &chain, MsgType::Add);
    batch.delete_table(table.get_name(), ProtoFamily::NetDev);
    connection.try_commit(batch).map_err(|(_, error)| error)
}

fn with_rule(connection: &Connection, expression: &impl Expression) -> io::Result<()> {
    let add = &|chain: &Chain<'_>, batch: &mut Batch| {
        let mut rule = Rule::new(chain);
        rule.add_expr(expression);
        batch.add("add the rule", &rule, MsgType::Add);
    };
    tried(connection, ProtoFamily::Inet, true, Some(add))
}

/// Adds a rule for this chain to a batch.
type AddRule<'a> = dyn Fn(&Chain<'_>, &mut Batch) + 'a;

/// Makes a table, perhaps with a rule in its input chain, and deletes it, all at once.
fn tried(
    connection: &Connection,
    family: ProtoFamily,
    owned: bool,
    rule: Option<&AddRule<'_>>,
) -> io::Result<()> {
    let name = CString::new(format!("chadthrottle-try-{}", std::process::id()));
    let table = Table::new(name.unwrap_or_default(), family);
    let mut batch = Batch::new();
    if owned {
        batch.create_owned_table(table.get_name(), family);
    } else {
        batch.add("create the table", &table, MsgType::Add);
    }
    if let Some(rule) = rule {
        let mut chain = Chain::new(c"input", &table);
        chain.set_type(ChainType::Filter);
        chain.set_hook(Hook::In, 0);
        chain.set_policy(Policy::Accept);
        batch.add("create the chain", &chain, MsgType::Add);
        rule(&chain, &mut batch);
    }
    batch.delete_table(table.get_name(), family);
    connection.try_commit(batch).map_err(|(_, error)| error)
}

fn answer(
    asked: Question,
    outcome: io::Result<()>,
    explain: impl Fn(i32) -> (Verdict, Remedy),
) -> Check {
    match outcome {
        Ok(()) => works(asked, "made and deleted".to_owned()),
        Err(error) => refused(asked, &error, explain),
    }
}

fn refused(
    (name, asked): Question,
    error: &io::Error,
    explain: impl Fn(i32) -> (Verdict, Remedy),
) -> Check {
    let (verdict, remedy) = explain(error.raw_os_error().unwrap_or(0));
    Check { name, asked: asked.to_owned(), verdict, evidence: describe(error), remedy }
}

fn works((name, asked): Question, evidence: String) -> Check {
    let asked = asked.to_owned();
    Check { name, asked, verdict: Verdict::Works, evidence, remedy: Remedy::None }
}

fn forbidden() -> Remedy {
    Remedy::Do(
        "A user namespace, a container or a seccomp filter forbids nftables: run it outside."
            .to_owned(),
    )
}
