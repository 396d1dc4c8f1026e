//! Changes that are applied whole or not at all.

use std::ffi::CStr;

use nftnl::{MsgType, NlMsg, ProtoFamily};

use super::sys::{CounterMessage, TableMessage};

/// linux/netlink.h: flags of `nlmsghdr`.
const NLM_F_ACK: u16 = 4;
/// linux/netfilter/nfnetlink.h: the messages around a batch.
const BATCH_MESSAGES: [u16; 2] = [0x10, 0x11];
/// `NFT_TABLE_F_OWNER` of `linux/netfilter/nf_tables.h`: the kernel removes the table when the
/// socket that made it closes. Kernel 5.12.
const TABLE_OWNED: u32 = 2;

/// A transaction: what is added to it takes effect at once, or nothing of it does.
pub struct Batch {
    inner: nftnl::Batch,
    /// What each message is for, in their order.
    steps: Vec<&'static str>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { inner: nftnl::Batch::new(), steps: Vec::new() }
    }

    /// Adds a message; `step` says what it does, as an infinitive: "create the chain".
    pub fn add(&mut self, step: &'static str, message: &impl NlMsg, kind: MsgType) {
        self.inner.add(message, kind);
        self.steps.push(step);
    }

    /// Makes a table that the kernel removes when the socket closes that sends this batch.
    pub fn create_owned_table(&mut self, name: &CStr, family: ProtoFamily) {
        let message = TableMessage { name, family, flags: TABLE_OWNED };
        self.add("create the table", &message, MsgType::Add);
    }

    /// Removes a table with all that is in it.
    pub fn delete_table(&mut self, name: &CStr, family: ProtoFamily) {
        let message = TableMessage { name, family, flags: 0 };
        self.add("delete the table", &message, MsgType::Del);
    }

    /// Makes (or removes) a named counter.
    pub fn counter(&mut self, table: &nftnl::Table, name: &CStr, kind: MsgType) {
        let (family, table) = (table.get_family(), table.get_name());
        self.add("change the counter", &CounterMessage { table, family, name }, kind);
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What the message with this sequence number is for.
    pub(super) fn step(steps: &[&'static str], first: u32, seq: u32) -> &'static str {
        let index = seq.checked_sub(first).map(|index| index as usize);
        index.and_then(|index| steps.get(index)).copied().unwrap_or("change nf_tables")
    }

    /// The bytes to send, and what is needed to understand the answer.
    ///
    /// Only the last message asks to be acknowledged: the kernel reports failures in any case,
    /// and thousands of acknowledgements would overflow the socket.
    pub(super) fn finish(self) -> Finished {
        let finalized = self.inner.finalize();
        let mut bytes: Vec<u8> = finalized.iter().flatten().copied().collect();
        // Where the last message is, and the numbers of the first and the last one.
        let (mut at, mut last_at, mut first, mut last) = (0, None, 0, 0);
        while let Some(header) = bytes.get(at..at + 16) {
            let long = |from: usize| {
                u32::from_ne_bytes([
                    header[from],
                    header[from + 1],
                    header[from + 2],
                    header[from + 3],
                ])
            };
            let short = |from: usize| u16::from_ne_bytes([header[from], header[from + 1]]);
            let (length, kind, flags, seq) =
                (long(0), short(4), short(6) & !NLM_F_ACK, long(8));
            bytes[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
            if !BATCH_MESSAGES.contains(&kind) {
                if last_at.is_none() {
                    first = seq;
                }
                (last_at, last) = (Some(at), seq);
            }
            at += (length as usize).next_multiple_of(4).max(16);
        }
        if let Some(at) = last_at {
            let flags = u16::from_ne_bytes([bytes[at + 6], bytes[at + 7]]) | NLM_F_ACK;
            bytes[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
        }
        Finished { bytes, steps: self.steps, first, last }
    }
}

/// A batch that is ready to be sent.
pub(super) struct Finished {
    pub(super) bytes: Vec<u8>,
    pub(super) steps: Vec<&'static str>,
    pub(super) first: u32,
    pub(super) last: u32,
}
