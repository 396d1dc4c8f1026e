//! Packet sockets: frames of an interface, past the network layer.

mod sys;

pub(crate) use sys::{Headers, attach, bind, open, send};
