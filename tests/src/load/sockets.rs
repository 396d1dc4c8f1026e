//! Where connections come from: connect, accept, a shared listener, another process.

use std::{
    fs, io,
    mem::MaybeUninit,
    net::TcpStream,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
};

use chadthrottle_backends::sockets::set_pace;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Args, End, Report, meter::say};

/// Most sockets that are handed over at once (`SCM_MAX_FD` is 253).
const MAX_GIVEN: usize = 64;

/// Opens the connections that the command line asks for.
pub(super) fn open(args: &Args) -> io::Result<Vec<TcpStream>> {
    match args.end {
        End::Connect => (0..args.flows)
            .map(|_| {
                let socket = stream_socket(args)?;
                socket.connect(&args.address()?.into())?;
                Ok(socket.into())
            })
            .collect(),
        End::Accept => accept(&listen(args)?, args),
        End::Inherit => accept(&Socket::from(io::stdin().as_fd().try_clone_to_owned()?), args),
        End::Take => take(Path::new(&args.at)),
        End::Share | End::Http => unreachable!("they serve by themselves"),
    }
}

fn stream_socket(args: &Args) -> io::Result<Socket> {
    let protocol = if args.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let domain = Domain::for_address(args.address()?);
    let new = if args.plain { Socket::new_raw } else { Socket::new };
    let socket = new(domain, Type::STREAM, Some(protocol))?;
    socket.set_tcp_congestion(args.congestion.as_bytes())?;
    if let Some(mbit) = args.pace {
        set_pace(&socket, mbit * 125_000).map_err(io::Error::other)?;
    }
    Ok(socket)
}

/// A listening socket at the address of the command line.
pub(super) fn listen(args: &Args) -> io::Result<Socket> {
    let socket = stream_socket(args)?;
    socket.set_reuse_address(true)?;
    socket.bind(&args.address()?.into())?;
    socket.listen(128)?;
    say(&Report::Listening)?;
    Ok(socket)
}

fn accept(listener: &Socket, args: &Args) -> io::Result<Vec<TcpStream>> {
    (0..args.flows).map(|_| Ok(listener.accept()?.0.into())).collect()
}

/// Opens a listener and starts two processes that accept from it. Which of them gets a
/// connection is up to the kernel; each takes as many as the command line says.
pub(super) fn share(args: &Args) -> io::Result<()> {
    let listener = listen(args)?;
    let mut workers = Vec::new();
    for _ in 0..2 {
        let listener = OwnedFd::from(listener.try_clone()?);
        let own_words = std::env::args().skip(1);
        let words = own_words.map(|word| if word == "share" { "inherit".into() } else { word });
        workers.push(child(words).stdin(Stdio::from(listener)).spawn()?);
    }
    say(&Report::Started { pids: workers.iter().map(std::process::Child::id).collect() })?;
    for mut worker in workers {
        worker.wait()?;
    }
    Ok(())
}

/// Lets a child process do everything.
pub(super) fn delegate(args: &Args) -> io::Result<()> {
    // A late child must not wait again.
    let late = args.child == Some(super::Birth::Late);
    let words = std::env::args()
        .skip(1)
        .filter(|word| !(word.starts_with("--child") || (late && word == "--wait")));
    let mut child = child(words).spawn()?;
    say(&Report::Started { pids: vec![child.id()] })?;
    child.wait().map(drop)
}

/// This program once more; it ends with us.
fn child(words: impl Iterator<Item = String>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(words).arg("--die-with-parent");
    command
}

/// Hands the connections to whoever listens at `path`.
pub(super) fn give(path: &Path, streams: &[TcpStream]) -> io::Result<()> {
    let channel = UnixStream::connect(path)?;
    let sockets: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_GIVEN))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    if !message.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other(format!("more than {MAX_GIVEN} sockets to give")));
    }
    sendmsg(&channel, &[io::IoSlice::new(b"!")], &mut message, SendFlags::empty())?;
    say(&Report::Given)
}

/// Takes connections from whoever connects to `path`.
fn take(path: &Path) -> io::Result<Vec<TcpStream>> {
    let listener = UnixListener::bind(path)?;
    say(&Report::Listening)?;
    let (channel, _) = listener.accept()?;
    fs::remove_file(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_GIVEN))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [io::IoSliceMut::new(&mut byte)];
    recvmsg(&channel, &mut data, &mut message, RecvFlags::CMSG_CLOEXEC)?;
    let sockets = message.drain().flat_map(|part| match part {
        RecvAncillaryMessage::ScmRights(sockets) => sockets.collect(),
        _ => Vec::new(),
    });
    Ok(sockets.map(TcpStream::from).collect())
}
