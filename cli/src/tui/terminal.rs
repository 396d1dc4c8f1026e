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

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    /// Set where the test runs once more, on a terminal.
    const ON_A_TERMINAL: &str = "CHADTHROTTLE_TEST_PANICS";

    #[test]
    fn a_panic_is_read_on_the_users_own_screen() {
        if env::var_os(ON_A_TERMINAL).is_some() {
            let _screen = Screen::open().expect("a screen");
            panic!("on purpose");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("tmux");
        let tmux = |args: &[&str]| {
            let mut command = Command::new("tmux");
            command.args(["-u", "-f", "/dev/null", "-S"]).arg(&socket).args(args);
            let output = command.env_remove("TMUX").output().expect("run tmux");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let program = env::current_exe().expect("our own path");
        let name = "tui::terminal::tests::a_panic_is_read_on_the_users_own_screen";
        let line = format!(
            "{ON_A_TERMINAL}=1 '{}' --exact --nocapture {name}; stty -a; cat",
            program.display()
        );
        tmux(&["new-session", "-d", "-x", "100", "-y", "50", &line]);
        let end = Instant::now() + Duration::from_secs(15);
        let mut shown = String::new();
        while !shown.contains("icanon") && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
            shown = tmux(&["capture-pane", "-p"]);
        }
        let flags = "#{alternate_on} #{mouse_any_flag} #{cursor_flag}";
        let flags = tmux(&["display-message", "-p", flags]);
        tmux(&["kill-server"]);
        assert!(shown.contains("on purpose"), "no message on\n{shown}");
        assert!(shown.contains(" icanon") && shown.contains(" echo "), "still raw:\n{shown}");
        assert_eq!(flags.trim(), "0 0 1", "alternate screen, mouse, cursor");
    }
}
