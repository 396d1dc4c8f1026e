//! cgroup v2: where it is mounted, whose cgroup is which, leaves of our own.

mod leaf;
mod mount;
mod tree;

pub use leaf::Leaf;
pub(crate) use leaf::take_back;
pub use mount::Cgroups;
pub use tree::{id, ids, is_cgroup2, own, processes};
