//! What the root tests share.
// Each test binary uses some of it.
#![allow(dead_code, unreachable_pub)]

use std::{
    net::{TcpListener, TcpStream},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use chadthrottle_backends::{
    netns::{self, Netns},
    sockets,
};
use chadthrottle_core::{Host, process::Process};

/// Says loudly that a test was skipped.
pub fn skip_unless_root(test: &str) -> bool {
    let skip = !rustix::process::geteuid().is_root();
    if skip {
        eprintln!("SKIPPED {test}: it needs root");
    }
    skip
}

pub fn host() -> Host {
    Host::detect().unwrap()
}

pub fn process(pid: i32) -> Process {
    Process::open(&host(), pid).unwrap()
}

/// Both ends of a TCP connection on loopback.
pub fn stream() -> (TcpStream, TcpStream) {
    stream_with_clamp(None)
}

/// The second one was accepted on a listener with this window clamp.
pub fn stream_with_clamp(clamp: Option<u32>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    if let Some(bytes) = clamp {
        sockets::set_window_clamp(&listener, bytes).unwrap();
    }
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// A process that does nothing; killed and waited for when dropped.
pub struct Child(std::process::Child);

impl Child {
    /// One that inherits these descriptors (as its stdin and stdout, so at most two).
    pub fn inheriting(fds: &[BorrowedFd<'_>]) -> Self {
        let stdio = |at: usize| match fds.get(at) {
            Some(fd) => Stdio::from(fd.try_clone_to_owned().unwrap()),
            None => Stdio::null(),
        };
        let mut command = Command::new("sleep");
        command.arg("60").stdin(stdio(0)).stdout(stdio(1)).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A network namespace with a loopback device; deleted when dropped.
pub struct ScratchNetns(String);

impl ScratchNetns {
    pub fn create(name: &str, mtu: u32) -> Self {
        let name = format!("chad-backends-{name}-{}", std::process::id());
        ip(&["netns", "add", &name]);
        let scratch = Self(name);
        ip(&["-n", &scratch.0, "link", "set", "lo", "up", "mtu", &mtu.to_string()]);
        scratch
    }

    /// What `ip -n` calls it.
    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn netns(&self) -> Netns {
        Netns::at(Path::new(&format!("/run/netns/{}", self.0))).unwrap()
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.netns(), work).unwrap()
    }
}

impl Drop for ScratchNetns {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

pub fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}

/// A cgroup of our own; removed when dropped, so drop what lives in it first.
pub struct ScratchCgroup(PathBuf);

impl ScratchCgroup {
    pub fn create(name: &str) -> Self {
        let mount = host().cgroups().unwrap().mount.clone();
        Self::below(&mount, &format!("chad-backends-{name}-{}", std::process::id()))
    }

    pub fn below(parent: &Path, name: &str) -> Self {
        let path = parent.join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn open(&self) -> std::fs::File {
        std::fs::File::open(&self.0).unwrap()
    }

    pub fn add(&self, pid: i32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for ScratchCgroup {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).unwrap();
    }
}
