//! Offsets from the kernel's own type information.
