//! Maps from a key to the chain in which the packet goes on.

use std::ffi::{CStr, CString};

use nftnl::{MsgType, ProtoFamily};

use super::{batch::Batch, sys::MapMessage};

/// Elements of one message: a message holds 64 KiB, an element needs about 80 bytes.
const ELEMENTS: usize = 256;

/// What a map is keyed by; numbers in the byte order of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `socket cgroupv2`: the id of a cgroup, 8 bytes. Kernel 5.13.
    Cgroup,
    /// A mark of a packet or socket, 4 bytes.
    Mark,
}

impl Key {
    /// `TYPE_CGROUPV2` and `TYPE_MARK` of nft(8) (include/datatype.h), and the length.
    fn data_type(self) -> (u32, u32) {
        match self {
            Self::Cgroup => (46, 8),
            Self::Mark => (19, 4),
        }
    }
}

/// A map of one table. Dropping it removes nothing.
#[derive(Debug, Clone)]
pub struct Map {
    table: CString,
    family: ProtoFamily,
    pub(super) name: CString,
    /// Names it within the batch that makes it.
    pub(super) id: u32,
    key: Key,
}

/// One entry: a key in the host's byte order and the chain to go on in.
pub type Element = (Vec<u8>, CString);

impl Map {
    /// A map of this table; `id` is unique within it.
    #[must_use]
    pub fn new(table: &nftnl::Table, name: &CStr, id: u32, key: Key) -> Self {
        Self {
            table: table.get_name().to_owned(),
            family: table.get_family(),
            name: name.to_owned(),
            id,
            key,
        }
    }

    /// Makes it.
    pub fn create(&self, batch: &mut Batch) {
        batch.add("create the map", &self.message(&[]), MsgType::Add);
    }

    /// Adds elements; one that is there already fails the batch.
    pub fn insert(&self, batch: &mut Batch, elements: &[Element]) {
        for part in elements.chunks(ELEMENTS) {
            batch.add("add to the map", &self.message(part), MsgType::Add);
        }
    }

    /// Removes elements by their keys; one that is not there fails the batch.
    pub fn remove(&self, batch: &mut Batch, elements: &[Element]) {
        for part in elements.chunks(ELEMENTS) {
            batch.add("remove from the map", &self.message(part), MsgType::Del);
        }
    }

    fn message<'a>(&'a self, elements: &'a [Element]) -> MapMessage<'a> {
        let (key_type, key_len) = self.key.data_type();
        MapMessage {
            table: &self.table,
            family: self.family,
            name: &self.name,
            id: self.id,
            key_type,
            key_len,
            elements,
        }
    }
}
