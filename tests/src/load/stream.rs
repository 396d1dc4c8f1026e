//! TCP and MPTCP: a thread a connection.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use super::{Args, Meter, Role, meter::Pacer};
use crate::sys;

/// Bytes of one read or write when nothing holds the flow back.
const CHUNK: usize = 128 * 1024;
/// The same for a flow that offers a certain rate: less than a millisecond of 200 Mbit/s ...
const PACED_CHUNK: usize = 16 * 1024;
/// ... or a segment, where that is longer than a quarter of a second: who falls silent shall have
/// nothing left to send soon after.
const SEGMENT: usize = 1448;
const SLOW: f64 = PACED_CHUNK as f64 * 4.0;
/// How often a blocked flow looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(100);

/// Sends or receives on all connections until the end.
pub(super) fn transfer(args: &Args, streams: &[TcpStream]) -> io::Result<()> {
    let meter = Meter::new(streams.len());
    let rate = args.rate_of_flow(streams.len());
    let bins = thread::scope(|scope| {
        for (flow, stream) in streams.iter().enumerate() {
            let meter = &meter;
            scope.spawn(move || {
                let outcome = match args.role {
                    Role::Send => send(stream, flow, meter, rate, args.idle_after),
                    Role::Recv => receive(stream, flow, meter),
                };
                if let Err(error) = outcome {
                    eprintln!("load: flow {flow} ended: {error}");
                }
                // An MPTCP socket that did not fall back has no TCP_INFO: it counts as 0.
                let sent = sys::tcp_sent(stream).unwrap_or_default();
                meter.sent.fetch_add(sent.bytes, Relaxed);
                meter.again.fetch_add(sent.again, Relaxed);
                meter.end();
            });
        }
        meter.watch(args)
    })?;
    meter.finish(bins)
}

/// Writes until told to stop.
pub(super) fn send(
    mut stream: &TcpStream,
    flow: usize,
    meter: &Meter,
    rate: Option<f64>,
    idle_after: Option<f64>,
) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let chunk = vec![
        0;
        match rate {
            None => CHUNK,
            Some(rate) if rate < SLOW => SEGMENT,
            Some(_) => PACED_CHUNK,
        }
    ];
    let mut pacer = Pacer::new(rate);
    let begun = Instant::now();
    while !meter.stopped() {
        if idle_after.is_some_and(|idle| begun.elapsed().as_secs_f64() > idle) {
            thread::sleep(PATIENCE);
            continue;
        }
        pacer.pace(chunk.len());
        match stream.write(&chunk) {
            Ok(len) => meter.add(flow, len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until told to stop, or the peer ends.
fn receive(mut stream: &TcpStream, flow: usize, meter: &Meter) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut chunk = vec![0; CHUNK];
    while !meter.stopped() {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => meter.add(flow, len),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
