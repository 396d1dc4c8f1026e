//! Who is meant by a limit, and how their packets are known.

use chadthrottle_core::{Error, ErrorKind, Host, Notice, Result, Target, journal::Journal};

use super::{
    flows::{Selected, select},
    known::Known,
    marks::Marks,
    members::{Members, State},
    space::{How, Space},
};
use crate::{
    moved::{Mark, Place},
    netns::Netns,
};

/// The journal and the host, for what is recorded.
type Ledger<'a> = (&'a Journal, &'a Host);

/// See the module's documentation.
pub(super) enum Who {
    Flows { members: Vec<Members>, known: Box<Known> },
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
                    "packets are known by their flows, so that new connections are free \
                     until they are found, for milliseconds: {error}"
                ))),
            }
        }
        let members = targets.iter().map(|target| Members::enter(host, target));
        Ok(Self::Flows { members: members.collect::<Result<_>>()?, known: Box::default() })
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

    /// Looks who belongs to the targets now; `None` when that was not necessary. `fresh`: nothing
    /// is taken for granted.
    pub(super) fn refresh(
        &mut self,
        fresh: bool,
        (journal, host): Ledger<'_>,
        said: &mut Vec<String>,
    ) -> Result<Option<Vec<State>>> {
        match self {
            Self::Flows { members, known } => {
                if fresh {
                    members.iter_mut().for_each(Members::look_again);
                    known.look_again();
                }
                Ok(Some(members.iter_mut().map(|members| members.refresh(host)).collect()))
            }
            // The kernel knows children and new sockets by their cgroup.
            Self::Marks(_) if !fresh => Ok(None),
            Self::Marks(marks) => {
                let (states, warnings) = marks.refresh(host, journal)?;
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

    /// Brings one namespace up to date: its interfaces, and by flows its filters; says whether
    /// there were new flows.
    pub(super) fn follow(
        &mut self,
        space: &mut Space,
        ledger: Ledger<'_>,
        said: &mut Vec<String>,
    ) -> Result<bool> {
        let errors = space.follow_links(Some(ledger))?;
        said.extend(errors.iter().map(Error::to_string));
        let Self::Flows { members, known } = self else { return Ok(false) };
        let sockets = space.sockets()?;
        known.learn(ledger.1, members, &sockets)?;
        let Selected { flows, ambiguous } = select(&sockets, &known.view(members));
        for port in ambiguous {
            said.push(format!(
                "UDP port {port} is also used by processes that are not limited; what it sends and \
                 receives cannot be told apart and is not limited"
            ));
        }
        space.sync(&flows)
    }

    /// Moves processes back and takes marks off their sockets.
    pub(super) fn leave(&mut self, journal: &Journal) -> Result<()> {
        match self {
            Self::Flows { .. } => Ok(()),
            Self::Marks(marks) => marks.leave(journal),
        }
    }
}
