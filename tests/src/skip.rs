//! Loud skips: what a kernel lacks is said and counted, never passed over.

use std::{fs::OpenOptions, io::Write, thread};

/// Leaves the current case because of what this machine lacks.
///
/// The reason goes to stderr and, when `CHADTHROTTLE_SKIPS` names a file, on a line of it:
/// `make test` prints and counts them at the end.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skip::record(&format!($($reason)*));
        return;
    }};
}

/// Says and records that the current case is skipped. The current thread's name is the case's.
pub fn record(reason: &str) {
    let thread = thread::current();
    let line = format!("SKIPPED {}{}: {reason}", binary(), thread.name().unwrap_or("a case"));
    // Straight to the descriptor: the test runner swallows what eprintln! writes.
    writeln!(std::io::stderr().lock(), "{line}").expect("write to stderr");
    if let Some(file) = std::env::var_os("CHADTHROTTLE_SKIPS") {
        let mut file =
            OpenOptions::new().append(true).create(true).open(file).expect("open skips");
        writeln!(file, "{line}").expect("write the skip");
    }
}

/// The name of this test binary without its hash: every backend has cases of the same names.
fn binary() -> String {
    let own = std::env::current_exe().ok();
    let name = own.as_deref().and_then(|path| path.file_name()?.to_str());
    name.and_then(|name| name.rsplit_once('-'))
        .map_or_else(String::new, |(name, _)| format!("{name} "))
}
