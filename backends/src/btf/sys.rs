//! The kernel's type information without a copy.
#![allow(unsafe_code)] // mmap(2)

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    ptr, slice,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The bytes of a file that does not change while the kernel runs.
pub(super) enum Mapped {
    /// Where the kernel has them.
    There { start: ptr::NonNull<u8>, length: usize },
    /// A copy.
    Here(Vec<u8>),
}

impl Mapped {
    /// Maps a file, or reads it where the kernel maps it not: /sys/kernel/btf before 6.16.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe {
            mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, &file, 0)
        };
        if let Some(start) = start.ok().and_then(|start| ptr::NonNull::new(start.cast())) {
            return Ok(Self::There { start, length });
        }
        let mut bytes = Vec::with_capacity(length + 1);
        file.read_to_end(&mut bytes)?;
        Ok(Self::Here(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            // SAFETY: mapped for reading as long as self lives; sysfs does not shorten it.
            Self::There { start, length } => unsafe {
                slice::from_raw_parts(start.as_ptr(), *length)
            },
            Self::Here(bytes) => bytes,
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Self::There { start, length } = self {
            // SAFETY: the mapping is ours, and nobody borrows it any more.
            let unmapped = unsafe { munmap(start.as_ptr().cast(), *length) };
            debug_assert!(unmapped.is_ok(), "an address that mmap gave");
        }
    }
}
