//! chadthrottle's live view on a real terminal: a tmux of our own, keys in, the screen out.

use std::{
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{process::Place, stage::Stage, throttle};

/// How long something may take to appear.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running view. Dropping it ends tmux, and the view with it.
#[derive(Debug)]
pub struct Screen {
    place: Place,
    socket: PathBuf,
}

impl Screen {
    /// `chadthrottle run --backend BACKEND` in a terminal of this size.
    ///
    /// # Panics
    /// When tmux cannot be started.
    pub fn open(stage: &Stage, backend: &str, (width, height): (u16, u16)) -> Self {
        let screen = Self { place: stage.runner(), socket: stage.directory().join("tmux") };
        let program = throttle::binary();
        // What it says last can be read after its end.
        let line = format!(
            "{}='{}' '{}' run --backend {backend}; echo \"status $?\"; cat",
            throttle::RUN_DIR,
            stage.run_dir().display(),
            program.display()
        );
        let (width, height) = (width.to_string(), height.to_string());
        screen.tmux(&["new-session", "-d", "-x", &width, "-y", &height, &line]);
        screen
    }

    /// Presses keys, as tmux calls them: `Enter`, `Escape`, `C-u`, or text.
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Makes the terminal another size.
    pub fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-x", &width, "-y", &height]);
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with its colours, as escape sequences.
    pub fn styled(&self) -> String {
        self.tmux(&["capture-pane", "-e", "-p"])
    }

    /// Waits until the screen shows something; returns the screen.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn expect(&self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.text();
            if text.contains(words) {
                return text;
            }
            assert!(Instant::now() < end, "no `{words}` on the screen:\n{text}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command: Command = self.place.command("tmux");
        command.args(["-u", "-f", "/dev/null", "-S"]).arg(&self.socket).args(args);
        command.env("TERM", "screen-256color").env_remove("TMUX").env_remove("NO_COLOR");
        let output = command.output().expect("run tmux");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "tmux {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have ended with its last window.
        let mut command = self.place.command("tmux");
        let killed = command.arg("-S").arg(&self.socket).arg("kill-server").output();
        drop(killed);
        let end = Instant::now() + PATIENCE;
        while self.socket.exists() && Instant::now() < end {
            let mut command = self.place.command("tmux");
            let alive = command.arg("-S").arg(&self.socket).arg("has-session").output();
            if alive.is_ok_and(|output| !output.status.success()) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
