//! The terminal, and giving it back: at the end, on an error, on a signal and on a panic.

use std::{
    env,
    io::{self, IsTerminal, Stdout},
    panic,
    sync::Once,
};

use chadthrottle_core::{Error, ErrorKind, Result};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor,
        event::{
            DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste,
            EnableMouseCapture,
        },
        execute,
        terminal::{
            EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
        },
    },
};

/// The screen while it is ours.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

/// Refuses what is no terminal.
pub(super) fn check() -> Result<()> {
    let missing = match (io::stdin().is_terminal(), io::stdout().is_terminal()) {
        (true, true) if env::var_os("TERM").is_some_and(|term| term == "dumb") => {
            "TERM says that the terminal is dumb."
        }
        (true, true) => return Ok(()),
        (false, _) => "Standard input is not a terminal.",
        (true, false) => "Standard output is not a terminal.",
    };
    Err(Error::new(ErrorKind::Usage, "open", "the live view").meaning(missing).advice(
        "Without one, name a target (--pid PID, --unit NAME, --cgroup PATH, or a command after \
         --) and a rate (--download RATE, --upload RATE).",
    ))
}

impl Screen {
    pub(super) fn open() -> Result<Self> {
        let failed = |error| Error::io("set up", "the terminal", error);
        restore_on_panic();
        enable_raw_mode().map_err(failed)?;
        // From here on Drop gives it back.
        let screen = Self {
            terminal: Terminal::new(CrosstermBackend::new(io::stdout())).map_err(|error| {
                restore();
                failed(error)
            })?,
        };
        let entered = execute!(
            io::stdout(),
            EnterAlternateScreen,
            EnableMouseCapture,
            EnableBracketedPaste
        );
        entered.map_err(failed)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// A terminal that is gone needs nothing.
fn restore() {
    let left = execute!(
        io::stdout(),
        DisableBracketedPaste,
        DisableMouseCapture,
        LeaveAlternateScreen,
        cursor::Show
    );
    left.and(disable_raw_mode()).unwrap_or_default();
}

/// The message of a panic must be read on the user's own screen.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}

/// Whether colours are wanted (<https://no-color.org>).
pub(super) fn has_color() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
