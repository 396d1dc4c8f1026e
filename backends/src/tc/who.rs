//! Who is meant by a limit, and how their packets are known.

use std::{collections::HashSet, time::Duration};

use chadthrottle_core::{
    BackendId, Error, ErrorKind, Host, Limits, Notice, Result, Target,
    journal::{Entry, Journal, Undo},
    process::Process,
};

use super::{
    flows::{Flow, Owned, Selected, select},
    gate,
    known::Known,
    marks::Marks,
    members::{Members, State},
    presence::{self, Names},
    senders::Senders,
    space::{How, Space},
};
use crate::{
    moved::{self, Mark, Place},
    netns::Netns,
    steer::Reach,
};

/// The journal and the host, for what is recorded.
type Ledger<'a> = (&'a Journal, &'a Host);

/// See the module's documentation.
pub(super) enum Who {
    /// With the record that their sockets may be told of the limit.
    Flows {
        members: Vec<Members>,
        known: Box<Known>,
        entry: Entry,
    },
    Marks(Box<Marks>),
}

impl Who {
    /// By marks where there is one and processes can be moved, else by flows.
    pub(super) fn enter(
        targets: &[Target],
        mark: Option<Mark>,
        (journal, host): Ledger<'_>,
        notices: &mut Vec<Notice>,
    ) -> Result<Self> {
        if let Some(mark) = mark {
            match Marks::enter(host, journal, mark, targets) {
                Ok(marks) => return Ok(Self::Marks(Box::new(marks))),
                Err(error)
                    if matches!(error.kind, ErrorKind::NoSuchTarget | ErrorKind::Usage) =>
                {
                    return Err(error);
                }
                Err(error) => notices.push(Notice::Warning(format!(
                    "packets are known by their flows, so that new connections may be free \
                     until they are found, for milliseconds: {error}"
                ))),
            }
        }
        let members = targets.iter().map(|target| Members::enter(host, target));
        let members = members.collect::<Result<_>>()?;
        let (processes, cgroups) = moved::named(targets);
        let undo = Undo::Sockets { processes, cgroups };
        let entry = journal.record(Some(BackendId::Tc), &undo)?;
        Ok(Self::Flows { members, known: Box::default(), entry })
    }

    pub(super) fn how(&self) -> How {
        match self {
            Self::Flows { .. } => How::Flows,
            Self::Marks(marks) => How::Marks { mark: marks.mark, places: marks.places.clone() },
        }
    }

    pub(super) fn namespaces(&self, host: &Host) -> Vec<Netns> {
        match self {
            Self::Flows { members, .. } => {
                members.iter().flat_map(Members::namespaces).collect()
            }
            Self::Marks(marks) => marks.namespaces(host),
        }
    }

    /// Whether a socket of the targets is listed in this namespace.
    pub(super) fn has_sockets_in(&self, space: &Space, host: &Host) -> Result<bool> {
        let sockets = space.sockets_now()?;
        Ok(match self {
            Self::Flows { members, known, .. } => {
                let view = known.view(members);
                sockets.iter().any(|socket| view.has(socket))
            }
            Self::Marks(marks) => {
                marks.have_cgroup_of(host, &sockets) || space.has_marked(marks.mark)?
            }
        })
    }

    /// Whether a thread of the targets may be there, or a socket that they hold belong there, see
    /// [`super::presence`].
    pub(super) fn may_be_in(
        &self,
        names: Names,
        host: &Host,
        elsewhere: &HashSet<u64>,
    ) -> bool {
        let processes: Vec<&Process> = match self {
            Self::Flows { members, .. } => {
                members.iter().flat_map(Members::processes).collect()
            }
            Self::Marks(marks) => marks.processes().collect(),
        };
        presence::may_be_in(host, names, &processes, elsewhere)
    }

    /// Looks who belongs to the targets now; `None` when that was not necessary. `fresh`: nothing
    /// is taken for granted.
    pub(super) fn refresh(
        &mut self,
        fresh: bool,
        senders: &mut Senders,
        (journal, host): Ledger<'_>,
        said: &mut Vec<String>,
    ) -> Result<Option<Vec<State>>> {
        match self {
            Self::Flows { members, known, .. } => {
                if fresh {
                    members.iter_mut().for_each(Members::look_again);
                    known.look_again();
                }
                let states = members.iter_mut().map(|members| members.refresh(host)).collect();
                if !members.iter().all(Members::have_places) {
                    said.push(gate::free_at_first(
                        "cgroup v2 is not mounted, or does not show the cgroup of what is limited",
                    ));
                }
                Ok(Some(states))
            }
            // The kernel knows children and new sockets by their cgroup.
            Self::Marks(_) if !fresh => Ok(None),
            Self::Marks(marks) => {
                let (states, warnings) = marks.refresh(host, journal, senders)?;
                said.extend(warnings);
                Ok(Some(states))
            }
        }
    }

    /// The cgroups that rules match; by flows there are none.
    pub(super) fn places(&self) -> &[Place] {
        match self {
            Self::Flows { .. } => &[],
            Self::Marks(marks) => &marks.places,
        }
    }

    /// The cgroups in which sockets are created that only a look can tell from others.
    pub(super) fn gated(&self) -> impl Iterator<Item = &Place> {
        let members = match self {
            Self::Flows { members, .. } => members.as_slice(),
            Self::Marks(_) => &[],
        };
        members.iter().flat_map(Members::places)
    }

    /// Finds the interfaces of one namespace, and by flows what is to be matched there.
    pub(super) fn find(
        &mut self,
        space: &mut Space,
        ledger: Ledger<'_>,
        said: &mut Vec<String>,
    ) -> Result<Option<HashSet<Flow>>> {
        let errors = space.follow_links(Some(ledger))?;
        said.extend(errors.iter().map(Error::to_string));
        let Self::Flows { members, known, .. } = self else { return Ok(None) };
        let sockets = space.sockets()?;
        known.learn(ledger.1, members, space.netns.id(), &sockets)?;
        let Selected { flows, ambiguous } = select(&sockets, &known.view(members));
        for port in ambiguous {
            said.push(format!(
                "UDP port {port} is also used by processes that are not limited; what it sends and \
                 receives cannot be told apart and is not limited"
            ));
        }
        Ok(Some(flows))
    }

    /// Whether connections came since the last time. By marks nobody knows before it is time.
    pub(super) fn take_news(&mut self) -> bool {
        match self {
            Self::Flows { known, .. } => known.take_news(),
            Self::Marks(_) => false,
        }
    }

    /// Tells the connections of the targets what passes, when so much of the rate waits.
    pub(super) fn tell(
        &mut self,
        senders: &mut Senders,
        (journal, host): Ledger<'_>,
        limits: &Limits,
        waiting: Duration,
    ) -> Result<()> {
        if let Self::Marks(marks) = self {
            marks.find_sockets(host, journal, senders)?;
        }
        senders.tell(journal, limits, &self.connections(), waiting);
        Ok(())
    }

    /// Gives connections that the targets do not have any more back what they had. By marks that
    /// happens when they are looked for.
    pub(super) fn let_go(
        &self,
        senders: &mut Senders,
        (journal, host): Ledger<'_>,
    ) -> Result<()> {
        let Self::Flows { known, .. } = self else { return Ok(()) };
        let lost: Vec<_> = known.lost(senders.inodes()).collect();
        senders.let_go(host, journal, lost)
    }

    /// Gives all connections back what they were told.
    pub(super) fn free(
        &mut self,
        senders: &mut Senders,
        (journal, host): Ledger<'_>,
    ) -> Result<()> {
        let found = match self {
            Self::Flows { .. } => Ok(()),
            Self::Marks(marks) => marks.find_sockets(host, journal, senders),
        };
        found.and(senders.free(journal, &self.connections()))
    }

    fn connections(&self) -> Vec<Reach<'_>> {
        match self {
            Self::Flows { members, known, .. } => known.connections(members),
            Self::Marks(marks) => marks.connections(),
        }
    }

    /// The same, moves processes back and takes marks off their sockets. What fails stays in the
    /// journal: the guardian tries once more.
    pub(super) fn leave(&mut self, senders: &mut Senders, ledger: Ledger<'_>) -> Result<()> {
        let freed = self.free(senders, ledger);
        match self {
            Self::Flows { entry, .. } => freed.and_then(|()| ledger.0.done(*entry)),
            Self::Marks(marks) => marks.leave(ledger.0, freed),
        }
    }
}
