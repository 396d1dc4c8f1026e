//! What the kernel says when it refuses a request.

use std::{fmt, io};

use chadthrottle_core::{Error, error::describe};
use netlink_packet_core::NetlinkBuffer;

use super::{attributes, text_of};

/// `NLMSGERR_ATTR_MSG` of `include/uapi/linux/netlink.h`.
const MESSAGE: u16 = 1;
/// The answer begins with the errno and the header of the request; with `NETLINK_CAP_ACK` the
/// rest of the request is left out.
const REQUEST: usize = 4 + 16;
/// Of `NLM_F_CAPPED` and `NLM_F_ACK_TLVS`.
const HAS_ATTRIBUTES: u16 = 0x200;

/// An errno, and the sentence of an extended ack where the kernel gives one.
#[derive(Debug)]
pub struct Refusal {
    /// What went wrong.
    pub errno: io::Error,
    /// In the kernel's own words, empty when it has none.
    pub message: String,
}

impl Refusal {
    /// The number, 0 when it was not the kernel.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.errno.raw_os_error().unwrap_or(0)
    }

    /// The error of an operation on an object, the kernel's words in its meaning.
    #[must_use]
    pub fn explain(self, operation: &str, object: impl fmt::Display) -> Error {
        let error = Error::io(operation, object, self.errno);
        if self.message.is_empty() {
            return error;
        }
        error.meaning(format!("The kernel says: {}", sentence(&self.message)))
    }
}

/// With one full stop.
fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", describe(&self.errno))?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl From<io::Error> for Refusal {
    fn from(errno: io::Error) -> Self {
        Self { errno, message: String::new() }
    }
}

/// What an ack, or the end of a dump, says.
pub(super) fn check(message: &NetlinkBuffer<&[u8]>) -> Result<(), Refusal> {
    let payload = message.payload();
    let code =
        payload.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code >= 0 {
        return Ok(());
    }
    let mut refusal = Refusal::from(io::Error::from_raw_os_error(-code));
    if message.flags() & HAS_ATTRIBUTES != 0 {
        let text = attributes(payload, REQUEST).find(|(kind, _)| *kind == MESSAGE);
        refusal.message = text.map(|(_, text)| text_of(text)).unwrap_or_default();
    }
    Err(refusal)
}
