//! The parts of the kernel programs that need the kernel.

pub(crate) mod attribution;
pub(crate) mod constants;
pub(crate) mod creation;
pub(crate) mod download;
pub(crate) mod events;
pub(crate) mod hooks;
pub(crate) mod iterator;
pub(crate) mod joined;
pub(crate) mod kept;
pub(crate) mod maps;
pub(crate) mod packets;
pub(crate) mod upload;
pub(crate) mod wire;
