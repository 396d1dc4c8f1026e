//! The run's side: starting the guardian and letting it go.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{ARGUMENT, channel::Channel};
use crate::{
    error::{Error, Result},
    journal::Journal,
};

/// How long a guardian that was released may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// The run's handle on its guardian. Dropped without [`Guardian::release`], the guardian
/// takes back what the journal says is left.
#[derive(Debug)]
pub struct Guardian {
    child: Child,
    journal: Journal,
    released: bool,
}

impl Guardian {
    /// Starts this program again as the guardian of a journal. It is at its post when this
    /// returns.
    pub fn spawn(journal: &Journal) -> Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0("chadthrottle: guardian")
            .arg(ARGUMENT)
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(journal.share_file()?))
            .spawn()
            .map_err(|error| {
                Error::io("start", "the guardian (/proc/self/exe)", error)
                    .meaning("No limit starts without the process that can take it back.")
            })?;
        // From here on a drop ends it.
        let guardian = Self { child, journal: journal.clone(), released: false };
        journal.connect(channel)?;
        journal.guardian()?.wait_until_ready()?;
        Ok(guardian)
    }

    /// Whether it is still at its post.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.journal.guardian().is_ok_and(Channel::is_open)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it that all is taken back, and waits for its end. One that was killed meanwhile
    /// is no error: it is not needed any more.
    pub fn release(mut self) -> Result<()> {
        self.released = true;
        if self.is_alive() {
            self.journal.guardian()?.release()?;
        }
        let deadline = Instant::now() + PATIENCE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= deadline {
                tracing::warn!("the guardian ({}) does not end", self.child.id());
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        // Clones of the journal may live on and keep the socket open.
        if let Ok(channel) = self.journal.guardian() {
            channel.hang_up();
        }
        tracing::debug!("the guardian ({}) takes back what is left", self.child.id());
    }
}
