//! `blast ADDRESS`: for each line of standard input, a count, sends so many datagrams there as fast as
//! it can, and answers with the nanoseconds that each took. `blast --sink ADDRESS` is the other end:
//! it takes none of them, so that what is measured is the way there.

use std::{error::Error, io::stdin, net::UdpSocket, time::Instant};

const PAYLOAD: [u8; 64] = [0; 64];

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let socket = match words[..] {
        ["--sink", address] => UdpSocket::bind(address)?,
        [address] => {
            let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            socket
        }
        _ => return Err("usage: blast [--sink] ADDRESS".into()),
    };
    println!("ready");
    for line in stdin().lines() {
        let count: u32 = line?.parse()?;
        let started = Instant::now();
        for _ in 0..count {
            socket.send(&PAYLOAD)?;
        }
        println!("{:.1}", started.elapsed().as_secs_f64() * 1e9 / f64::from(count));
    }
    Ok(())
}
