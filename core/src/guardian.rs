//! The process that puts things back when we are killed.
