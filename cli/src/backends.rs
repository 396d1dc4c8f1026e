//! The backends that are built: the only place that names them all.

use chadthrottle_backends::{ebpf::EbpfBackend, nft::NftBackend, tc::TcBackend};
use chadthrottle_core::Backend;

/// All of them, in the order in which `auto` tries them.
pub(crate) fn built() -> Vec<Box<dyn Backend>> {
    vec![Box::new(EbpfBackend), Box::new(TcBackend::default()), Box::new(NftBackend::default())]
}
