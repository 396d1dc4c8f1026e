//! The engine: limits come and go, the programs, tags and attachments follow.

use std::collections::BTreeMap;

use chadthrottle_core::{
    BackendId, Counters, Direction, Engine, Error, Host, LimitId, Limits, Notice, Result,
    Target, cgroup,
    error::ErrorKind,
    journal::{Entry, Journal},
};
use chadthrottle_ebpf::layout::{ADOPT, RESTORE, Tag};
use tracing::{debug, warn};

use super::{
    attach::{Attachments, Needed, Tools},
    maps::Maps,
    members::{Members, State},
    object::Object,
    sockets::{Scan, Sockets},
    undo,
    wire::Wire,
};
use crate::netns::Netns;

/// The loaded programs and all limits that they serve.
pub(super) struct EbpfEngine {
    host: Host,
    journal: Journal,
    object: Object,
    maps: Maps,
    attachments: Attachments,
    wire: Wire,
    limits: BTreeMap<LimitId, Active>,
    next: u32,
    /// `CHADTHROTTLE_TEST_ROOT_CGROUP`: attach to the root, limit only the targets.
    root_only: bool,
}

/// One limit in force.
struct Active {
    tag: Tag,
    members: Vec<Members>,
    sockets: Sockets,
    /// Whether downloads are limited.
    downloads: bool,
    /// The network namespaces of its processes, as of the last look.
    namespaces: Vec<Netns>,
    entry: Entry,
    /// Its cgroup is gone and was reported as such.
    away: bool,
}

impl EbpfEngine {
    pub(super) fn start(host: &Host, journal: &Journal, root_only: bool) -> Result<Self> {
        let mut object = Object::load()?;
        let mut maps = Maps::take(&mut object)?;
        let wire = Wire::new(object.take_map("KEPT")?);
        // What the guardian will want, should we die, is what the iterator does by default.
        maps.aim_iterator(RESTORE, None)?;
        if let Some(program) = object.iterator() {
            journal.hold(undo::HELD_ITERATOR, program)?;
            journal.hold(undo::HELD_GLOBAL, maps.global_fd())?;
        }
        Ok(Self {
            host: host.clone(),
            journal: journal.clone(),
            object,
            maps,
            attachments: Attachments::default(),
            wire,
            limits: BTreeMap::new(),
            next: 0,
            root_only,
        })
    }

    /// Enters the targets, attaches where they are, then tags what they hold.
    fn fill(&mut self, id: LimitId, targets: &[Target]) -> Result<()> {
        for target in targets {
            let active = self.limits.get_mut(&id).ok_or_else(unknown)?;
            let members = Members::enter(&self.host, target, &mut self.maps, active.tag)?;
            active.members.push(members);
        }
        self.cover(id)?;
        self.show_windows(id)?;
        self.rescan(id)
    }

    /// Attaches to the interfaces of the limit's network namespaces, where the kernel lets us.
    fn show_windows(&mut self, id: LimitId) -> Result<()> {
        let active = self.limits.get_mut(&id).ok_or_else(unknown)?;
        active.namespaces = active.find_namespaces(&self.host);
        if active.namespaces.is_empty() {
            // A command that is about to be started, in our own.
            active.namespaces.push(Netns::current()?);
        }
        if active.downloads {
            self.wire.cover(self.object.wire(), &active.namespaces);
        }
        self.maps.set_wired(self.wire.state(), self.wire.is_clocked())
    }

    /// Tags sockets, attaches to the cgroups they were created in, hands them to the kernel.
    fn rescan(&mut self, id: LimitId) -> Result<()> {
        let active = self.limits.get_mut(&id).ok_or_else(unknown)?;
        let tag = active.tag;
        let found = active.sockets.rescan(&mut Scan {
            host: &self.host,
            journal: &self.journal,
            maps: &mut self.maps,
            tag,
            members: &active.members,
        })?;
        self.cover(id)?;
        if self.object.sets_callbacks {
            return self.iterate(ADOPT, Some(tag), &found.changed);
        }
        // Open sockets do not call us: visited each second, they share the rate anew.
        let namespaces = self.limits.get(&id).ok_or_else(unknown)?.namespaces.clone();
        self.iterate(ADOPT, Some(tag), &namespaces)
    }

    /// Runs the iterator over these namespaces, then aims it back at what the guardian needs.
    fn iterate(&mut self, action: u32, tag: Option<Tag>, namespaces: &[Netns]) -> Result<()> {
        let Some(program) = self.object.iterator() else { return Ok(()) };
        if namespaces.is_empty() {
            return Ok(());
        }
        self.maps.aim_iterator(action, tag)?;
        for netns in namespaces {
            if let Err(error) = undo::run_iterator_in(netns, program) {
                warn!("{error}");
            }
        }
        self.maps.aim_iterator(RESTORE, None)
    }

    /// Attaches to the cgroups that hold a member or a tagged socket, and to no others.
    fn reconcile(&mut self) -> Result<()> {
        let downloads = self.limits.values().filter(|active| active.downloads);
        let shown_in: Vec<&Netns> = downloads.flat_map(|active| &active.namespaces).collect();
        self.wire.keep(&shown_in);
        let needed = self.needed(self.limits.values())?;
        let cgroups = self.host.cgroups()?;
        self.attachments.reconcile(
            &mut Tools { object: &self.object, journal: &self.journal, cgroups },
            &needed,
        )
    }

    /// Attaches to those of one limit; the others are not looked at.
    fn cover(&mut self, id: LimitId) -> Result<()> {
        let needed = self.needed(self.limits.get(&id).into_iter())?;
        let cgroups = self.host.cgroups()?;
        let tools = &mut Tools { object: &self.object, journal: &self.journal, cgroups };
        self.attachments.cover(tools, &needed).map(drop)
    }

    fn needed<'a>(&self, limits: impl Iterator<Item = &'a Active>) -> Result<Needed> {
        let mut needed = Needed::new();
        if self.root_only && !self.limits.is_empty() {
            let root = &self.host.cgroups()?.mount;
            needed.insert(root.clone(), cgroup::id(root)?);
        } else {
            limits.for_each(|active| active.add_needed(&self.host, &mut needed));
        }
        Ok(needed)
    }

    fn refresh_one(&mut self, id: LimitId, notices: &mut Vec<Notice>) -> Result<()> {
        let active = self.limits.get_mut(&id).ok_or_else(unknown)?;
        let mut states = Vec::new();
        for members in &mut active.members {
            states.push(members.refresh(
                &self.host,
                &mut self.maps,
                active.tag,
                self.object.follows_forks(),
            )?);
        }
        let away = states.contains(&State::Away);
        if away && !active.away {
            notices.push(Notice::Warning(
                "a limited cgroup is gone; it is limited again when it comes back".to_owned(),
            ));
        }
        active.away = away;
        if states.iter().all(|state| *state == State::Ended) {
            notices.push(Notice::TargetEnded(id));
            return Ok(());
        }
        self.show_windows(id)?;
        self.rescan(id)
    }

    /// Lets every socket of the limit run free and forgets it. Goes on after an error. What it
    /// alone needed stays attached.
    fn release(&mut self, id: LimitId) -> (Counters, Result<()>) {
        let Some(mut active) = self.limits.remove(&id) else {
            return (Counters::default(), Err(unknown()));
        };
        let counted = self.maps.counters(active.tag);
        let mut outcome = self.maps.close_slot(active.tag);
        self.wire.hurry(active.tag.limit - 1);
        for pid in self.maps.processes(active.tag) {
            outcome = outcome.and(self.maps.remove_process(pid));
        }
        self.maps.remove_listeners(active.tag);
        let namespaces = active.find_namespaces(&self.host);
        if self.object.iterator().is_some() {
            outcome = outcome.and(self.iterate(RESTORE, Some(active.tag), &namespaces));
        } else {
            let processes = active.members.iter().flat_map(Members::processes);
            undo::restore_by_descriptor(&self.host, processes, &[]);
        }
        for members in &mut active.members {
            outcome = outcome.and(members.leave(&mut self.maps));
        }
        // What failed stays in the journal: the guardian tries once more.
        let mut records = active.sockets.take_records();
        records.push(active.entry);
        for record in records {
            outcome = outcome.and_then(|()| self.journal.done(record));
        }
        let counters = counted.as_ref().copied().unwrap_or_default();
        (counters, outcome.and(counted.map(drop)))
    }
}

impl Active {
    fn add_needed(&self, host: &Host, needed: &mut Needed) {
        for members in &self.members {
            match members.cgroup() {
                Some((path, id)) => drop(needed.insert(path, id)),
                None => {
                    for process in members.processes() {
                        // It may have ended a moment ago; then nothing is needed for it.
                        match host.cgroup_of(process.key.pid) {
                            Ok(path) => add_path(needed, path),
                            Err(error) => debug!("{error}"),
                        }
                    }
                }
            }
        }
        let Ok(cgroups) = host.cgroups() else { return };
        for id in self.sockets.cgroups() {
            if !needed.values().any(|known| *known == id)
                && let Some(path) = cgroups.find(id)
            {
                needed.insert(path, id);
            }
        }
    }

    fn find_namespaces(&self, host: &Host) -> Vec<Netns> {
        undo::namespaces_of(host, self.members.iter().flat_map(Members::processes))
    }
}

fn add_path(needed: &mut Needed, path: std::path::PathBuf) {
    if let Ok(id) = cgroup::id(&path) {
        needed.insert(path, id);
    }
}

impl Engine for EbpfEngine {
    fn add(&mut self, targets: &[Target], limits: &Limits) -> Result<LimitId> {
        let (_, tag) = self.maps.open_slot(limits)?;
        let undo = undo::sockets_of(targets);
        let entry = match self.journal.record(Some(BackendId::Ebpf), &undo) {
            Ok(entry) => entry,
            Err(error) => return Err(self.maps.close_slot(tag).err().unwrap_or(error)),
        };
        let id = LimitId(self.next);
        self.next += 1;
        let active = Active {
            tag,
            members: Vec::new(),
            sockets: Sockets::default(),
            downloads: limits.get(Direction::Download).is_some(),
            namespaces: Vec::new(),
            entry,
            away: false,
        };
        self.limits.insert(id, active);
        match self.fill(id, targets) {
            Ok(()) => Ok(id),
            Err(error) => {
                if let Err(second) = self.remove(id).1 {
                    warn!("{second}");
                }
                Err(error)
            }
        }
    }

    fn update(&mut self, id: LimitId, limits: &Limits) -> Result<()> {
        let active = self.limits.get_mut(&id).ok_or_else(unknown)?;
        active.downloads = limits.get(Direction::Download).is_some();
        self.show_windows(id)?;
        let active = self.limits.get(&id).ok_or_else(unknown)?;
        let (tag, namespaces) = (active.tag, active.namespaces.clone());
        self.maps.set_rates(tag, limits)?;
        self.wire.hurry(tag.limit - 1);
        // A slow socket would see the new rate with its next packet only.
        self.iterate(ADOPT, Some(tag), &namespaces)
    }

    fn counters(&self, id: LimitId) -> Result<Counters> {
        self.maps.counters(self.limits.get(&id).ok_or_else(unknown)?.tag)
    }

    fn attach_kind(&self) -> &'static str {
        self.attachments.kind()
    }

    fn refresh(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        for id in self.limits.keys().copied().collect::<Vec<_>>() {
            if let Err(error) = self.refresh_one(id, &mut notices) {
                notices.push(Notice::Warning(error.to_string()));
            }
        }
        if let Err(error) = self.reconcile() {
            notices.push(Notice::Warning(error.to_string()));
        }
        notices
    }

    fn remove(&mut self, id: LimitId) -> (Counters, Result<()>) {
        let (counters, released) = self.release(id);
        (counters, self.reconcile().and(released))
    }

    fn stop(mut self: Box<Self>) -> Result<()> {
        self.shut_down()
    }
}

impl EbpfEngine {
    fn shut_down(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for id in self.limits.keys().copied().collect::<Vec<_>>() {
            outcome = outcome.and(self.release(id).1);
        }
        if let Ok(cgroups) = self.host.cgroups() {
            self.attachments.clear(&mut Tools {
                object: &self.object,
                journal: &self.journal,
                cgroups,
            });
        }
        outcome
    }
}

impl Drop for EbpfEngine {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            warn!("{error}");
        }
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::Failed, "find", "the limit").meaning("It is not in force.")
}
