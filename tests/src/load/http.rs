//! The smallest HTTP server that real clients download from and upload to.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    process, thread,
};

use super::{
    Args, Report,
    meter::{Pacer, say},
    sockets,
};

/// Body length when the path names none.
const ENDLESS: usize = 1 << 40;

/// Serves until killed. Each connection is reported as connected.
pub(super) fn serve(args: &Args) -> io::Result<()> {
    let listener = sockets::listen(args)?;
    loop {
        let stream: TcpStream = listener.accept()?.0.into();
        say(&Report::Connected { pid: process::id() })?;
        let rate = args.rate_of_flow(1);
        thread::spawn(move || {
            if let Err(error) = answer(&stream, rate) {
                eprintln!("load: request ended: {error}");
            }
        });
    }
}

/// Answers one request: `GET /N` with N bytes, `PUT` and `POST` by reading to the end.
fn answer(mut stream: &TcpStream, rate: Option<f64>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0_u64);
    reader.read_line(&mut request)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if header == "expect: 100-continue" {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
    }
    io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
    let path = request.split(' ').nth(1).unwrap_or_default();
    let wanted = if request.starts_with("GET") {
        path.trim_start_matches('/').parse().unwrap_or(ENDLESS)
    } else {
        0
    };
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {wanted}\r\n\r\n")?;
    let chunk = [0; 16 * 1024];
    let (mut left, mut pacer) = (wanted, Pacer::new(rate));
    while left > 0 {
        let len = left.min(chunk.len());
        pacer.pace(len);
        stream.write_all(&chunk[..len])?;
        left -= len;
    }
    Ok(())
}
