//! `nf_tables` through nftnl and mnl: what those crates lack, and atomic batches.
//!
//! - [`Connection`] is a socket to the `nf_tables` of one network namespace; tables that are made
//!   with [`Batch::create_owned_table`] are removed by the kernel when it closes, also on
//!   `kill -9`, and nobody else can change them.
//! - [`Batch`] is a transaction.
//! - [`Map`] maps a cgroup or a mark to the chain in which its packets go on: its cost does not
//!   grow with its size, that of a list of rules does.
//! - [`LimitOver`], [`CountIn`], [`GoByMap`] are expressions of rules.

mod batch;
mod connection;
mod expr;
mod map;
mod sys;

use std::io;

use chadthrottle_core::{Error, check::Remedy};

pub use batch::Batch;
pub use connection::{Connection, Counted};
pub use expr::{CountIn, GoByMap, LimitOver, Queue, QueueBy};
pub use map::{Element, Key, Map};

/// What an errno of `nf_tables` means to somebody who wanted to change it.
fn explain(step: &'static str, source: io::Error) -> Error {
    let errno = source.raw_os_error();
    let error = Error::io(format!("{step} in"), "nf_tables", source);
    match errno {
        Some(libc::EPERM) => error
            .meaning("We lack CAP_NET_ADMIN, or the table belongs to another process.")
            .remedy(Remedy::GrantCapability("CAP_NET_ADMIN".to_owned())),
        Some(libc::ENOENT) => error
            .meaning("The kernel lacks an expression or object of nf_tables, or it is gone."),
        Some(libc::EOPNOTSUPP) => {
            error.meaning("The kernel is too old or was built without it.")
        }
        Some(libc::EEXIST) => error.meaning("Somebody has made one of the same name."),
        Some(libc::ENOBUFS | libc::EMSGSIZE) => {
            error.meaning("The changes are too many for one message to the kernel.")
        }
        _ => error,
    }
}
