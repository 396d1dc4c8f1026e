//! Which backend was chosen, and why the others were not.
