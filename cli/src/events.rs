//! The events of `--json` and `--json-file`: one JSON object a line.
//!
//! Every object has `event` (its kind), `time` (RFC 3339, UTC, milliseconds) and, once a
//! backend is chosen, `backend`. Rates are bytes of payload per second, bytes are payload.
//! The names are stable: fields are added, never changed.
//!
//! ```json
//! {"time":"2026-11-22T13:37:00.123Z","backend":"ebpf","event":"selected","attach":"link","rejected":[]}
//! {"time":...,"backend":"ebpf","event":"enforced","targets":["1234 (curl)"],"limits":{"download":{"rate":1250000},"upload":null}}
//! {"time":...,"backend":"ebpf","event":"stats","download":{"bytes":1249032,"rate":1249032,"dropped":0},"upload":{...}}
//! {"time":...,"backend":"ebpf","event":"warning","message":"..."}
//! {"time":...,"backend":"ebpf","event":"released","totals":{"download":{"packets":912,"bytes":6245160,"dropped":0},"upload":{...}}}
//! ```

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    time::SystemTime,
};

use chadthrottle_core::{BackendId, Counters, Error, Limits, Result, selection::Rejected};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use tracing::warn;

use crate::args::RunArgs;

/// Something that happened to a run.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event<'a> {
    /// A backend was chosen.
    Selected { attach: &'a str, rejected: &'a [Rejected] },
    /// The limits are in force.
    Enforced { targets: Vec<String>, limits: &'a Limits },
    /// Each second while they are.
    Stats { download: Stat, upload: Stat },
    /// Something the user should know.
    Warning { message: &'a str },
    /// The limits are lifted.
    Released { totals: Counters },
    /// The run ends without having done what was asked; `status` is the one it exits with.
    Failed { status: u8, message: &'a str },
}

/// What passed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Stat {
    /// Since the limits came into force.
    pub(crate) bytes: u64,
    /// Bytes per second since the last such event.
    pub(crate) rate: u64,
    /// Packets refused since the limits came into force.
    pub(crate) dropped: u64,
}

/// An event and what all of them have.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<BackendId>,
    #[serde(flatten)]
    event: Event<'a>,
}

/// Where events go; by default nowhere.
#[derive(Default)]
pub(crate) struct Events {
    sink: Option<Box<dyn Sink>>,
    backend: Option<BackendId>,
    has_skipped: bool,
}

/// A file, a pipe or a terminal.
trait Sink: Write + AsFd {}
impl<T: Write + AsFd> Sink for T {}

impl Events {
    /// Opens what `--json` or `--json-file` asks for.
    pub(crate) fn open(args: &RunArgs) -> Result<Self> {
        let sink: Option<Box<dyn Sink>> = match &args.json_file {
            Some(path) => {
                let file = File::create(path)
                    .map_err(|error| Error::io("create", path.display(), error))
                    .map_err(|error| error.meaning("The events were to be written there."))?;
                Some(Box::new(file))
            }
            None if args.json => Some(Box::new(io::stdout())),
            None => None,
        };
        Ok(Self { sink, ..Self::default() })
    }

    /// From now on every event carries this backend.
    pub(crate) fn set_backend(&mut self, backend: BackendId) {
        self.backend = Some(backend);
    }

    /// Writes one event. The limits matter more than their record: when it cannot be written
    /// the user is warned once, and the run goes on.
    pub(crate) fn emit(&mut self, event: Event<'_>) {
        let Some(sink) = &mut self.sink else { return };
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let line = Line { time, backend: self.backend, event };
        match write_line(sink.as_mut(), &line) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !self.has_skipped {
                    warn!("the reader of the events is too slow: some are left out");
                }
                self.has_skipped = true;
            }
            Err(error) => {
                warn!("cannot write events any more: {error}; the limits stay in force");
                self.sink = None;
            }
        }
    }
}

/// Writes a line at once, or nothing of it when the reader of a pipe has stopped reading:
/// waiting for it would stop the whole run. A pipe that polls as writable takes at least
/// `PIPE_BUF` (4096) bytes without blocking (pipe(7)), more than our lines have.
fn write_line(sink: &mut dyn Sink, line: &Line<'_>) -> io::Result<()> {
    let mut fds = [PollFd::from_borrowed_fd(sink.as_fd(), PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut fds, Some(&at_once))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    sink.write_all(text.as_bytes())?;
    sink.flush()
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream};

    use chadthrottle_core::{Limit, Rate};
    use serde_json::{Value, json};

    use super::*;

    fn events(sink: impl Sink + 'static) -> Events {
        Events { sink: Some(Box::new(sink)), backend: None, has_skipped: false }
    }

    /// What one event looks like to a reader.
    fn written(backend: Option<BackendId>, event: Event<'_>) -> Value {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut events = events(ours);
        events.backend = backend;
        events.emit(event);
        drop(events);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() == 1);
        let mut value: Value = serde_json::from_str(&text).unwrap();
        let time = value.as_object_mut().unwrap().remove("time").unwrap();
        humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
        value
    }

    #[test]
    fn shapes() {
        let rejected = [Rejected { backend: BackendId::Ebpf, reason: "no cgroup2".to_owned() }];
        let limits = Limits {
            download: Rate::from_bytes_per_second(1_250_000).map(|rate| Limit { rate }),
            upload: None,
        };
        let stat = Stat { bytes: 5, rate: 2, dropped: 1 };
        let nothing = json!({"packets": 0, "bytes": 0, "dropped": 0});
        for (event, expected) in [
            (
                Event::Selected { attach: "link", rejected: &rejected },
                json!({"event": "selected", "backend": "nft", "attach": "link",
                       "rejected": [{"backend": "ebpf", "reason": "no cgroup2"}]}),
            ),
            (
                Event::Enforced { targets: vec!["7 (x)".to_owned()], limits: &limits },
                json!({"event": "enforced", "backend": "nft", "targets": ["7 (x)"],
                       "limits": {"download": {"rate": 1_250_000}, "upload": null}}),
            ),
            (
                Event::Stats { download: stat, upload: Stat::default() },
                json!({"event": "stats", "backend": "nft",
                       "download": {"bytes": 5, "rate": 2, "dropped": 1},
                       "upload": {"bytes": 0, "rate": 0, "dropped": 0}}),
            ),
            (
                Event::Released { totals: Counters::default() },
                json!({"event": "released", "backend": "nft",
                       "totals": {"download": nothing, "upload": nothing}}),
            ),
        ] {
            assert_eq!(written(Some(BackendId::Nft), event), expected);
        }
        assert_eq!(
            written(None, Event::Warning { message: "m" }),
            json!({"event": "warning", "message": "m"})
        );
    }

    #[test]
    fn a_closed_pipe_ends_the_events_and_nothing_else() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let mut events = events(ours);
        events.emit(Event::Warning { message: "one" });
        assert!(events.sink.is_none());
        events.emit(Event::Warning { message: "two" });
    }

    #[test]
    fn a_full_disk_ends_the_events_and_nothing_else() {
        let mut events = events(File::options().write(true).open("/dev/full").unwrap());
        events.emit(Event::Warning { message: "one" });
        assert!(events.sink.is_none());
    }

    #[test]
    fn a_reader_that_stops_reading_does_not_stop_us() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut events = events(writer);
        for _ in 0..10_000 {
            events.emit(Event::Warning { message: "more than fits into any pipe" });
        }
        assert!(events.has_skipped && events.sink.is_some());
    }
}
