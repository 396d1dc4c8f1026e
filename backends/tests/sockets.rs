//! Sockets of real processes: found, fetched, described, and put back to full speed.

mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use chadthrottle_backends::sockets::{self, Protocol, SocketMap, diag};
use common::{Child, ScratchNetns, host, process, skip_unless_root, stream, stream_with_clamp};

#[test]
fn finds_and_describes_the_sockets_of_a_process() {
    if skip_unless_root("finds_and_describes_the_sockets_of_a_process") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("[::1]:0").unwrap();
    let child = Child::inheriting(&[listener.as_fd(), udp.as_fd()]);
    let found = sockets::of_process(&host(), &process(child.pid())).unwrap();

    let of = |fd: &dyn Fn(&sockets::Socket) -> bool| found.iter().find(|s| fd(s)).unwrap();
    let tcp = of(&|s| s.info.protocol == Protocol::Tcp);
    assert!(tcp.info.listening);
    assert_eq!(tcp.info.family, sockets::Family::Inet);
    assert_eq!(tcp.info.cookie, sockets::describe(&listener).unwrap().cookie);
    let datagram = of(&|s| s.info.protocol == Protocol::Udp);
    assert!(!datagram.info.listening);
    assert_eq!(datagram.info.family, sockets::Family::Inet6);
    assert_eq!(sockets::netns_cookie(&tcp.fd), sockets::netns_cookie(&udp));

    // Both of us hold it, and the map says so.
    let map = SocketMap::scan(&host()).unwrap();
    let mut owners = map.owners(tcp.inode).to_vec();
    owners.sort_unstable();
    let mut expected = [std::process::id().cast_signed(), child.pid()];
    expected.sort_unstable();
    assert_eq!(owners, expected);
}

#[test]
fn a_reused_descriptor_is_not_taken_for_the_old_socket() {
    if skip_unless_root("a_reused_descriptor_is_not_taken_for_the_old_socket") {
        return;
    }
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let child = Child::inheriting(&[udp.as_fd()]);
    let process = process(child.pid());
    let (number, inode) = sockets::inodes_of(&host(), child.pid()).unwrap()[0];
    assert!(sockets::grab(&process, number, inode).unwrap().is_some());
    assert!(sockets::grab(&process, number, inode + 1).unwrap().is_none(), "another socket");
    assert!(sockets::grab(&process, 900, inode).unwrap().is_none(), "closed");
    drop(child);
    assert!(sockets::grab(&process, number, inode).unwrap().is_none(), "process ended");
    let error = sockets::inodes_of(&host(), process.key.pid).unwrap_err();
    assert_eq!(error.kind, chadthrottle_core::ErrorKind::NoSuchTarget);
}

#[test]
fn sock_diag_agrees_with_the_sockets_themselves() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (client, server) = stream();
    let all = diag::dump().unwrap();
    let by_cookie = |fd: std::os::fd::BorrowedFd<'_>| {
        let info = sockets::describe(fd).unwrap();
        let found = *all.iter().find(|s| s.cookie == info.cookie).expect("listed");
        assert_eq!(found.inode, rustix::fs::fstat(fd).unwrap().st_ino);
        assert_eq!((found.family, found.protocol), (info.family, info.protocol));
        assert_eq!(found.is_listening(), info.listening);
        found
    };
    let listening = by_cookie(listener.as_fd());
    assert_eq!(listening.port, listener.local_addr().unwrap().port());
    assert_eq!(by_cookie(udp.as_fd()).port, udp.local_addr().unwrap().port());
    assert_eq!(by_cookie(client.as_fd()).state, 1);
    by_cookie(server.as_fd());
    assert!(listening.cgroup.is_some_and(|id| id > 0), "INET_DIAG_CGROUP_ID");
}

#[test]
fn a_scan_of_many_processes_is_fast() {
    // Warm the dentry cache first. 3000 processes with 6000 sockets took 200 ms on a busy
    // machine of two cores.
    let processes = std::fs::read_dir("/proc").unwrap().count();
    drop(SocketMap::scan(&host()).unwrap());
    let start = Instant::now();
    let map = SocketMap::scan(&host()).unwrap();
    let elapsed = start.elapsed();
    println!("{} sockets of about {processes} processes in {elapsed:?}", map.len());
    assert!(elapsed < Duration::from_millis(20 + processes as u64 / 2));
}

/// Bytes per second that arrive within `time`.
fn speed(server: &mut TcpStream, time: Duration) -> u64 {
    let mut buffer = vec![0; 1 << 16];
    let (start, mut bytes) = (Instant::now(), 0_u64);
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while start.elapsed() < time {
        match server.read(&mut buffer) {
            Ok(length) => bytes += length as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
    bytes * 1000 / time.as_millis() as u64
}

fn send_for_ever(mut client: TcpStream) {
    std::thread::spawn(move || {
        let data = vec![0; 1 << 16];
        while client.write_all(&data).is_ok() {}
    });
}

/// Far above what was set and far below loopback.
const FAST: u64 = 50_000_000;

#[test]
fn a_paced_socket_is_put_back() {
    if skip_unless_root("a_paced_socket_is_put_back") {
        return;
    }
    // On a real MTU: with the 64 KiB segments of loopback a single one is due in 0.7 s.
    let scratch = ScratchNetns::create("pace", 1500);
    let (client, mut server) = scratch.run(stream);
    assert_eq!(sockets::pace(&client).unwrap(), sockets::NO_PACE);
    sockets::set_pace(&client, 100_000).unwrap();
    send_for_ever(client.try_clone().unwrap());
    let slow = speed(&mut server, Duration::from_secs(2));
    assert!(slow < 1_000_000, "paced to 100 kB/s, got {slow}");

    sockets::restore(&client, None).unwrap();
    let start = Instant::now();
    while speed(&mut server, Duration::from_millis(100)) < FAST {
        assert!(start.elapsed() < Duration::from_secs(1), "still slow");
    }
    println!("full speed {:?} after restore from pace", start.elapsed());
}

#[test]
fn the_applications_own_choices_are_kept() {
    let (client, _server) = stream();
    let congestion = rustix::net::sockopt::tcp_congestion(&client).unwrap();
    sockets::set_pace(&client, 100_000).unwrap();
    sockets::restore(&client, Some(7_000_000)).unwrap();
    assert_eq!(sockets::pace(&client).unwrap(), 7_000_000);
    assert_eq!(rustix::net::sockopt::tcp_congestion(&client).unwrap(), congestion);
}

/// Clamps to 1152 bytes, restores, and says how fast it was between.
fn clamp_and_restore(listener_clamp: Option<u32>, name: &str) -> u64 {
    let scratch = ScratchNetns::create(name, 1500);
    let (client, mut server) = scratch.run(|| stream_with_clamp(listener_clamp));
    send_for_ever(client);
    assert!(speed(&mut server, Duration::from_millis(500)) > FAST);
    sockets::set_window_clamp(&server, 1).unwrap();
    assert_eq!(sockets::window_clamp(&server).unwrap(), 1152, "SOCK_MIN_RCVBUF / 2");
    speed(&mut server, Duration::from_secs(1));
    let slow = speed(&mut server, Duration::from_secs(2));

    sockets::restore(&server, None).unwrap();
    let start = Instant::now();
    while speed(&mut server, Duration::from_millis(100)) < FAST {
        assert!(start.elapsed() < Duration::from_secs(1), "still slow");
    }
    println!("{name}: {slow} bytes/s, full speed {:?} after restore", start.elapsed());
    slow
}

#[test]
fn a_closed_window_is_put_back() {
    if skip_unless_root("a_closed_window_is_put_back") {
        return;
    }
    // A small scale lets 1152 bytes be said: less than a segment, the sender has to probe.
    let slow = clamp_and_restore(Some(65_535), "closed");
    assert!(slow < 20_000, "1152 bytes each 200 ms, got {slow}");
}

#[test]
fn a_small_window_is_put_back() {
    if skip_unless_root("a_small_window_is_put_back") {
        return;
    }
    // With the usual scale it is rounded up to 2048: one segment at a time.
    clamp_and_restore(None, "small");
}

#[test]
fn subflows_of_mptcp_are_listed_but_not_reached() {
    let Some((client, server)) = mptcp_stream() else {
        eprintln!("SKIPPED subflows_of_mptcp_are_listed_but_not_reached: no MPTCP here");
        return;
    };
    let all = diag::dump().unwrap();
    for fd in [&client, &server] {
        let info = sockets::describe(fd).unwrap();
        assert_eq!(info.protocol, Protocol::Mptcp);
        let inode = rustix::fs::fstat(fd).unwrap().st_ino;
        let subflow = all.iter().find(|s| s.inode == inode).expect("under the same inode");
        assert_eq!(subflow.protocol, Protocol::Tcp);
        assert_ne!(subflow.cookie, info.cookie);

        let refused = sockets::set_pace(fd, 100_000).unwrap_err();
        assert_eq!(refused.errno(), libc::EOPNOTSUPP);
        let refused = sockets::set_window_clamp(fd, 1).unwrap_err();
        assert_eq!(refused.errno(), libc::ENOPROTOOPT);
        assert_eq!(sockets::pace(fd).unwrap(), sockets::NO_PACE);
        assert!(sockets::restore(fd, None).is_err());
    }
}

/// Both ends of an MPTCP connection on loopback; `None` when the kernel has no MPTCP.
fn mptcp_stream() -> Option<(OwnedFd, OwnedFd)> {
    use rustix::net::{
        AddressFamily, SocketType, accept, bind, connect, getsockname, ipproto, listen, socket,
    };
    let mptcp = || socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP)).ok();
    let listener = mptcp()?;
    bind(&listener, &"127.0.0.1:0".parse::<std::net::SocketAddrV4>().unwrap()).unwrap();
    listen(&listener, 1).unwrap();
    let address = std::net::SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
    let client = mptcp()?;
    connect(&client, &address).unwrap();
    Some((client, accept(&listener).unwrap()))
}
