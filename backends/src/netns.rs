//! Working inside another network namespace.
