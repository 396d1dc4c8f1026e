//! What a probe finds out: checks, verdicts and remedies.

use std::fmt;

use serde::Serialize;

/// The answer to one question that was really asked of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was tried and it works.
    Works,
    /// The kernel or the host does not have it.
    Missing,
    /// It is there, but we may not use it.
    Denied,
    /// Somebody else's object is in the way.
    Conflict,
    /// The attempt said neither yes nor no. Never kept, never guessed upon.
    Inconclusive,
}

/// What to do when something does not work.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case", tag = "do", content = "what")]
pub enum Remedy {
    /// Nothing to do, or nothing that can be done.
    #[default]
    None,
    /// Load this kernel module.
    LoadModule(String),
    /// Run with this capability.
    GrantCapability(String),
    /// Mount the cgroup v2 file system.
    MountCgroup2,
    /// The kernel was built without this option.
    RebuildKernel(String),
    /// Stop whoever holds this object.
    StopHolder(String),
    /// One sentence of its own.
    Do(String),
}

/// One word.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Works => "works",
            Self::Missing => "missing",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Inconclusive => "inconclusive",
        })
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::LoadModule(module) => write!(f, "Load the module: sudo modprobe {module}."),
            Self::GrantCapability(cap) => write!(f, "Run it with sudo, or grant {cap}."),
            Self::MountCgroup2 => {
                f.write_str("Mount it: sudo mount -t cgroup2 none /sys/fs/cgroup/unified.")
            }
            Self::RebuildKernel(option) => {
                write!(f, "Use a kernel built with {option}, or another backend.")
            }
            Self::StopHolder(holder) => write!(f, "Stop {holder}, or use another backend."),
            Self::Do(sentence) => f.write_str(sentence),
        }
    }
}

/// One question asked of this host, and what it answered.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// A short stable name: `link-create`.
    pub name: &'static str,
    /// What was asked, in words: "attach a link with flags 0 to a scratch cgroup".
    pub asked: String,
    /// See [`Verdict`].
    pub verdict: Verdict,
    /// What was seen: the errno, the count, the version.
    pub evidence: String,
    /// See [`Remedy`].
    pub remedy: Remedy,
}

/// All the checks of one backend on this host.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ProbeReport {
    /// In the order in which they were asked.
    pub checks: Vec<Check>,
}

impl ProbeReport {
    /// Whether every check said [`Verdict::Works`].
    #[must_use]
    pub fn works(&self) -> bool {
        self.first_failure().is_none()
    }

    /// The check that decides that the backend does not work: the first clear no, else the
    /// first that could not tell.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Check> {
        let unclear = || self.checks.iter().find(|check| check.verdict != Verdict::Works);
        self.first_no().or_else(unclear)
    }

    /// The first check that clearly said no. Without one a run may try: the attempt itself will
    /// tell.
    #[must_use]
    pub fn first_no(&self) -> Option<&Check> {
        let no = |verdict| !matches!(verdict, Verdict::Works | Verdict::Inconclusive);
        self.checks.iter().find(|check| no(check.verdict))
    }

    /// What all of them say together.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.first_failure().map_or(Verdict::Works, |check| check.verdict)
    }
}
