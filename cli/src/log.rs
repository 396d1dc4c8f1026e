//! What people read: all of it on stderr, so that stdout carries nothing but data.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
};

use tracing_subscriber::EnvFilter;

/// Starts the log. `RUST_LOG` decides what is shown; without it our own notices and
/// everybody's warnings, or when `quiet` only warnings.
pub(crate) fn init(quiet: bool) {
    let default = if quiet { "warn" } else { "warn,chadthrottle=info" };
    let filter = match env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::builder().parse_lossy(directives)
        }
        _ => EnvFilter::new(default),
    };
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Log)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .with_target(false)
        // Else a log line that cannot be written (nobody reads stderr any more) panics.
        .log_internal_errors(false)
        .without_time()
        .init();
}

/// Where lines go while the live view has the screen.
static VIEW: Mutex<Option<Sender<String>>> = Mutex::new(None);

/// From now on lines go to the receiver, unless stderr is not the screen.
pub(crate) fn capture() -> Receiver<String> {
    let (sender, receiver) = channel();
    if io::stderr().is_terminal() {
        *VIEW.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }
    receiver
}

/// Lines go to stderr again.
pub(crate) fn release() {
    *VIEW.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// stderr, or the live view.
struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &*VIEW.lock().unwrap_or_else(PoisonError::into_inner) {
            // Nobody reads any more: the view is closing.
            Some(view) => {
                view.send(String::from_utf8_lossy(line).into_owned()).unwrap_or_default();
            }
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one line to stderr.
pub(crate) fn say(line: impl fmt::Display) {
    // Not eprintln!, which panics when nobody reads stderr any more: a limit must hold, and
    // be taken back, all the same. There is nowhere left to report this error to.
    writeln!(io::stderr(), "{line}").unwrap_or_default();
}
