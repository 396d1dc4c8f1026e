//! Questions and answers over one TCP connection: how long one takes beside whatever else runs.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    process, thread,
    time::{Duration, Instant},
};

use super::{Args, Report, Role, meter::say, sockets};

/// Payload of a question and of its answer, bytes.
const SMALL: usize = 100;
/// From one question to the next, when it was answered by then.
const OFTEN: Duration = Duration::from_millis(50);

/// The sender asks, 20 times a second, until the time is over; the receiver answers until the
/// sender has gone. Each answer is reported.
pub(super) fn run(args: &Args) -> io::Result<()> {
    let mut streams = sockets::open(args)?;
    let mut stream = streams.pop().ok_or(ErrorKind::NotConnected)?;
    stream.set_nodelay(true)?;
    say(&Report::Connected { pid: process::id() })?;
    match args.role {
        Role::Send => ask(&mut stream, args.seconds.unwrap_or(f64::MAX)),
        Role::Recv => answer(&mut stream),
    }
}

fn ask(stream: &mut TcpStream, seconds: f64) -> io::Result<()> {
    let begun = Instant::now();
    let mut text = [0; SMALL];
    while begun.elapsed().as_secs_f64() < seconds {
        let asked = Instant::now();
        stream.write_all(&text)?;
        stream.read_exact(&mut text)?;
        let took = asked.elapsed();
        say(&Report::Answer { micros: took.as_micros() as u64 })?;
        thread::sleep(OFTEN.saturating_sub(took));
    }
    Ok(())
}

fn answer(stream: &mut TcpStream) -> io::Result<()> {
    let mut text = [0; SMALL];
    loop {
        match stream.read_exact(&mut text) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        stream.write_all(&text)?;
    }
}
