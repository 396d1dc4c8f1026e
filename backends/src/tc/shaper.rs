//! One direction of one limit in one namespace: a device with HTB, and what passed through it.

use std::time::{Duration, Instant};

use chadthrottle_core::{
    Direction, Error, ErrorKind, Result, backend::Count, check::Remedy, journal::Journal,
};
use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_route::{RouteNetlinkMessage, tc::TcMessage};

use super::{
    classifiers,
    correction::{Correction, without_ethernet},
    device::Device,
    message::{NEW, new_qdisc},
    passed::{self, Passed},
    shape::{ETHERNET, KINDS, Kind, Shape, Tcp},
    shares::Use,
};
use crate::{
    netns::Netns,
    rtnetlink::{Refusal, Socket},
};

/// Fast enough to let what waits go at once.
const OPEN: u64 = 12_500_000_000;
/// From how much time at least it is told what is used.
const SPAN: Duration = Duration::from_millis(100);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Shaper {
    pub(super) direction: Direction,
    pub(super) device: Device,
    /// Payload, bytes per second.
    rate: u64,
    mtu: u32,
    fq_codel: bool,
    /// TCP connections begin.
    beginning: bool,
    correction: Correction,
    passed: [Passed; KINDS.len()],
    /// How many of these packets had no Ethernet header.
    bare: u64,
    /// What crossed interfaces without that header, as of the last refresh.
    crossed: Option<u64>,
    /// Payload, bytes per second, that passed lately, up to `measured`: when, and how much by then.
    recent: u64,
    measured: (Instant, u64),
}

impl Shaper {
    /// Makes the device and its qdisc. When it fails nothing is left.
    pub(super) fn create(
        rt: &mut Socket,
        netns: &Netns,
        direction: Direction,
        rate: u64,
        mtu: u32,
        journal: Option<&Journal>,
    ) -> Result<Self> {
        let device = Device::create(rt, netns, direction, journal)?;
        let mut shaper = Self::bare(device, direction, rate, mtu);
        let furnished = shaper
            .add_htb(rt)
            .and_then(|()| shaper.furnish_leaves(rt))
            .and_then(|()| shaper.classify(rt));
        match furnished {
            Ok(()) => Ok(shaper),
            Err(error) => {
                if let Err(second) = shaper.device.delete(rt, journal) {
                    tracing::warn!("{second}");
                }
                Err(error)
            }
        }
    }

    /// Nothing is on the device yet.
    pub(super) fn bare(device: Device, direction: Direction, rate: u64, mtu: u32) -> Self {
        Self {
            direction,
            device,
            rate,
            mtu,
            fq_codel: true,
            beginning: false,
            correction: Correction::new(mtu),
            passed: Default::default(),
            bare: 0,
            crossed: None,
            recent: 0,
            measured: (Instant::now(), 0),
        }
    }

    fn shape(&self) -> Shape {
        self.shape_for(self.correction.frames(self.rate))
    }

    /// For a rate of frames.
    fn shape_for(&self, frames: u64) -> Shape {
        let tcp = match (self.direction, self.beginning) {
            (Direction::Download, _) => Tcp::Downloads,
            (Direction::Upload, false) => Tcp::Uploads,
            (Direction::Upload, true) => Tcp::FirstUploads,
        };
        Shape::new(frames, self.mtu, self.fq_codel, tcp)
    }

    /// The root qdisc and all classes.
    pub(super) fn add_htb(&self, rt: &mut Socket) -> Result<()> {
        let link = self.device.index;
        let (message, flags) = new_qdisc(Shape::root(link));
        rt.execute(message, flags).map_err(|refusal| no_qdisc("htb", &self.device, refusal))?;
        for class in self.shape().classes(link) {
            rt.execute(RouteNetlinkMessage::NewTrafficClass(class), NEW)
                .map_err(|refusal| refusal.explain("add an htb class to", &self.device.name))?;
        }
        Ok(())
    }

    /// The filters that sort packets into the classes.
    pub(super) fn classify(&self, rt: &mut Socket) -> Result<()> {
        for message in classifiers::all(self.device.index) {
            rt.execute(RouteNetlinkMessage::NewTrafficFilter(message), NEW)
                .map_err(|refusal| classifiers::no_filter(&self.device.name, refusal))?;
        }
        Ok(())
    }

    /// The queues, with `fq_codel` where the kernel has it.
    pub(super) fn furnish_leaves(&mut self, rt: &mut Socket) -> Result<()> {
        loop {
            let leaves = self.shape().leaves(self.device.index);
            let added = leaves.into_iter().try_for_each(|leaf| {
                let (message, flags) = new_qdisc(leaf);
                rt.execute(message, (flags & !netlink_packet_core::NLM_F_EXCL) | NLM_F_REPLACE)
            });
            match added {
                Ok(()) => return Ok(()),
                Err(refusal) if self.fq_codel && refusal.code() == libc::ENOENT => {
                    self.fq_codel = false;
                }
                Err(refusal) => return Err(no_qdisc("tbf", &self.device, refusal)),
            }
        }
    }

    /// The kind of queue below the classes.
    pub(super) fn queues(&self) -> &'static str {
        if self.fq_codel { "fq_codel" } else { "fifo: the kernel has no fq_codel" }
    }

    /// Changes the rate in place; no packet passes unlimited meanwhile.
    pub(super) fn set_rate(&mut self, rt: &mut Socket, rate: u64) -> Result<()> {
        if rate == self.rate {
            return Ok(());
        }
        self.rate = rate;
        self.apply(rt)?;
        self.furnish_leaves(rt)
    }

    /// Lets more wait while TCP connections begin.
    pub(super) fn set_beginning(&mut self, rt: &mut Socket, beginning: bool) -> Result<()> {
        if beginning == self.beginning {
            return Ok(());
        }
        self.beginning = beginning;
        self.furnish_leaves(rt)
    }

    /// Lets interfaces with a larger MTU join: what they send must pass whole.
    pub(super) fn set_mtu(&mut self, rt: &mut Socket, mtu: u32) -> Result<()> {
        if mtu <= self.mtu {
            return Ok(());
        }
        self.mtu = mtu;
        self.furnish_leaves(rt)
    }

    fn apply(&self, rt: &mut Socket) -> Result<()> {
        let classes = self.shape().classes(self.device.index);
        self.replace(rt, classes)
    }

    fn replace(&self, rt: &mut Socket, classes: Vec<TcMessage>) -> Result<()> {
        for class in classes {
            rt.execute(RouteNetlinkMessage::NewTrafficClass(class), NLM_F_REPLACE)
                .map_err(|refusal| refusal.explain("change the rate of", &self.device.name))?;
        }
        Ok(())
    }

    /// Reads what passed, and sets the rate of frames so that payload comes at the rate asked for.
    /// So many packets, whoever's, crossed interfaces without an Ethernet header up to now.
    pub(super) fn refresh(&mut self, rt: &mut Socket, crossed: u64) -> Result<()> {
        let (packets, now) = (self.count().packets, Instant::now());
        self.passed = self.read(rt)?;
        let packets = self.count().packets.saturating_sub(packets);
        let last = self.crossed.replace(crossed).unwrap_or(crossed);
        self.bare += without_ethernet(packets, crossed.saturating_sub(last));
        let frames = self.passed.iter().map(|passed| passed.bytes).sum();
        let payload = self.count().bytes;
        let (last, before) = self.measured;
        let time = now.duration_since(last);
        if time >= SPAN {
            let since = u128::from(payload.saturating_sub(before));
            self.recent = (since * 1_000_000 / time.as_micros()) as u64;
            self.measured = (now, payload);
        }
        if self.correction.reckon(frames, payload, now) {
            self.apply(rt)?;
        }
        Ok(())
    }

    fn read(&self, rt: &mut Socket) -> Result<[Passed; KINDS.len()]> {
        let name = &self.device.name;
        let passed = passed::read(rt, self.device.index)
            .map_err(|refusal| refusal.explain("read the counters of", name))?;
        passed.ok_or_else(|| {
            Error::new(ErrorKind::Failed, "read the counters of", name)
                .meaning("Somebody deleted it or its qdisc.")
        })
    }

    /// Whether somebody deleted it or its qdisc.
    pub(super) fn is_lost(&self, rt: &mut Socket) -> bool {
        matches!(passed::read(rt, self.device.index), Ok(None))
    }

    fn each(&self) -> impl Iterator<Item = (&Kind, &Passed)> {
        KINDS.iter().zip(&self.passed)
    }

    /// What passed, as of the last refresh.
    pub(super) fn count(&self) -> Count {
        let bare = Count { bytes: self.bare * ETHERNET, ..Count::default() };
        self.each().fold(bare, |sum, (kind, passed)| Count {
            packets: sum.packets + passed.packets,
            bytes: sum.bytes + passed.payload(kind),
            dropped: sum.dropped + passed.dropped,
        })
    }

    /// What the direction needed lately.
    pub(super) fn used(&self) -> Use {
        let hungry = self.passed.iter().any(|passed| passed.backlog > 0);
        Use { rate: self.recent, hungry }
    }

    /// Lets what waits go on at once, so that nothing of it is lost. Where the device or its qdisc
    /// is gone nothing waits.
    pub(super) fn open(&self, rt: &mut Socket) -> Result<()> {
        let classes = self.shape_for(OPEN).classes(self.device.index);
        match self.replace(rt, classes) {
            Err(error) if [libc::ENODEV, libc::ENOENT].contains(&error.errno()) => Ok(()),
            result => result,
        }
    }

    /// Bytes that wait.
    pub(super) fn backlog(&self, rt: &mut Socket) -> Result<u64> {
        Ok(self.read(rt)?.iter().map(|passed| passed.backlog).sum())
    }

    /// How long what waits of TCP takes to pass, at the rate of now.
    pub(super) fn waiting(&self, rt: &mut Socket) -> Result<Duration> {
        let passed = self.read(rt)?;
        let tcp = KINDS.iter().zip(&passed).filter(|(kind, _)| kind.is_tcp());
        let bytes: u64 = tcp.map(|(_, passed)| passed.backlog).sum();
        let rate = self.correction.frames(self.rate).max(1);
        Ok(Duration::from_micros(bytes.saturating_mul(1_000_000) / rate))
    }

    pub(super) fn delete(self, rt: &mut Socket, journal: Option<&Journal>) -> Result<()> {
        self.device.delete(rt, journal)
    }
}

fn no_qdisc(kind: &str, device: &Device, refusal: Refusal) -> Error {
    let missing = refusal.code() == libc::ENOENT;
    let error = refusal.explain(&format!("add an {kind} qdisc to"), &device.name);
    if missing {
        return error
            .meaning(format!("The kernel has no {kind} qdisc."))
            .remedy(Remedy::LoadModule(format!("sch_{kind}")));
    }
    error
}
