//! What we change on a TCP socket, and how it is given back: its pace, its window clamp and
//! its callback flags.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock_ops},
    helpers::generated::{bpf_getsockopt, bpf_setsockopt, bpf_sock_ops_cb_flags_set},
};
use chadthrottle_ebpf::{
    edge::UNCLAMPED,
    layout::{CLAMPED, DOWNLOAD, Edge, Flow, JOINED, NARROW, PACED, UPLOAD},
};

use super::{attribution::Limit, constants};

const SOL_SOCKET: i32 = 1;
const SOL_TCP: i32 = 6;
const SO_MAX_PACING_RATE: i32 = 47;
const TCP_WINDOW_CLAMP: i32 = 10;
const TCP_CONGESTION: i32 = 13;
/// Initial congestion window, segments; only before the first data.
const TCP_BPF_IW: i32 = 1001;
/// The callback flags, from about kernel 6.12.
const TCP_BPF_SOCK_OPS_CB_FLAGS: i32 = 1008;
/// The name of a congestion control (`TCP_CA_NAME_MAX`).
type CongestionName = [u8; 16];
/// SO_MAX_PACING_RATE of a socket that is not paced.
const UNPACED: u32 = u32::MAX;

/// A TCP socket whose options we may set.
#[derive(Clone, Copy)]
pub(crate) enum Socket {
    /// In sock_ops, through its context.
    Event(*mut bpf_sock_ops),
    /// In the iterator, the tcp_sock itself.
    Visited(*mut c_void),
}

impl Socket {
    #[inline]
    fn get(self, level: i32, name: i32) -> Option<u32> {
        self.read(level, name)
    }

    #[inline]
    fn set(self, level: i32, name: i32, value: u32) {
        self.write(level, name, value);
    }

    /// Reads an option of exactly this size, or a name that fits.
    #[inline]
    fn read<T: Copy>(self, level: i32, name: i32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let (to, size) = (value.as_mut_ptr().cast(), size_of::<T>() as i32);
        // SAFETY: `value` has room; the verifier checks the other pointer. The kernel fills
        // all of `value`, also when it fails.
        unsafe {
            let failed = match self {
                Self::Event(ctx) => bpf_getsockopt(ctx.cast(), level, name, to, size),
                Self::Visited(tp) => bpf_getsockopt(tp, level, name, to, size),
            };
            (failed == 0).then_some(value.assume_init())
        }
    }

    /// What the kernel refuses stays as it is: the backstop in `packets` holds the limit.
    #[inline]
    fn write<T: Copy>(self, level: i32, name: i32, mut value: T) {
        let (from, size) = ((&raw mut value).cast(), size_of::<T>() as i32);
        // SAFETY: as for `read`.
        unsafe {
            match self {
                Self::Event(ctx) => bpf_setsockopt(ctx.cast(), level, name, from, size),
                Self::Visited(tp) => bpf_setsockopt(tp, level, name, from, size),
            }
        };
    }

    #[inline]
    fn callbacks(self) -> u32 {
        match self {
            // SAFETY: the program's own context.
            Self::Event(ctx) => unsafe { (*ctx).bpf_sock_ops_cb_flags },
            Self::Visited(_) => self.get(SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS).unwrap_or(0),
        }
    }

    #[inline]
    fn set_callbacks(self, flags: u32) {
        match self {
            // SAFETY: the program's own context.
            Self::Event(ctx) => unsafe {
                bpf_sock_ops_cb_flags_set(ctx, flags.cast_signed());
            },
            Self::Visited(_) => self.set(SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, flags),
        }
    }

    /// Sets the window clamp, bytes.
    #[inline]
    pub(crate) fn clamp(self, state: &mut u32, bytes: u32) {
        *state |= CLAMPED;
        self.set(SOL_TCP, TCP_WINDOW_CLAMP, bytes);
    }

    /// Sets the initial congestion window, segments.
    #[inline]
    pub(crate) fn initial_window(self, segments: u32) {
        self.set(SOL_TCP, TCP_BPF_IW, segments);
    }

    /// Paces the socket, but never faster than the application asked for.
    #[inline]
    pub(crate) fn pace(self, flow: &mut Flow, bytes_per_second: u64) {
        let now =
            self.get(SOL_SOCKET, SO_MAX_PACING_RATE).unwrap_or(match flow.state & PACED {
                0 => UNPACED,
                _ => flow.pace,
            });
        if flow.state & PACED == 0 || now != flow.pace {
            // The first time, or the application changed it since.
            flow.original_pace = now;
        }
        let wanted = bytes_per_second.min(u64::from(flow.original_pace)) as u32;
        flow.state |= PACED;
        if now != wanted {
            flow.pace = wanted;
            self.set(SOL_SOCKET, SO_MAX_PACING_RATE, wanted);
        }
    }

    /// Gives back the pace the application had.
    #[inline]
    fn unpace(self, flow: &mut Flow) {
        if flow.state & PACED == 0 {
            return;
        }
        flow.state &= !PACED;
        // What the application set since is its own.
        if self.get(SOL_SOCKET, SO_MAX_PACING_RATE).is_none_or(|now| now == flow.pace) {
            self.set(SOL_SOCKET, SO_MAX_PACING_RATE, flow.original_pace);
            self.forget_bandwidth();
        }
    }

    /// BBR took the pace for the bandwidth of the path; chosen anew, by way of Reno, it starts
    /// from nothing. The congestion window stays.
    #[inline]
    fn forget_bandwidth(self) {
        let Some(name) = self.read::<CongestionName>(SOL_TCP, TCP_CONGESTION) else { return };
        if name.starts_with(b"bbr") {
            self.write(SOL_TCP, TCP_CONGESTION, *b"reno");
            self.write(SOL_TCP, TCP_CONGESTION, name);
        }
    }

    /// Gives the window back to the kernel's own tuning.
    #[inline]
    fn unclamp(self, flow: &mut Flow) {
        flow.edge = Edge::zeroed();
        let clamped = flow.state & CLAMPED != 0;
        flow.state &= !(CLAMPED | NARROW | JOINED);
        if !clamped {
            return;
        }
        self.set(SOL_TCP, TCP_WINDOW_CLAMP, UNCLAMPED);
    }

    /// Makes sure that the callbacks in `wanted` come, and that those we no longer want do
    /// not. What others asked for stays.
    #[inline]
    fn want(self, flow: &mut Flow, wanted: u32) {
        let old = self.callbacks();
        let missing = wanted & !old;
        let surplus = flow.callbacks & !wanted;
        if missing != 0 || surplus != 0 {
            flow.callbacks = flow.callbacks & !surplus | missing;
            self.set_callbacks((old | missing) & !surplus);
        }
    }

    /// Brings the socket in line with its limit: hooks what is limited, gives back what is
    /// not (any more).
    #[inline]
    pub(crate) fn sync(self, flow: &mut Flow, limit: &Limit) {
        if flow.limit != limit.slot + 1 || flow.generation != limit.generation {
            flow.limit = limit.slot + 1;
            flow.generation = limit.generation;
            flow.edge = Edge::zeroed();
            flow.epochs = [0; 2];
        }
        let mut wanted = 0;
        if limit.rate(UPLOAD).is_none() {
            self.unpace(flow);
        } else {
            wanted |= BPF_SOCK_OPS_RTT_CB_FLAG;
        }
        if limit.rate(DOWNLOAD).is_none() {
            self.unclamp(flow);
        } else if can_grant() {
            wanted |= BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
        }
        self.want(flow, wanted);
    }

    /// Gives back everything.
    #[inline]
    pub(crate) fn release(self, flow: &mut Flow) {
        self.unpace(flow);
        self.unclamp(flow);
        self.want(flow, 0);
        flow.limit = 0;
    }
}

/// Whether the loader could say where the window is.
#[inline]
pub(crate) fn can_grant() -> bool {
    constants::rcv_wup() != 0 && constants::rcv_wnd() != 0
}
