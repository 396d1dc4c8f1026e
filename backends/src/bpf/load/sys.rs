//! The commands of bpf(2) that bring something into the kernel; see `bpf/sys.rs`.
// bpf(2) takes a pointer, and some of its fields are pointers as well.
#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use crate::bpf::sys::{Command, bpf, bpf_fd};

/// A kernel program instruction, `struct bpf_insn`.
#[repr(C)]
pub(in crate::bpf) struct Instruction {
    pub(in crate::bpf) code: u8,
    /// Destination in the lower, source in the upper four bits.
    pub(in crate::bpf) registers: u8,
    pub(in crate::bpf) offset: i16,
    pub(in crate::bpf) immediate: i32,
}

/// What the kernel is told about a program beside its instructions; its license is GPL.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::bpf) struct Kind {
    /// `enum bpf_prog_type`
    pub(in crate::bpf) program_type: u32,
    /// `enum bpf_attach_type`, for the types that want it.
    pub(in crate::bpf) attach_type: u32,
    /// The function of the kernel that an iterator is attached to.
    pub(in crate::bpf) attach_btf_id: u32,
    /// What listings call it; ends with a zero.
    pub(in crate::bpf) name: [u8; 16],
}

/// On a busy machine loading now and then answers EAGAIN; libbpf tries as often
/// (`PROG_LOAD_ATTEMPTS`).
const LOAD_ATTEMPTS: usize = 5;

/// Loads a program. The verifier writes to `log` why it refuses one, unless it is empty.
pub(in crate::bpf) fn prog_load(
    kind: Kind,
    instructions: &[Instruction],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    const LICENSE: &CStr = c"GPL";
    /// `BPF_LOG_LEVEL1`, `BPF_LOG_STATS`
    const LOG_LEVEL: u32 = 1 | 4;
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        expected_attach_type: u32,
        btf_fd: u32,
        func_info_size: u32,
        func_info: u64,
        func_info_count: u32,
        line_info_size: u32,
        line_info: u64,
        line_info_count: u32,
        attach_btf_id: u32,
    }
    let mut attr = Attr {
        kind: kind.program_type,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        name: kind.name,
        expected_attach_type: kind.attach_type,
        attach_btf_id: kind.attach_btf_id,
        ..Attr::default()
    };
    if !log.is_empty() {
        attr.log_level = LOG_LEVEL;
        attr.log_size = log.len() as u32;
        attr.log = log.as_mut_ptr() as u64;
    }
    // SAFETY: the pointers in attr are valid during the call: for reads of what is said, log for
    // writes of its size.
    let mut load = || unsafe { bpf_fd(Command::ProgLoad, &mut attr) };
    for _ in 1..LOAD_ATTEMPTS {
        match load() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
    load()
}

/// Loads type information, without a log.
pub(super) fn btf_load(data: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        data: u64,
        log: u64,
        size: u32,
        log_size: u32,
    }
    let (start, size) = (data.as_ptr() as u64, data.len() as u32);
    let mut attr = Attr { data: start, log: 0, size, log_size: 0 };
    // SAFETY: data is valid for reads of size bytes.
    unsafe { bpf_fd(Command::BtfLoad, &mut attr) }
}

/// Fills the only element of an array for good. The map must have been made from `definition`.
pub(super) fn map_fill(map: BorrowedFd<'_>, definition: &aya_obj::Map) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        map: i32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    #[repr(C)]
    struct Freeze {
        map: i32,
    }
    let (map, key, value) = (map.as_raw_fd(), 0_u32, definition.data());
    if (definition.key_size() as usize, definition.value_size() as usize)
        != (size_of_val(&key), value.len())
    {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut update = Update {
        map,
        padding: 0,
        key: (&raw const key) as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value are valid for reads of the sizes that the map has.
    unsafe { bpf(Command::MapUpdateElem, &mut update) }?;
    // SAFETY: attr holds no pointers.
    unsafe { bpf(Command::MapFreeze, &mut Freeze { map }) }.map(drop)
}

/// Attaches a program to a tracepoint of this name, until its descriptor closes.
pub(in crate::bpf) fn raw_tracepoint_open(
    program: BorrowedFd<'_>,
    name: &CStr,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        name: u64,
        program: i32,
        padding: u32,
    }
    let mut attr =
        Attr { name: name.as_ptr() as u64, program: program.as_raw_fd(), padding: 0 };
    // SAFETY: the name is valid for reads up to its zero.
    unsafe { bpf_fd(Command::RawTracepointOpen, &mut attr) }
}
