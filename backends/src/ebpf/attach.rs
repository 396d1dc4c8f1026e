//! Where our programs are attached: to as few cgroups as cover what is needed.
//!
//! A program on a cgroup runs for all below it, so a cgroup whose ancestor has our programs
//! gets none of its own: its packets would be charged twice. Where an exclusive program (flags
//! 0, systemd's IP accounting for one) or 64 others are in the way, the nearest ancestor that
//! takes us serves as well, since the tag on the socket decides and not the place.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use chadthrottle_core::{
    BackendId, Error, ErrorKind, Result,
    cgroup::{self, Cgroups},
    check::Remedy,
    journal::{Entry, Journal, Undo},
};
use tracing::{debug, info, warn};

use super::{hook::Hook, object::Object};
use crate::bpf;

/// The cgroups that need our programs: path and id.
pub(super) type Needed = BTreeMap<PathBuf, u64>;

/// Our programs on cgroups.
#[derive(Default)]
pub(super) struct Attachments {
    at: BTreeMap<PathBuf, Attachment>,
    legacy: bool,
}

/// All four programs on one cgroup.
struct Attachment {
    directory: File,
    id: u64,
    hooks: Vec<(Hook, Kind)>,
}

enum Kind {
    /// Gone when its descriptor closes, so also when we are killed. Held, never read.
    Link { _link: OwnedFd },
    /// Outlives us: recorded in the journal.
    Legacy { entry: Entry },
}

/// What attaching and detaching need.
pub(super) struct Tools<'a> {
    pub(super) object: &'a Object,
    pub(super) journal: &'a Journal,
    pub(super) cgroups: &'a Cgroups,
}

impl Attachments {
    /// `link`, or `legacy` when the kernel refused a link somewhere.
    pub(super) fn kind(&self) -> &'static str {
        if self.legacy { "legacy" } else { "link" }
    }

    /// Attaches what is needed and not yet covered, then detaches what no longer is.
    pub(super) fn reconcile(&mut self, tools: &mut Tools<'_>, needed: &Needed) -> Result<()> {
        self.drop_replaced(tools);
        let used = self.cover(tools, needed)?;
        let surplus: Vec<PathBuf> = self
            .at
            .keys()
            .filter(|path| !used.contains(path) || self.has_ancestor(path))
            .cloned()
            .collect();
        for path in surplus {
            self.detach(tools, &path);
        }
        Ok(())
    }

    /// Attaches what is needed and not yet covered; returns where it is.
    pub(super) fn cover(
        &mut self,
        tools: &mut Tools<'_>,
        needed: &Needed,
    ) -> Result<Vec<PathBuf>> {
        let mut used = Vec::new();
        for path in needed.keys() {
            match self.covering(path) {
                Some(place) => used.push(place),
                None => used.push(self.attach_near(tools, path)?),
            }
        }
        Ok(used)
    }

    /// Detaches everything.
    pub(super) fn clear(&mut self, tools: &mut Tools<'_>) {
        while let Some(path) = self.at.keys().next().cloned() {
            self.detach(tools, &path);
        }
    }

    /// A cgroup made anew under an old name took our links with it when it went.
    fn drop_replaced(&mut self, tools: &mut Tools<'_>) {
        let replaced: Vec<PathBuf> = self
            .at
            .iter()
            .filter(|(path, attachment)| cgroup::id(path).ok() != Some(attachment.id))
            .map(|(path, _)| path.clone())
            .collect();
        for path in replaced {
            self.detach(tools, &path);
        }
    }

    fn covering(&self, path: &Path) -> Option<PathBuf> {
        path.ancestors().find(|place| self.at.contains_key(*place)).map(Path::to_owned)
    }

    fn has_ancestor(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|place| self.at.contains_key(place))
    }

    /// Attaches to `path`, or to the nearest ancestor that takes us. Returns where.
    fn attach_near(&mut self, tools: &mut Tools<'_>, path: &Path) -> Result<PathBuf> {
        let mut first_error = None;
        for place in path.ancestors() {
            if !place.starts_with(&tools.cgroups.mount) {
                break;
            }
            if self.at.contains_key(place) {
                return Ok(place.to_owned());
            }
            match self.attach(tools, place) {
                Ok(attachment) => {
                    if place != path {
                        info!(
                            "{} does not take our programs; {} does",
                            path.display(),
                            place.display()
                        );
                    }
                    self.at.insert(place.to_owned(), attachment);
                    return Ok(place.to_owned());
                }
                Err(refusal) => {
                    let walk_up = matches!(refusal.errno(), EPERM | E2BIG);
                    first_error.get_or_insert(refusal);
                    if !walk_up {
                        break;
                    }
                }
            }
        }
        Err(first_error.unwrap_or_else(|| {
            Error::io("attach to", path.display(), io::ErrorKind::NotFound.into())
                .meaning("It is not in the cgroup v2 hierarchy.")
        }))
    }

    /// All four programs or none.
    fn attach(&mut self, tools: &mut Tools<'_>, path: &Path) -> Result<Attachment> {
        let directory = File::open(path)
            .map_err(|error| Error::io("open the cgroup", path.display(), error))?;
        let mut attachment =
            Attachment { directory, id: cgroup::id(path)?, hooks: Vec::with_capacity(4) };
        for hook in Hook::ALL {
            match attach_hook(tools, hook, path, &attachment) {
                Ok(kind) => {
                    self.legacy |= matches!(kind, Kind::Legacy { .. });
                    attachment.hooks.push((hook, kind));
                    debug!("Successfully attached eBPF {} program to {path:?}", hook.word());
                }
                Err(refusal) => {
                    attachment.detach(tools);
                    return Err(refusal);
                }
            }
        }
        Ok(attachment)
    }

    fn detach(&mut self, tools: &mut Tools<'_>, path: &Path) {
        if let Some(attachment) = self.at.remove(path) {
            debug!("detaching from {}", path.display());
            attachment.detach(tools);
        }
    }
}

impl Attachment {
    /// Closing a link detaches it; a legacy attachment is taken back and crossed out.
    fn detach(self, tools: &mut Tools<'_>) {
        for (hook, kind) in self.hooks {
            let Kind::Legacy { entry } = kind else { continue };
            let detached = tools.object.program(hook).and_then(|program| {
                bpf::prog_detach(program, &self.directory, hook.attach_type())
            });
            match detached {
                Err(error) if error.raw_os_error() != Some(ENOENT) => {
                    warn!("cannot detach {}: {error}", hook.program());
                }
                _ => {
                    if let Err(error) = tools.journal.done(entry) {
                        warn!("{error}");
                    }
                }
            }
        }
    }
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const E2BIG: i32 = 7;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;

/// A link with flags 0; where the kernel knows no links, a legacy attachment with MULTI.
fn attach_hook(
    tools: &mut Tools<'_>,
    hook: Hook,
    path: &Path,
    attachment: &Attachment,
) -> Result<Kind> {
    let linked = tools.object.program(hook).and_then(|program| {
        bpf::link_cgroup(program, &attachment.directory, hook.attach_type())
    });
    let refusal = match linked {
        Ok(link) => return Ok(Kind::Link { _link: link }),
        Err(refusal) => refusal,
    };
    log_refusal("bpf_link_create", &refusal, path);
    if !matches!(refusal.raw_os_error(), Some(EINVAL | ENOSYS)) {
        return Err(refused(bpf::Call::LinkCreate, hook, path, refusal));
    }
    attach_legacy(tools, hook, path, attachment)
}

fn attach_legacy(
    tools: &mut Tools<'_>,
    hook: Hook,
    path: &Path,
    attachment: &Attachment,
) -> Result<Kind> {
    let program = tools.object.program(hook);
    let (program, id) = program
        .and_then(|program| Ok((program, bpf::program_id(program)?)))
        .map_err(|error| Error::io("ask for the id of", hook.program(), error))?;
    let undo = Undo::Attachment {
        path: path.to_owned(),
        id: attachment.id,
        attach_type: hook.attach_type() as u32,
        program: id,
    };
    let entry = tools.journal.record(Some(BackendId::Ebpf), &undo)?;
    match bpf::prog_attach_multi(program, &attachment.directory, hook.attach_type()) {
        Ok(()) => Ok(Kind::Legacy { entry }),
        Err(refusal) => {
            log_refusal("bpf_prog_attach", &refusal, path);
            tools.journal.done(entry)?;
            Err(refused(bpf::Call::ProgAttach, hook, path, refusal))
        }
    }
}

/// The words that the readers of the founding report grep for.
fn log_refusal(call: &str, refusal: &io::Error, path: &Path) {
    let errno = refusal.raw_os_error().unwrap_or(0);
    debug!(
        "Failed to attach program to cgroup: `{call}` failed [errno={errno}] Cgroup path: {path:?}"
    );
}

fn refused(call: bpf::Call, hook: Hook, path: &Path, refusal: io::Error) -> Error {
    let (meaning, remedy) =
        bpf::explain(call, refusal.raw_os_error().unwrap_or(0), path, hook.attach_type());
    let mut error = Error::io(format!("attach {} to", hook.program()), path.display(), refusal);
    if matches!(remedy, Remedy::StopHolder(_)) {
        // EPERM, but it is not that we lack a privilege.
        error.kind = ErrorKind::Failed;
    }
    error.meaning(meaning).remedy(remedy)
}
