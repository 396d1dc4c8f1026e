//! Two network namespaces, connected: the near one is limited, the far one is the world.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    process::{Place, Running, sh, tool},
    relay,
};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// A network namespace of our own, `ct-PID-N`. Dropping it deletes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    host: u8,
}

impl Namespace {
    /// Makes one; `host` is the last part of its addresses.
    fn new(host: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ct-{}-{number}", std::process::id());
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        let namespace = Self { name, host };
        // Metrics kept from one connection would shape the next; ECN would hide drops.
        namespace.sh("sysctl -qw net.ipv4.tcp_no_metrics_save=1 net.ipv4.tcp_ecn=0 \
                      net.ipv4.conf.all.rp_filter=0 net.ipv6.conf.default.accept_dad=0");
        namespace
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn file(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// For processes.
    pub fn place(&self) -> Place {
        Place::in_namespace(self.file())
    }

    /// Runs a short command line in it.
    pub fn sh(&self, line: &str) -> String {
        sh(&format!("nsenter --net={} {line}", self.file().display()))
    }

    /// Makes a device the port of a new bridge, which has this address from then on.
    pub fn bridge(&self, device: &str, bridge: &str, address: &str) {
        self.sh(&format!("ip link add {bridge} type bridge"));
        self.sh(&format!("ip addr flush dev {device}"));
        self.sh(&format!("ip link set {device} master {bridge}"));
        self.sh(&format!("ip addr add {address} dev {bridge}"));
        self.sh(&format!("ip link set {bridge} up"));
    }

    /// Gives a device its addresses within network `net` and sets it up.
    fn address(&self, device: &str, net: u8) {
        let (name, host) = (&self.name, self.host);
        sh(&format!(
            "ip -n {name} addr add 10.{net}.0.{host}/24 dev {device} && \
             ip -n {name} addr add fd0{net}::{host}/64 dev {device} nodad && \
             ip -n {name} link set {device} up txqueuelen 10000"
        ));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        sh(&format!("ip netns del {}", self.name));
    }
}

/// The network of the veth pair: 10.8.0.0/24 and `fd08::/64`.
const DIRECT: u8 = 8;
/// The network through the relay: 10.9.0.0/24 and `fd09::/64`.
const DELAYED: u8 = 9;
/// The network of a second veth pair.
const SECOND: u8 = 7;

/// Two namespaces and what connects them. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    // The relay holds the namespaces: it must end before they do.
    relay: Option<Running>,
    /// Where what is limited runs.
    pub near: Namespace,
    /// Where its peers run.
    pub far: Namespace,
}

impl Lab {
    /// Connected by a veth pair: an RTT of about 0.05 ms.
    pub fn new() -> Self {
        let lab = Self { near: Namespace::new(1), far: Namespace::new(2), relay: None };
        lab.wire("eth0", DIRECT);
        lab
    }

    /// As [`Lab::new`], and a path through a relay that adds `rtt`; zero adds none.
    pub fn with_rtt(rtt: Duration) -> Self {
        let mut lab = Self::new();
        if !rtt.is_zero() {
            let mut command = Place::default().command(tool("relay"));
            command.args([lab.near.file(), lab.far.file()]);
            command.arg((rtt / 2).as_micros().to_string());
            let relay = Running::start(&mut command);
            relay.expect("relay", Duration::from_secs(5), |line| (line == "up").then_some(()));
            lab.relay = Some(relay);
            lab.near.address(relay::DEVICE, DELAYED);
            lab.far.address(relay::DEVICE, DELAYED);
        }
        lab
    }

    /// A veth pair with one end in each namespace, both called `device`.
    fn wire(&self, device: &str, net: u8) {
        let (near, far) = (self.near.name(), self.far.name());
        sh(&format!(
            "ip link add {device} netns {near} type veth peer name {device} netns {far}"
        ));
        self.near.address(device, net);
        self.far.address(device, net);
    }

    /// Takes the veth pair away and makes it anew with the same addresses.
    pub fn rewire(&self) {
        sh(&format!("ip -n {} link del eth0", self.near.name()));
        self.wire("eth0", DIRECT);
    }

    /// Adds a second veth pair and returns the far side's address on it.
    pub fn second_wire(&self) -> SocketAddr {
        self.wire("eth1", SECOND);
        self.peer(&self.far, SECOND, Family::V4)
    }

    /// Has the two hosts find each other over IPv6. The first solicitation is lost while an address
    /// is new, and a connection would take the second until the next for its round trip.
    pub fn meet_v6(&self) {
        let far = self.peer(&self.far, self.net(), Family::V6).ip();
        self.near.sh(&format!("ping -6 -q -c 1 -W 5 {far}"));
    }

    /// An address in the far namespace with a port nobody has used here.
    pub fn far_address(&self, family: Family) -> SocketAddr {
        self.peer(&self.far, self.net(), family)
    }

    /// An address in the near namespace with a port nobody has used here.
    pub fn near_address(&self, family: Family) -> SocketAddr {
        self.peer(&self.near, self.net(), family)
    }

    /// The loopback address with a port nobody has used here.
    pub fn loopback(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port())
    }

    fn net(&self) -> u8 {
        if self.relay.is_some() { DELAYED } else { DIRECT }
    }

    #[allow(clippy::unused_self)] // An address means something in a lab only.
    fn peer(&self, namespace: &Namespace, net: u8, family: Family) -> SocketAddr {
        let host = namespace.host;
        let ip = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, net, 0, host)),
            Family::V6 => {
                let prefix = 0xfd00 + u16::from(net);
                IpAddr::V6(Ipv6Addr::new(prefix, 0, 0, 0, 0, 0, 0, u16::from(host)))
            }
        };
        SocketAddr::new(ip, port())
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

/// Ports count up from 5000: no test meets a `TIME_WAIT` of another.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(5000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
