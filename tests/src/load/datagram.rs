//! UDP: one socket, any number of peers.
//!
//! The accepting side learns its peers from their first datagrams; a connecting receiver
//! says hello until data comes.

use std::{
    io::{self, ErrorKind},
    net::UdpSocket,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use super::{
    Args, End, Meter, Report, Role,
    meter::{Pacer, say},
};

/// Payload of a datagram: fits every MTU, headers included.
const DATAGRAM: usize = 1200;
/// How often a receiver looks whether it shall end, and says hello until data comes.
const PATIENCE: Duration = Duration::from_millis(100);

/// Transfers as the command line says.
pub(super) fn run(args: &Args) -> io::Result<()> {
    let sockets = match args.end {
        End::Connect => {
            (0..args.flows).map(|_| connect(args)).collect::<io::Result<Vec<_>>>()?
        }
        End::Accept => accept(args)?,
        other => return Err(io::Error::other(format!("{other:?} knows no UDP"))),
    };
    let meter = Meter::new(sockets.len());
    let rate = args.rate_of_flow(sockets.len());
    let bins = thread::scope(|scope| {
        for (flow, socket) in sockets.iter().enumerate() {
            let meter = &meter;
            scope.spawn(move || {
                let outcome = match args.role {
                    Role::Send => send(socket, flow, meter, rate),
                    Role::Recv => receive(socket, flow, meter, args.end),
                };
                if let Err(error) = outcome {
                    eprintln!("load: flow {flow} ended: {error}");
                }
                meter.end();
            });
        }
        meter.watch(args)
    })?;
    meter.finish(bins)
}

fn connect(args: &Args) -> io::Result<UdpSocket> {
    let address = args.address()?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// One socket that hears all peers when it receives; when it sends, one connected to each
/// peer that said hello.
fn accept(args: &Args) -> io::Result<Vec<UdpSocket>> {
    let address = args.address()?;
    let open = || {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok::<UdpSocket, io::Error>(socket.into())
    };
    let first = open()?;
    say(&Report::Listening)?;
    if args.role == Role::Recv {
        // The transfer begins with the first datagram; it stays in the queue.
        wait_for(|| first.peek_from(&mut [0]).map(drop))?;
        return Ok(vec![first]);
    }
    let mut peers = Vec::new();
    while peers.len() < args.flows {
        let peer = wait_for(|| first.recv_from(&mut [0]))?.1;
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    let connected = peers.into_iter().map(|peer| {
        let socket = open()?;
        socket.connect(peer)?;
        Ok(socket)
    });
    connected.collect()
}

/// Repeats a call with a time limit until it brings something.
fn wait_for<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
}

fn send(socket: &UdpSocket, flow: usize, meter: &Meter, rate: Option<f64>) -> io::Result<()> {
    let datagram = [0; DATAGRAM];
    let mut pacer = Pacer::new(rate);
    while !meter.stopped() {
        pacer.pace(DATAGRAM);
        match socket.send(&datagram) {
            Ok(len) => meter.add(flow, len),
            // A full device queue is congestion, not a refusal.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            // The receiver has gone.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                meter.refused.fetch_add(1, Relaxed);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive(socket: &UdpSocket, flow: usize, meter: &Meter, end: End) -> io::Result<()> {
    let mut buffer = [0; 2048];
    let mut quiet = end == End::Connect;
    let mut greeted = Instant::now().checked_sub(PATIENCE);
    while !meter.stopped() {
        if quiet && greeted.is_none_or(|at| at.elapsed() >= PATIENCE) {
            socket.send(&[0])?;
            greeted = Some(Instant::now());
        }
        match socket.recv(&mut buffer) {
            Ok(len) => {
                quiet = false;
                meter.add(flow, len);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Nobody there yet: hello goes out again.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                thread::sleep(PATIENCE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
