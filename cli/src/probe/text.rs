//! The report for people: what was seen, a table for each backend, the diagnosis.

use std::fmt;

use chadthrottle_backends::{ebpf::examine::Examination, neighbours::Neighbours};
use chadthrottle_core::{
    check::{Check, Remedy, Verdict},
    diagnosis::{Diagnosis, Scenario},
    system::{self, OwnCgroup, System},
};

use super::{Answer, Report};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chadthrottle {} on Linux {}", self.version, self.system.release)?;
        if !self.root {
            writeln!(
                f,
                "Without root: programs, cgroups and the rehearsals are not tried, and the kernel \
                 log may stay closed. sudo chadthrottle probe does all of it."
            )?;
        }
        section(f, "system")?;
        show_system(f, &self.system)?;
        show_neighbours(f, &self.neighbours)?;
        for check in &self.configuration {
            fact(f, check.name, &check.evidence)?;
        }
        if let Some(bpf) = &self.bpf {
            show_bpf(f, bpf)?;
        }
        show_log(f, self.kernel_log.as_deref())?;
        for answer in &self.backends {
            writeln!(f, "\n{answer}")?;
        }
        write!(f, "\n{}", Shown(&self.diagnosis, self.backends.len()))
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
    writeln!(f, "\n{title}")
}

fn fact(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:16}  {value}")
}

fn show_system(f: &mut fmt::Formatter<'_>, system: &System) -> fmt::Result {
    match (&system.cgroup2, system.has_cgroup1) {
        (Some(mount), false) => fact(f, "cgroup v2", mount.display())?,
        (Some(mount), true) => {
            fact(f, "cgroup v2", format_args!("{} (hybrid, with v1)", mount.display()))?;
        }
        (None, true) => fact(f, "cgroup v2", "not mounted, only v1")?,
        (None, false) => fact(f, "cgroup v2", "not mounted")?,
    }
    if let Some(OwnCgroup { path, owner, mode, is_writable, is_delegated }) = &system.own_cgroup
    {
        let not = |is: &bool| if *is { "" } else { "not " };
        let path = path.display();
        fact(
            f,
            "your cgroup",
            format_args!(
                "{path}: owner {owner}, mode {mode}, {}writable, {}delegated",
                not(is_writable),
                not(is_delegated)
            ),
        )?;
    }
    let missing = &system.missing_capabilities;
    let mut privileges = vec![if missing.is_empty() {
        "all capabilities".to_owned()
    } else {
        format!("no {}", missing.join(", "))
    }];
    if system.in_user_namespace {
        privileges.push("a user namespace".into());
    }
    if system.is_filtered() {
        privileges.push("a seccomp filter".into());
    }
    if let Some(lockdown) = &system.lockdown {
        privileges.push(format!("lockdown {lockdown}"));
    }
    if let Some(modules) = &system.security_modules {
        privileges.push(format!("security modules {modules}"));
    }
    fact(f, "privileges", privileges.join("; "))?;
    let number =
        |value: Option<u32>| value.map_or("unknown".to_owned(), |value| value.to_string());
    let memlock =
        system.memlock.map_or("unlimited".to_owned(), |bytes| format!("{bytes} bytes"));
    fact(
        f,
        "BPF settings",
        format_args!(
            "bpf_jit_enable {}, unprivileged_bpf_disabled {}, RLIMIT_MEMLOCK {memlock}",
            number(system.bpf_jit_enable),
            number(system.unprivileged_bpf_disabled)
        ),
    )
}

fn show_neighbours(f: &mut fmt::Formatter<'_>, neighbours: &Neighbours) -> fmt::Result {
    let list = |found: &Option<Vec<String>>| match found {
        None => "cannot be listed".to_owned(),
        Some(found) if found.is_empty() => "none".to_owned(),
        Some(found) => found.join(", "),
    };
    fact(f, "services", list(&Some(neighbours.services.clone())))?;
    fact(f, "nftables tables", list(&neighbours.nft_tables))?;
    fact(f, "qdiscs", list(&neighbours.qdiscs))
}

fn show_bpf(f: &mut fmt::Formatter<'_>, bpf: &Examination) -> fmt::Result {
    let minimal = &bpf.minimal;
    section(f, "BPF: a program that lets everything pass")?;
    fact(f, "create a map", minimal.map)?;
    fact(f, "load it", minimal.load)?;
    fact(
        f,
        "BPF_LINK_CREATE",
        format_args!(
            "flags 0: {}; flags 1: {}, flags 2: {} (refused by every kernel)",
            minimal.link, minimal.link_override, minimal.link_multi
        ),
    )?;
    fact(
        f,
        "BPF_PROG_ATTACH",
        format_args!(
            "exclusive: {}, override: {}, multi: {}",
            minimal.attach_exclusive, minimal.attach_override, minimal.attach_multi
        ),
    )?;
    for place in &bpf.places {
        let held = place.holder.as_ref().map(|holder| format!(", held by {holder}"));
        let value = format!(
            "{}: {} ({} programs){}",
            place.link,
            place.path.display(),
            place.programs,
            held.unwrap_or_default()
        );
        fact(f, &place.role.to_string(), value)?;
    }
    for program in &bpf.existing {
        let blocks = if program.blocks { ", blocks ours" } else { "" };
        fact(
            f,
            "already there",
            format_args!(
                "program {} {} ({}, {}{blocks}) on {}",
                program.id,
                program.name,
                program.hook,
                program.mode,
                program.cgroup.display()
            ),
        )?;
    }
    fact(
        f,
        "our programs",
        format_args!(
            "{} through {}: {}",
            bpf.object.programs.len(),
            bpf.object.library,
            bpf.object.loads
        ),
    )?;
    for program in &bpf.object.programs {
        let attach_type = program.expected_attach_type.unwrap_or("none");
        fact(
            f,
            "",
            format_args!(
                "{} in {}, expected attach type {attach_type}",
                program.name, program.section
            ),
        )?;
    }
    Ok(())
}

fn show_log(f: &mut fmt::Formatter<'_>, lines: Option<&[system::Line]>) -> fmt::Result {
    section(f, "kernel log: BPF, cgroups, denials")?;
    match lines {
        None => writeln!(f, "  cannot be read without root"),
        Some([]) => writeln!(f, "  nothing in the last hundred lines, nothing since"),
        Some(lines) => lines.iter().try_for_each(|line| {
            let when = if line.new { "new" } else { "before" };
            writeln!(f, "  {when:6}  [{:12.6}] {}", line.seconds, line.text)
        }),
    }
}

/// A table: a line a check, and what to do about those that failed.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Works => "works here",
            Verdict::Inconclusive => "may work here",
            _ => "does not work here",
        };
        write!(f, "{}: {verdict}", self.backend)?;
        if self.works && !self.capabilities.shapes {
            f.write_str(", but drops what is over a limit instead of pacing it")?;
        }
        let width = self.report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &self.report.checks {
            let Check { name, asked, verdict, evidence, remedy } = check;
            write!(f, "\n  {name:width$}  {verdict:12}  {asked}")?;
            let indent = width + 18;
            if *verdict != Verdict::Works && !evidence.is_empty() {
                write!(f, "\n{:indent$}{evidence}", "")?;
            }
            if *remedy != Remedy::None {
                write!(f, "\n{:indent$}{remedy}", "")?;
            }
        }
        Ok(())
    }
}

/// A diagnosis for people, and how many backends were asked.
pub(crate) struct Shown<'a>(pub(crate) &'a Diagnosis, pub(crate) usize);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnosis { scenario, meaning, evidence, remedy, backend, .. } = self.0;
        writeln!(f, "Diagnosis: {scenario}")?;
        writeln!(f, "  {meaning}")?;
        for seen in evidence {
            writeln!(f, "  - {seen}")?;
        }
        if *remedy != Remedy::None {
            writeln!(f, "  {remedy}")?;
        }
        match backend {
            Some(backend) => writeln!(f, "  chadthrottle run takes {backend} here."),
            None if *scenario == Scenario::Works || self.1 == 1 => Ok(()),
            None => writeln!(f, "  No backend works here as things are."),
        }
    }
}

#[cfg(test)]
mod tests {
    use chadthrottle_core::{BackendId, Capabilities, check::ProbeReport};

    const POLICES: Capabilities =
        Capabilities { shapes: false, moves_processes: true, crash_safe: false };

    use super::*;

    #[test]
    fn a_line_a_check_and_the_way_out() {
        let check = |name, verdict, remedy| Check {
            name,
            asked: format!("ask {name}"),
            verdict,
            evidence: "EPERM".to_owned(),
            remedy,
        };
        let report = ProbeReport {
            checks: vec![
                check("map", Verdict::Works, Remedy::None),
                check("attach", Verdict::Denied, Remedy::GrantCapability("CAP_BPF".to_owned())),
            ],
        };
        let (works, verdict) = (report.works(), report.verdict());
        let capabilities = POLICES;
        let answer = Answer { backend: BackendId::Ebpf, works, verdict, capabilities, report };
        let text = answer.to_string();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "ebpf: does not work here",
                "map     works         ask map",
                "attach  denied        ask attach",
                "EPERM",
                "Run it with sudo, or grant CAP_BPF.",
            ]
        );
    }
    #[test]
    fn a_backend_that_only_drops_says_so() {
        let report = ProbeReport::default();
        let (works, verdict) = (report.works(), report.verdict());
        let answer =
            Answer { backend: BackendId::Nft, works, verdict, capabilities: POLICES, report };
        assert_eq!(
            answer.to_string(),
            "nft: works here, but drops what is over a limit instead of pacing it"
        );
    }
}
