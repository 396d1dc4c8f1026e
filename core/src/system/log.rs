//! The kernel log, for what it says about BPF, cgroups and denials.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    time::Duration,
};

use rustix::fs::OFlags;
use serde::Serialize;

/// How many of the lines before the probe are looked at.
const BEFORE: usize = 100;
/// The longest record (`CONSOLE_EXT_LOG_MAX` of kernel/printk).
const RECORD: usize = 8192;
/// A line that holds one of these words, in any case, is shown.
const WORDS: [&str; 9] = [
    "bpf",
    "verifier",
    "cgroup",
    "capability",
    "permission denied",
    "apparmor",
    "avc:",
    "lockdown",
    "seccomp",
];

/// A reader of /dev/kmsg that knows where the probe began.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
    before: Vec<Line>,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Whether it was written since the probe began.
    pub new: bool,
    /// Seconds since boot.
    pub seconds: f64,
    /// What it says.
    pub text: String,
}

impl KernelLog {
    /// Opens it and reads what is there. Needs root, or `kernel.dmesg_restrict` to be 0.
    pub fn open() -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open("/dev/kmsg")?;
        let mut log = Self { file, before: Vec::new() };
        let mut before = log.read(false)?;
        before.drain(..before.len().saturating_sub(BEFORE));
        log.before = before;
        Ok(log)
    }

    /// The lines that matter: of the last hundred before the probe, and all since.
    pub fn finish(mut self) -> io::Result<Vec<Line>> {
        let since = self.read(true)?;
        let mut lines = self.before;
        lines.extend(since);
        lines.retain(|line| matters(&line.text));
        Ok(lines)
    }

    fn read(&mut self, new: bool) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut buffer = [0; RECORD];
        loop {
            match self.file.read(&mut buffer) {
                Ok(length) => {
                    let record = String::from_utf8_lossy(&buffer[..length]);
                    lines.extend(parse(&record, new));
                }
                // Everything is read.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lines),
                // Overwritten meanwhile: the next read is at the oldest one.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT" and lines of a dictionary that begin with a space
/// (Documentation/ABI/testing/dev-kmsg).
fn parse(record: &str, new: bool) -> Option<Line> {
    let (head, text) = record.lines().next()?.split_once(';')?;
    let since_boot = Duration::from_micros(head.split(',').nth(2)?.parse().ok()?);
    Some(Line { new, seconds: since_boot.as_secs_f64(), text: text.to_owned() })
}

fn matters(text: &str) -> bool {
    let text = text.to_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_kernel() {
        let line = parse("6,339,5140900,-;BPF: [1] INT\n SUBSYSTEM=bpf\n", true).unwrap();
        assert_eq!(
            (line.seconds, line.text.as_str(), line.new),
            (5.1409, "BPF: [1] INT", true)
        );
        assert!(matters(&line.text) && matters("audit: apparmor=\"DENIED\""));
        assert!(!matters("eth0: link up"));
        assert_eq!(parse("nonsense", false), None);
    }
}
