//! The maps, typed: slots for limits, tags for sockets, processes and cgroups.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, SkStorage};
use chadthrottle_core::{
    Counters, Direction, Error, Limits, Result, backend::Count, error::ErrorKind,
};
use chadthrottle_ebpf::layout::{self, CGROUP_DEPTHS, Global, Group, MAX_LIMITS, Rate, Tag};

use super::{object::Object, sys::Plain};

/// Everything that user space writes and reads.
pub(super) struct Maps {
    rates: Array<MapData, Plain<Rate>>,
    groups: Array<MapData, Plain<Group>>,
    global: Array<MapData, Plain<Global>>,
    tags: SkStorage<MapData, Plain<Tag>>,
    processes: HashMap<MapData, u32, Plain<Tag>>,
    cgroups: HashMap<MapData, u64, Plain<Tag>>,
    listeners: HashMap<MapData, u32, u32>,
    /// Depth in the hierarchy of what is in `cgroups`.
    cgroup_depths: BTreeMap<u64, u32>,
    /// Slots that were never given to a limit begin here; those given back.
    fresh_slots: u32,
    free_slots: Vec<u32>,
    global_fd: OwnedFd,
}

impl Maps {
    pub(super) fn take(object: &mut Object) -> Result<Self> {
        let global = object.take_map("GLOBAL")?;
        Ok(Self {
            global_fd: descriptor(&global)
                .map_err(|error| Error::io("duplicate", "GLOBAL", error))?,
            rates: typed(object.take_map("RATES")?, "RATES")?,
            groups: typed(object.take_map("GROUPS")?, "GROUPS")?,
            global: typed(global, "GLOBAL")?,
            tags: typed(object.take_map("TAGS")?, "TAGS")?,
            processes: typed(object.take_map("TGIDS")?, "TGIDS")?,
            cgroups: typed(object.take_map("CGROUPS")?, "CGROUPS")?,
            listeners: typed(object.take_map("LISTENERS")?, "LISTENERS")?,
            cgroup_depths: BTreeMap::new(),
            fresh_slots: 0,
            free_slots: Vec::new(),
        })
    }

    /// Gives a free slot to a new limit, counters at zero. The tag is what its sockets carry.
    pub(super) fn open_slot(&mut self, limits: &Limits) -> Result<(u32, Tag)> {
        let slot = match self.free_slots.pop() {
            Some(slot) => slot,
            None if self.fresh_slots < MAX_LIMITS => {
                self.fresh_slots += 1;
                self.fresh_slots - 1
            }
            None => {
                return Err(Error::new(ErrorKind::Failed, "add", "a limit")
                    .meaning(format!("This instance already holds {MAX_LIMITS} limits."))
                    .advice("Lift one first."));
            }
        };
        let old = self.rates.get(&index(slot, Direction::Download), 0).map_err(read)?.0;
        let generation = old.generation.wrapping_add(1).max(1);
        for direction in Direction::BOTH {
            let zero = Plain(Group::default());
            self.groups.set(index(slot, direction), zero, 0).map_err(write)?;
        }
        self.write_rates(slot, generation, limits)?;
        Ok((slot, Tag { limit: slot + 1, generation, owner: 0 }))
    }

    /// New rates for a slot in use.
    pub(super) fn set_rates(&mut self, tag: Tag, limits: &Limits) -> Result<()> {
        self.write_rates(tag.limit - 1, tag.generation, limits)
    }

    fn write_rates(&mut self, slot: u32, generation: u32, limits: &Limits) -> Result<()> {
        for direction in Direction::BOTH {
            let bytes_per_second =
                limits.get(direction).map_or(0, |limit| limit.rate.bytes_per_second());
            let rate = Rate { bytes_per_second, generation, in_use: 1 };
            self.rates.set(index(slot, direction), Plain(rate), 0).map_err(write)?;
        }
        Ok(())
    }

    /// From now on every packet of this limit passes and its tags mean nothing.
    pub(super) fn close_slot(&mut self, tag: Tag) -> Result<()> {
        for direction in Direction::BOTH {
            let rate = Rate { generation: tag.generation.wrapping_add(1), ..Rate::default() };
            self.rates.set(index(tag.limit - 1, direction), Plain(rate), 0).map_err(write)?;
        }
        self.free_slots.push(tag.limit - 1);
        Ok(())
    }

    pub(super) fn counters(&self, tag: Tag) -> Result<Counters> {
        let count = |direction| -> Result<Count> {
            let group = self.groups.get(&index(tag.limit - 1, direction), 0).map_err(read)?.0;
            Ok(Count { packets: group.packets, bytes: group.bytes, dropped: group.dropped })
        };
        Ok(Counters {
            download: count(Direction::Download)?,
            upload: count(Direction::Upload)?,
        })
    }

    /// Puts an open socket under a limit; takes effect with its next packet.
    pub(super) fn tag(&mut self, socket: &impl AsRawFd, tag: Tag) -> io::Result<()> {
        self.tags.insert(socket, Plain(tag), 0).map_err(errno)
    }

    pub(super) fn tag_of(&self, socket: &impl AsRawFd) -> Option<Tag> {
        self.tags.get(socket, 0).ok().map(|plain| plain.0)
    }

    /// Takes a socket from under its limit.
    pub(super) fn untag(&mut self, socket: &impl AsRawFd) -> io::Result<()> {
        match self.tags.remove(socket) {
            Err(MapError::KeyNotFound) => Ok(()),
            other => other.map_err(errno),
        }
    }

    /// New sockets and new children of this process belong to the limit.
    pub(super) fn add_process(&mut self, pid: i32, tag: Tag) -> Result<()> {
        self.processes.insert(pid.cast_unsigned(), Plain(tag), 0).map_err(write)
    }

    pub(super) fn remove_process(&mut self, pid: i32) -> Result<()> {
        match self.processes.remove(&pid.cast_unsigned()) {
            Err(MapError::KeyNotFound) => Ok(()),
            other => other.map_err(write),
        }
    }

    /// The processes of a limit, those included that the kernel added when they were forked.
    pub(super) fn processes(&self, tag: Tag) -> Vec<i32> {
        self.processes
            .iter()
            .filter_map(std::result::Result::ok)
            .filter(|(_, value)| value.0 == tag)
            .map(|(pid, _)| pid.cast_signed())
            .collect()
    }

    /// Sockets of this cgroup (by id) and of all below it belong to the limit; `depth` is 0
    /// for the root of the hierarchy.
    pub(super) fn add_cgroup(&mut self, id: u64, depth: u32, tag: Tag) -> Result<()> {
        let mut depths = self.cgroup_depths.clone();
        depths.insert(id, depth);
        let packed = pack_depths(&depths)?;
        self.cgroups.insert(id, Plain(tag), 0).map_err(write)?;
        self.cgroup_depths = depths;
        self.publish_depths(packed)
    }

    /// Sockets of this cgroup no longer belong to its limit.
    pub(super) fn remove_cgroup(&mut self, id: u64) -> Result<()> {
        match self.cgroups.remove(&id) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(write(error)),
        }
        self.cgroup_depths.remove(&id);
        self.publish_depths(pack_depths(&self.cgroup_depths)?)
    }

    fn publish_depths(&mut self, depths: [u8; CGROUP_DEPTHS]) -> Result<()> {
        self.change_global(|global| {
            global.cgroup_depths = depths;
            global.generation = global.generation.wrapping_add(1);
        })
    }

    /// Sockets that were found to be under no limit are looked at again: the subflows of an
    /// MPTCP socket that has just been tagged.
    pub(super) fn forget_untagged(&mut self) -> Result<()> {
        self.change_global(|global| global.generation = global.generation.wrapping_add(1))
    }

    /// A listener that was open before: its first windows are small from now on.
    pub(super) fn add_listener(&mut self, port: u16, tag: Tag) -> io::Result<()> {
        self.listeners.insert(u32::from(port), tag.limit, 0).map_err(errno)
    }

    /// Forgets the listeners of a limit, also those that the kernel noted.
    pub(super) fn remove_listeners(&mut self, tag: Tag) {
        let ports: Vec<u32> = self
            .listeners
            .iter()
            .filter_map(std::result::Result::ok)
            .filter(|(_, limit)| *limit == tag.limit)
            .map(|(port, _)| port)
            .collect();
        for port in ports {
            // One that is gone by now needs no removing; a wrong entry costs a small window.
            drop(self.listeners.remove(&port));
        }
    }

    /// What the iterator does next, and for which limit (`None`: for all).
    pub(super) fn aim_iterator(&mut self, action: u32, tag: Option<Tag>) -> Result<()> {
        self.change_global(|global| {
            global.iterator = action;
            global.iterator_limit = tag.map_or(0, |tag| tag.limit);
        })
    }

    /// Whether sockets that come under a limit may count on our program on the interfaces, and on
    /// what is sent when it is due.
    pub(super) fn set_wired(&mut self, wired: u32, clocked: bool) -> Result<()> {
        self.change_global(|global| {
            global.wired = wired;
            global.clocked = clocked.into();
        })
    }

    fn change_global(&mut self, change: impl FnOnce(&mut Global)) -> Result<()> {
        let mut global = self.global.get(&0, 0).map_err(read)?;
        let before = global.0;
        change(&mut global.0);
        if global.0 == before {
            return Ok(());
        }
        self.global.set(0, global, 0).map_err(write)
    }

    /// The map that tells the iterator what to do, for the guardian to hold.
    pub(super) fn global_fd(&self) -> BorrowedFd<'_> {
        self.global_fd.as_fd()
    }
}

/// Tells the iterator what to do through the descriptor that the guardian held.
pub(super) fn aim_held_iterator(global: OwnedFd, action: u32) -> io::Result<()> {
    let map = MapData::from_fd(global).map_err(errno)?;
    let mut map: Array<MapData, Plain<Global>> = Map::Array(map).try_into().map_err(errno)?;
    let mut global = map.get(&0, 0).map_err(errno)?;
    global.0.iterator = action;
    global.0.iterator_limit = 0;
    map.set(0, global, 0).map_err(errno)
}

fn descriptor(map: &Map) -> io::Result<OwnedFd> {
    match map {
        Map::Array(data) => data.fd().as_fd().try_clone_to_owned(),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn index(slot: u32, direction: Direction) -> u32 {
    slot * 2
        + match direction {
            Direction::Download => layout::DOWNLOAD,
            Direction::Upload => layout::UPLOAD,
        }
}

/// The different depths, deepest first, as the kernel programs want them.
fn pack_depths(cgroups: &BTreeMap<u64, u32>) -> Result<[u8; CGROUP_DEPTHS]> {
    let depths: BTreeSet<u32> = cgroups.values().copied().collect();
    let mut packed = [0; CGROUP_DEPTHS];
    if depths.len() > packed.len() {
        return Err(Error::new(ErrorKind::Failed, "add", "a cgroup")
            .meaning(format!("The cgroups would be at more than {CGROUP_DEPTHS} depths."))
            .advice("Limit a cgroup that holds them instead."));
    }
    for (to, depth) in packed.iter_mut().zip(depths.into_iter().rev()) {
        *to = u8::try_from(depth + 1).map_err(|_| {
            Error::new(ErrorKind::Failed, "add", "a cgroup")
                .meaning(format!("It is nested {depth} deep; 254 is the most."))
        })?;
    }
    Ok(packed)
}

pub(super) fn typed<M: TryFrom<Map, Error = MapError>>(map: Map, name: &str) -> Result<M> {
    map.try_into().map_err(|error: MapError| {
        Error::new(ErrorKind::Failed, "use the map", name)
            .meaning(format!("The embedded object does not fit this program: {error}."))
    })
}

/// The errno inside aya's error.
pub(super) fn errno(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::CreateError { io_error, .. } => io_error,
        MapError::KeyNotFound => io::ErrorKind::NotFound.into(),
        other => io::Error::other(other.to_string()),
    }
}

fn read(error: MapError) -> Error {
    Error::io("read", "a BPF map", errno(error))
}

fn write(error: MapError) -> Error {
    Error::io("write", "a BPF map", errno(error))
}
