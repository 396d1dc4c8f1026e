//! The nftables backend where packets cannot be queued: dropped, in input and at the egress of
//! interfaces. (Where they can, the cases of `tests/` judge it.)

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use chadthrottle_backends::{nft::NftBackend, sockets};
use chadthrottle_core::{
    Backend, Direction, Engine, Host, Limit, LimitId, Limits, Rate, Target, journal::Journal,
};
use common::{Child, ScratchNetns, host, ip, process, skip_unless_root};

/// Bytes per second of payload.
const RATE: u64 = 1_000_000;
/// Payload of a datagram.
const DATAGRAM: usize = 1400;

/// Two namespaces with two links; one of them is the port of a bridge in the near one.
struct Lab {
    near: ScratchNetns,
    far: ScratchNetns,
}

impl Lab {
    fn new(name: &str) -> Self {
        let lab = Self {
            near: ScratchNetns::create(&format!("{name}-near"), 65_536),
            far: ScratchNetns::create(&format!("{name}-far"), 65_536),
        };
        lab.pair("eth0", "10.9.0.1/24", "10.9.0.2/24");
        lab.pair("port0", "10.9.7.1/24", "10.9.5.2/24");
        let near = lab.near.name();
        ip(&["-n", near, "addr", "flush", "dev", "port0"]);
        ip(&["-n", near, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", near, "link", "set", "port0", "master", "br0"]);
        ip(&["-n", near, "addr", "add", "10.9.5.1/24", "dev", "br0"]);
        ip(&["-n", near, "link", "set", "br0", "up"]);
        lab
    }

    fn pair(&self, device: &str, near: &str, far: &str) {
        let (a, b) = (self.near.name(), self.far.name());
        ip(&[
            "-n", a, "link", "add", device, "type", "veth", "peer", "name", device, "netns", b,
        ]);
        for (name, address) in [(a, near), (b, far)] {
            ip(&["-n", name, "addr", "add", address, "dev", device]);
            ip(&["-n", name, "link", "set", device, "up"]);
        }
    }

    /// A sender in one namespace and a receiver in the other, by the last byte of addresses.
    fn sockets(&self, network: &str, up: bool) -> (UdpSocket, UdpSocket) {
        let (from, to) = if up { (&self.near, &self.far) } else { (&self.far, &self.near) };
        let (own, peer) = if up { (1, 2) } else { (2, 1) };
        let bind = |host: u8| UdpSocket::bind(format!("{network}.{host}:0")).unwrap();
        let receiver = to.run(|| bind(peer));
        let sender = from.run(|| bind(own));
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let sender_address: SocketAddr = sender.local_addr().unwrap();
        receiver.connect(sender_address).unwrap();
        receiver.set_nonblocking(true).unwrap();
        // The first one waits for ARP.
        sender.send(&[0; 1]).unwrap();
        let end = Instant::now() + Duration::from_secs(2);
        while receiver.recv(&mut [0; 2000]).is_err() {
            assert!(Instant::now() < end, "nothing arrives");
            thread::sleep(Duration::from_millis(5));
        }
        (sender, receiver)
    }
}

/// Sends so many datagrams within half a second and returns how many arrive. No send may fail.
fn arriving(sender: &UdpSocket, receiver: &UdpSocket, count: usize) -> usize {
    let mut arrived = 0;
    let mut drain = || {
        while receiver.recv(&mut [0; 2000]).is_ok() {
            arrived += 1;
        }
    };
    for number in 0..count {
        sender.send(&[0; DATAGRAM]).expect("a sender must not learn of the limit");
        if number % (count / 50).max(1) == 0 {
            thread::sleep(Duration::from_millis(10));
            drain();
        }
    }
    thread::sleep(Duration::from_millis(50));
    drain();
    arrived
}

fn limits(direction: Direction, rate: u64) -> Limits {
    let limit = Rate::from_bytes_per_second(rate).map(|rate| Limit { rate });
    match direction {
        Direction::Download => Limits { download: limit, upload: None },
        Direction::Upload => Limits { download: None, upload: limit },
    }
}

/// Polices a child that holds these sockets while `work` runs, all in the near namespace.
fn policed(
    lab: &Lab,
    sockets: &[&UdpSocket],
    limits: &Limits,
    work: impl FnOnce(&mut dyn Engine, LimitId) + Send,
) {
    let run = tempfile::tempdir().unwrap();
    let host = Host { run: run.path().to_owned(), ..host() };
    let fds: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
    let child = lab.near.run(|| Child::inheriting(&fds));
    let pid = child.pid();
    lab.near.run(|| {
        let journal = Journal::create(&host).unwrap();
        let backend = NftBackend::policing();
        assert!(!backend.capabilities().shapes);
        let mut engine = backend.start(&host, &journal).unwrap();
        assert_eq!(engine.attach_kind(), "police");
        let id = engine.add(&[Target::Process(process(pid))], limits).unwrap();
        work(engine.as_mut(), id);
        engine.remove(id).1.unwrap();
        engine.stop().unwrap();
        journal.close().unwrap();
        let left = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert_eq!(String::from_utf8(left.stdout).unwrap(), "");
    });
    for socket in sockets {
        assert_eq!(sockets::mark(socket).unwrap(), 0, "a mark is left");
    }
}

/// Asserts what arrives of a burst that takes about 550 ms: the bucket's second, its burst, and
/// the rate meanwhile.
fn assert_policed(arrived: usize) {
    const MOST: usize = RATE as usize * 1550 / 1000 + 65_536;
    let permille = arrived * DATAGRAM * 1000 / MOST;
    assert!((750..1080).contains(&permille), "{arrived} of {} datagrams", MOST / DATAGRAM);
}

#[test]
fn uploads_through_a_bridge_are_charged_once_and_senders_see_no_error() {
    if skip_unless_root("uploads_through_a_bridge_are_charged_once_and_senders_see_no_error") {
        return;
    }
    let lab = Lab::new("nft-up");
    let (sender, receiver) = lab.sockets("10.9.5", true);
    assert_eq!(arriving(&sender, &receiver, 1500), 1500, "without a limit");
    policed(&lab, &[&sender], &limits(Direction::Upload, RATE), |engine, id| {
        let arrived = arriving(&sender, &receiver, 3000);
        assert_policed(arrived);
        let count = engine.counters(id).unwrap().upload;
        assert_eq!(count.packets, arrived as u64);
        assert_eq!(count.bytes, (arrived * DATAGRAM) as u64);
        assert_eq!(count.dropped, 3000 - arrived as u64);

        // Ten times the rate, in place: the new bucket is full.
        engine.update(id, &limits(Direction::Upload, 10 * RATE)).unwrap();
        assert_eq!(arriving(&sender, &receiver, 3000), 3000);
        engine.update(id, &limits(Direction::Upload, RATE)).unwrap();

        // An interface that comes later is taken in, one that goes does no harm.
        arriving(&sender, &receiver, 3000);
        lab.pair("late0", "10.9.6.1/24", "10.9.6.2/24");
        assert!(engine.refresh().is_empty());
        let (one, other) = lab.sockets("10.9.6", true);
        drop((one, other));
        ip(&["-n", lab.near.name(), "link", "del", "late0"]);
        assert!(engine.refresh().is_empty());
    });
    assert_eq!(arriving(&sender, &receiver, 1500), 1500, "after the limit");
}

#[test]
fn downloads_are_policed_in_input() {
    if skip_unless_root("downloads_are_policed_in_input") {
        return;
    }
    let lab = Lab::new("nft-down");
    let (sender, receiver) = lab.sockets("10.9.0", false);
    policed(&lab, &[&receiver], &limits(Direction::Download, RATE), |engine, id| {
        let arrived = arriving(&sender, &receiver, 3000);
        assert_policed(arrived);
        let count = engine.counters(id).unwrap().download;
        assert_eq!((count.packets, count.dropped), (arrived as u64, 3000 - arrived as u64));
    });
}
