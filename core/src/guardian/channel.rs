//! What a run and its guardian say to each other.
//!
//! A sequenced-packet socket pair: messages stay whole, and a message of length 0 is the end
//! of the other side. Each message of the run is answered with one byte.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::error::{Error, Result};

/// How long the run waits for an answer: a guardian that is stopped must not hang it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest label.
const LABEL_MAX: usize = 255;

/// What one side says.
#[derive(Debug)]
pub(super) enum Message {
    /// "I am ready", and the answer to everything else.
    Ready,
    /// Keep this descriptor under this label.
    Hold(String, OwnedFd),
    /// Close the descriptor with this label.
    LetGo(String),
    /// All is taken back; you may go.
    Released,
}

const READY: u8 = b'Y';
const HOLD: u8 = b'H';
const LET_GO: u8 = b'L';
const RELEASED: u8 = b'R';

/// The run's end of the socket.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: Mutex<OwnedFd>,
}

impl Channel {
    /// A pair: the run's end, and the one that becomes the guardian's stdin. Both are closed on
    /// exec, so no command that the run starts keeps the socket open.
    pub(super) fn pair() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Error::io("create", "the guardian's socket", errno.into()))?;
        set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE)).map_err(failed)?;
        set_socket_timeout(&ours, Timeout::Send, Some(PATIENCE)).map_err(failed)?;
        Ok((Self { socket: Mutex::new(ours) }, theirs))
    }

    /// Waits until the guardian runs.
    pub(super) fn wait_until_ready(&self) -> Result<()> {
        self.with_socket(answer)
    }

    /// Hands over a descriptor.
    pub(crate) fn hold(&self, label: &str, fd: BorrowedFd<'_>) -> Result<()> {
        self.ask(HOLD, label, Some(fd))
    }

    /// Has a descriptor closed.
    pub(crate) fn let_go(&self, label: &str) -> Result<()> {
        self.ask(LET_GO, label, None)
    }

    /// Says that there is nothing to take back.
    pub(super) fn release(&self) -> Result<()> {
        self.ask(RELEASED, "", None)
    }

    /// Ends the connection, whoever else has this end open: the guardian sees us as dead.
    pub(super) fn hang_up(&self) {
        let hung_up = self.with_socket(|socket| {
            rustix::net::shutdown(socket, rustix::net::Shutdown::Both).map_err(failed)
        });
        if let Err(error) = hung_up {
            tracing::debug!("{error}");
        }
    }

    /// Whether the guardian still has its end open.
    pub(super) fn is_open(&self) -> bool {
        let gone = self.with_socket(|socket| {
            let mut fds = [PollFd::new(socket, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).map_err(failed)?;
            Ok(fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
        });
        !gone.unwrap_or(false)
    }

    fn ask(&self, kind: u8, label: &str, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        assert!(label.len() <= LABEL_MAX, "a label of ours is short");
        self.with_socket(|socket| {
            send(socket, kind, label, fd).map_err(failed)?;
            answer(socket)
        })
    }

    fn with_socket<T>(&self, act: impl FnOnce(&OwnedFd) -> Result<T>) -> Result<T> {
        act(&self.socket.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells the run that its message was understood.
pub(super) fn send_ready(socket: &OwnedFd) -> Result<(), Errno> {
    send(socket, READY, "", None)
}

fn answer(socket: &OwnedFd) -> Result<()> {
    match receive(socket) {
        Ok(Some(Message::Ready)) => Ok(()),
        Ok(_) => Err(failed(Errno::PIPE)),
        Err(errno) => Err(failed(errno)),
    }
}

fn send(
    socket: &OwnedFd,
    kind: u8,
    label: &str,
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let kind = [kind];
    let parts = [IoSlice::new(&kind), IoSlice::new(label.as_bytes())];
    rustix::io::retry_on_intr(|| sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// The next message; `None` when the other side has ended.
pub(super) fn receive(socket: &OwnedFd) -> Result<Option<Message>, Errno> {
    let mut text = [0; 1 + LABEL_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        let mut parts = [IoSliceMut::new(&mut text)];
        match recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let Some((&kind, label)) = text[..length].split_first() else { return Ok(None) };
    let label = String::from_utf8_lossy(label).into_owned();
    match (kind, fd) {
        (READY, None) => Ok(Some(Message::Ready)),
        (HOLD, Some(fd)) => Ok(Some(Message::Hold(label, fd))),
        (LET_GO, None) => Ok(Some(Message::LetGo(label))),
        (RELEASED, None) => Ok(Some(Message::Released)),
        // A descriptor that could not be handed over (EMFILE) arrives as none.
        _ => Err(Errno::BADMSG),
    }
}

fn failed(errno: Errno) -> Error {
    Error::io("reach", "the guardian", errno.into())
        .meaning("The process that puts things back if this run is killed has ended or hangs.")
        .advice("Start the run again; did something kill its guardian?")
}
