//! From what a probe found to the one thing that explains it, and the way out.
//!
//! The scenarios A to E are those of the verification guide that this project was founded on
//! (docs/probing.md), F to H were found since. The decision rests on errnos of real attempts
//! and never on a version; what cannot be told apart is called [`Scenario::Inconclusive`].

mod decide;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf};

use serde::{Serialize, Serializer};

use crate::{
    backend::BackendId,
    check::{ProbeReport, Remedy},
    error::errno_name,
    system::System,
};

pub use decide::decide;

/// What explains why something does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Everything that was asked works.
    Works,
    /// A: the root cgroup takes our programs, the user's does not.
    UserCgroup,
    /// B: the kernel or the system lacks something.
    ConfigurationMissing,
    /// C: everything is there and allowed, and still refused.
    KernelBug,
    /// D: the kernel takes a minimal program, the library fails with ours.
    LibraryCompatibility,
    /// E: the verifier refuses our program.
    ProgramStructure,
    /// F: links are refused with EINVAL, the legacy attachment is taken.
    LinkFlags,
    /// G: a capability, a user namespace, a seccomp filter, a security module is in the way.
    Privileges,
    /// H: somebody else's program is in the way.
    ConflictingProgram,
    /// The attempts do not tell.
    Inconclusive,
}

impl Scenario {
    /// The letter that people call it by, if it has one.
    #[must_use]
    pub fn letter(self) -> Option<char> {
        Some(match self {
            Self::UserCgroup => 'A',
            Self::ConfigurationMissing => 'B',
            Self::KernelBug => 'C',
            Self::LibraryCompatibility => 'D',
            Self::ProgramStructure => 'E',
            Self::LinkFlags => 'F',
            Self::Privileges => 'G',
            Self::ConflictingProgram => 'H',
            Self::Works | Self::Inconclusive => return None,
        })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(letter) = self.letter() {
            write!(f, "{letter}: ")?;
        }
        f.write_str(match self {
            Self::Works => "everything works",
            Self::UserCgroup => "user cgroup",
            Self::ConfigurationMissing => "configuration missing",
            Self::KernelBug => "kernel bug or regression",
            Self::LibraryCompatibility => "library compatibility",
            Self::ProgramStructure => "program structure",
            Self::LinkFlags => "link flags",
            Self::Privileges => "privileges",
            Self::ConflictingProgram => "conflicting program",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// The one explanation.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// Which scenario it is.
    pub scenario: Scenario,
    /// Its letter, `null` for [`Scenario::Works`] and [`Scenario::Inconclusive`].
    pub letter: Option<char>,
    /// What is the case, in a sentence.
    pub meaning: String,
    /// What decided, an observation each.
    pub evidence: Vec<String>,
    /// The way out.
    pub remedy: Remedy,
    /// The backend that `run --backend auto` takes here, as far as can be told.
    pub backend: Option<BackendId>,
}

/// What one attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Attempt {
    /// Something before it failed already, or it was not asked for.
    #[default]
    NotTried,
    /// It succeeded.
    Done,
    /// It failed with this errno.
    Failed(i32),
}

impl Attempt {
    /// From a call's outcome.
    pub fn of<T>(outcome: &std::io::Result<T>) -> Self {
        match outcome {
            Ok(_) => Self::Done,
            Err(error) => Self::Failed(error.raw_os_error().unwrap_or(0)),
        }
    }

    /// Whether it failed with one of these errnos.
    #[must_use]
    pub fn failed_with(self, errnos: &[i32]) -> bool {
        matches!(self, Self::Failed(errno) if errnos.contains(&errno))
    }
}

/// `not tried`, `ok` or the errno's name.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTried => f.write_str("not tried"),
            Self::Done => f.write_str("ok"),
            Self::Failed(errno) => match errno_name(*errno) {
                Some(name) => f.write_str(name),
                None => write!(f, "errno {errno}"),
            },
        }
    }
}

impl Serialize for Attempt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A cgroup that a probe attached to for a moment.
#[derive(Debug, Clone, Serialize)]
pub struct Place {
    /// Whose it is.
    pub role: Role,
    /// Where it is.
    pub path: PathBuf,
    /// A link with flags 0, of a program that lets everything pass, ingress and egress.
    pub link: Attempt,
    /// Somebody's exclusive program that keeps others off it, in words.
    pub holder: Option<String>,
    /// How many programs are on it, of the attach type that has the most.
    pub programs: usize,
}

/// Why a cgroup is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The top of the hierarchy.
    Root,
    /// Ours.
    Own,
    /// The one that was asked for with `--cgroup`.
    Asked,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "the root cgroup",
            Self::Own => "your own cgroup",
            Self::Asked => "the cgroup you asked for",
        })
    }
}

/// What became of our own programs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Object {
    /// Something before it failed already.
    #[default]
    NotTried,
    /// The kernel takes them.
    Loads,
    /// The kernel refused one: the errno and the end of the verifier's log.
    Refused {
        /// The errno.
        errno: i32,
        /// The last lines, empty when the kernel gave none.
        log: String,
    },
    /// The library could not even hand them to the kernel.
    Unreadable(String),
}

/// What was found out about BPF on cgroups.
#[derive(Debug, Clone, Default)]
pub struct BpfFindings {
    /// Creating a map.
    pub map: Attempt,
    /// Loading a program of two instructions.
    pub program: Attempt,
    /// Attaching it to a scratch cgroup by a link with flags 0.
    pub link: Attempt,
    /// The same with `BPF_PROG_ATTACH` and `BPF_F_ALLOW_MULTI`.
    pub legacy: Attempt,
    /// Asking the scratch cgroup for its programs.
    pub query: Attempt,
    /// Whether the kernel knows `BPF_LINK_CREATE`.
    pub knows_link_create: Option<bool>,
    /// Whether it knows the other commands for links.
    pub knows_links: Option<bool>,
    /// Whether it attaches programs to cgroups at all.
    pub knows_cgroups: Option<bool>,
    /// The root cgroup, our own, the one asked for.
    pub places: Vec<Place>,
    /// Our own programs.
    pub object: Object,
}

/// Everything that the decision rests on.
#[derive(Debug, Clone)]
pub struct Findings<'a> {
    /// What each backend answered, rehearsal included.
    pub backends: Vec<(BackendId, &'a ProbeReport)>,
    /// About BPF; `None` when only another backend was asked for.
    pub bpf: Option<&'a BpfFindings>,
    /// About this machine.
    pub system: &'a System,
}
