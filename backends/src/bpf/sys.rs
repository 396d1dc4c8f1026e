//! bpf(2) itself. Layouts and numbers are those of include/uapi/linux/bpf.h; fields that we
//! leave zero at the end of a layout are left out, as the kernel reads the rest as zero.
// bpf(2) takes a pointer, and some of its fields are pointers as well.
#![allow(unsafe_code)]

use std::{
    ffi::c_long,
    io,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// `bpf_cmd`
#[derive(Clone, Copy)]
#[repr(i32)]
pub(super) enum Command {
    MapUpdateElem = 2,
    ProgLoad = 5,
    ProgAttach = 8,
    ProgDetach = 9,
    ProgGetNextId = 11,
    ProgGetFdById = 13,
    ObjGetInfoByFd = 15,
    ProgQuery = 16,
    RawTracepointOpen = 17,
    BtfLoad = 18,
    MapFreeze = 22,
    LinkCreate = 28,
    LinkUpdate = 29,
    IterCreate = 33,
}

/// `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct AttachAttr {
    target: i32,
    program: i32,
    attach_type: u32,
    flags: u32,
}

pub(super) fn prog_attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    flags: u32,
) -> io::Result<()> {
    let (target, program) = (cgroup.as_raw_fd(), program.as_raw_fd());
    let mut attr = AttachAttr { target, program, attach_type, flags };
    // SAFETY: attr holds no pointers.
    unsafe { bpf(Command::ProgAttach, &mut attr) }.map(drop)
}

pub(super) fn prog_detach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<()> {
    let (target, program) = (cgroup.as_raw_fd(), program.as_raw_fd());
    let mut attr = AttachAttr { target, program, attach_type, flags: 0 };
    // SAFETY: attr holds no pointers.
    unsafe { bpf(Command::ProgDetach, &mut attr) }.map(drop)
}

/// Writes the ids of what is attached to `ids`; returns how many there are and the flags.
pub(super) fn prog_query(
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    ids: &mut [u32],
) -> io::Result<(usize, u32)> {
    // Complete, though we read little of it: kernels from 6.17 on write `revision` whatever
    // size was said.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        target: i32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
        program_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let mut attr = Attr {
        target: cgroup.as_raw_fd(),
        attach_type,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..Attr::default()
    };
    // SAFETY: ids is valid for writes of count u32.
    unsafe { bpf(Command::ProgQuery, &mut attr) }?;
    Ok((attr.count as usize, attr.attach_flags))
}

/// Attaches by a link, which detaches when its last descriptor closes.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    link(program, cgroup.as_raw_fd(), attach_type, flags)
}

/// The same on an interface, by its number in the network namespace of the calling thread.
pub(super) fn link_interface(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    link(program, interface.cast_signed(), attach_type, 0)
}

fn link(
    program: BorrowedFd<'_>,
    target: i32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr { program: program.as_raw_fd(), target, attach_type, flags };
    // SAFETY: attr holds no pointers.
    unsafe { bpf_fd(Command::LinkCreate, &mut attr) }
}

/// `BPF_LINK_CREATE`
#[repr(C)]
struct LinkAttr {
    program: i32,
    target: i32,
    attach_type: u32,
    flags: u32,
}

/// The errno of `BPF_LINK_CREATE` with a program that does not exist.
pub(super) fn link_create_nothing(attach_type: u32) -> io::Error {
    let mut attr = LinkAttr { program: -1, target: -1, attach_type, flags: 0 };
    // SAFETY: attr holds no pointers.
    refused(unsafe { bpf(Command::LinkCreate, &mut attr) })
}

/// The errno of `BPF_LINK_UPDATE` of a link that does not exist.
pub(super) fn link_update_nothing() -> io::Error {
    #[repr(C)]
    struct Attr {
        link: i32,
        program: i32,
        flags: u32,
        old_program: u32,
    }
    let mut attr = Attr { link: -1, program: -1, flags: 0, old_program: 0 };
    // SAFETY: attr holds no pointers.
    refused(unsafe { bpf(Command::LinkUpdate, &mut attr) })
}

/// The errno of `BPF_PROG_ATTACH` of this program to a cgroup that does not exist.
pub(super) fn prog_attach_nowhere(program: BorrowedFd<'_>, attach_type: u32) -> io::Error {
    let program = program.as_raw_fd();
    let mut attr = AttachAttr { target: -1, program, attach_type, flags: 0 };
    // SAFETY: attr holds no pointers.
    refused(unsafe { bpf(Command::ProgAttach, &mut attr) })
}

/// What must fail cannot succeed on descriptors that do not exist.
fn refused(answer: io::Result<c_long>) -> io::Error {
    answer.err().unwrap_or_else(|| io::ErrorKind::Other.into())
}

/// The smallest id of a loaded program above `id`; ENOENT when there is none.
pub(super) fn prog_get_next_id(id: u32) -> io::Result<u32> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut attr = Attr { id, next_id: 0, open_flags: 0 };
    // SAFETY: attr holds no pointers.
    unsafe { bpf(Command::ProgGetNextId, &mut attr) }?;
    Ok(attr.next_id)
}

pub(super) fn prog_get_fd_by_id(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut attr = Attr { id, next_id: 0, open_flags: 0 };
    // SAFETY: attr holds no pointers.
    unsafe { bpf_fd(Command::ProgGetFdById, &mut attr) }
}

/// The start of `struct bpf_prog_info`, up to the name.
#[repr(C)]
#[derive(Default)]
pub(super) struct ProgInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    uid: u32,
    map_count: u32,
    maps: u64,
    /// Ends with a zero.
    pub(super) name: [u8; 16],
}

pub(super) fn prog_info(program: BorrowedFd<'_>) -> io::Result<ProgInfo> {
    #[repr(C)]
    struct Attr {
        fd: i32,
        length: u32,
        info: u64,
    }
    let mut info = ProgInfo::default();
    let mut attr = Attr {
        fd: program.as_raw_fd(),
        length: size_of::<ProgInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: info is valid for writes of `length` bytes; the lengths and the count in it are
    // zero, so the kernel follows none of its pointers.
    unsafe { bpf(Command::ObjGetInfoByFd, &mut attr) }?;
    Ok(info)
}

/// A link that is attached to nothing but itself, for an iterator.
pub(super) fn iterator_link(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    /// `BPF_TRACE_ITER`
    const TRACE_ITER: u32 = 28;
    #[repr(C)]
    struct Attr {
        program: i32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let program = program.as_raw_fd();
    let mut attr = Attr { program, target: 0, attach_type: TRACE_ITER, flags: 0 };
    // SAFETY: attr holds no pointers.
    unsafe { bpf_fd(Command::LinkCreate, &mut attr) }
}

pub(super) fn iter_create(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        link: i32,
        flags: u32,
    }
    let mut attr = Attr { link: link.as_raw_fd(), flags: 0 };
    // SAFETY: attr holds no pointers.
    unsafe { bpf_fd(Command::IterCreate, &mut attr) }
}

/// # Safety
///
/// `T` must be the layout of this command, and the pointers in it valid for what it does.
pub(super) unsafe fn bpf<T>(command: Command, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: attr is valid for its size; the rest is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as i32, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A command that answers with a new descriptor (close-on-exec, as all of bpf(2)).
///
/// # Safety
///
/// As [`bpf`].
pub(super) unsafe fn bpf_fd<T>(command: Command, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
