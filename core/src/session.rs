//! One run: a backend, its engine, a limit, and the way back.
