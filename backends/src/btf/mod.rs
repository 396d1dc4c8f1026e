//! Offsets from the kernel's own type information (BTF, Documentation/bpf/btf.rst).
//!
//! The kernel programs read a few fields of `tcp_sock` and `task_struct`, whose places change
//! from build to build, and Rust has no CO-RE relocations for fields: they are looked up here
//! and passed to the programs as constants.
//!
//! A small parser of our own, because aya keeps the members of its types private and takes
//! about 30 ms to build them all; start-up has a budget. This one indexes the types in one
//! pass and decodes only the few that are asked for: 2.3 ms (best of five, release build) for
//! the 5.5 MB of a 6.18, which are read where the kernel has them (from 6.16 on; else copied).

mod sys;
mod types;

use std::path::Path;

use chadthrottle_core::{Error, ErrorKind, Result, check::Remedy};

use sys::Mapped;
use types::{Member, Types};

/// Where the kernel shows its types: kernel 5.4 with `CONFIG_DEBUG_INFO_BTF`.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Where the fields that our programs read lie. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// `tcp_sock.rcv_wup`: `rcv_nxt` when the last window was advertised.
    pub rcv_wup: u32,
    /// `tcp_sock.rcv_wnd`: that window.
    pub rcv_wnd: u32,
    /// `tcp_sock.rcv_nxt`: what is expected next.
    pub rcv_nxt: u32,
    /// `tcp_sock.copied_seq`: what is to be read next.
    pub copied_seq: u32,
    /// `mptcp_sock.ack_seq` (u64): the next byte of data expected; 0 without `CONFIG_MPTCP`.
    pub ack_seq: u32,
    /// `inet_connection_sock.icsk_ack.rcv_mss` (u16), from the start of `tcp_sock`.
    pub rcv_mss: u32,
    /// `tcp_sock.rx_opt.rcv_wscale`: by how many bits our windows are shifted.
    pub rcv_wscale: BitField,
    /// `sock_common.skc_net.net`: the network namespace; 0 where there is only one.
    pub net: u32,
    /// `net.ns.inum` (u32): its inode; 0 where there is only one.
    pub inode: u32,
    /// `sock_common.skc_state` (u8).
    pub state: u32,
    /// `sock_common.skc_num` (u16): the local port in host order.
    pub num: u32,
    /// `sock_common.skc_cookie` (u64).
    pub cookie: u32,
    /// `task_struct.pid`: the thread.
    pub task_pid: u32,
    /// `task_struct.tgid`: the process.
    pub task_tgid: u32,
    /// `task_struct.start_boottime` (u64): nanoseconds after boot.
    pub task_started: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `sock_common.skc_family` (u16).
    pub family: u32,
    /// `socket.sk`.
    pub socket_sk: u32,
    /// The id of the iterator over TCP sockets (`bpf_iter_tcp`, kernel 5.9).
    pub tcp_iterator: Option<u32>,
    /// The id of the iterator over open files (`bpf_iter_task_file`, kernel 5.8).
    pub file_iterator: Option<u32>,
    /// `bpf_skc_to_mptcp_sock` (kernel 5.19 with `CONFIG_MPTCP`).
    pub has_mptcp: bool,
    /// `TCP_BPF_SOCK_OPS_CB_FLAGS`: an iterator can set callback flags (about 6.12).
    pub sets_callbacks: bool,
    /// `BPF_TCX_EGRESS`: programs can be linked to interfaces (kernel 6.6).
    pub has_tcx: bool,
}

/// A field narrower than a byte: `(value[byte] >> shift) & ((1 << width) - 1)`, on a
/// little-endian machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BitField {
    /// Offset in bytes.
    pub byte: u32,
    /// Bits below it in that byte.
    pub shift: u32,
    /// Its size in bits; 0 means that it is unknown.
    pub width: u32,
}

/// From the start of `tcp_sock`.
const SKC_NET: [&str; 6] = ["inet_conn", "icsk_inet", "sk", "__sk_common", "skc_net", "net"];

impl Offsets {
    /// Looks them up in the running kernel.
    pub fn from_kernel() -> Result<Self> {
        let data = read(Path::new(VMLINUX))?;
        let offsets = Types::parse(data.bytes()).and_then(|types| Self::from_types(&types));
        offsets.map_err(|what| malformed(&what))
    }

    fn from_types(types: &Types<'_>) -> Result<Self, String> {
        let [tcp_sock, mptcp_sock, task, socket, net] =
            types.structs(["tcp_sock", "mptcp_sock", "task_struct", "socket", "net"]);
        let tcp = |path: &[&str]| find(types, "tcp_sock", tcp_sock, path);
        let optional =
            |name, id, path: &[&str]| find(types, name, id, path).map_or(0, Member::byte);
        let common = |field| tcp(&["inet_conn", "icsk_inet", "sk", "__sk_common", field]);
        let task = |path: &[&str]| find(types, "task_struct", task, path);
        let [tcp_iterator, file_iterator, to_mptcp] =
            types.functions(["bpf_iter_tcp", "bpf_iter_task_file", "bpf_skc_to_mptcp_sock"]);
        Ok(Self {
            rcv_wup: tcp(&["rcv_wup"])?.byte(),
            rcv_wnd: tcp(&["rcv_wnd"])?.byte(),
            rcv_nxt: tcp(&["rcv_nxt"])?.byte(),
            copied_seq: tcp(&["copied_seq"])?.byte(),
            ack_seq: optional("mptcp_sock", mptcp_sock, &["ack_seq"]),
            rcv_mss: tcp(&["inet_conn", "icsk_ack", "rcv_mss"])?.byte(),
            rcv_wscale: tcp(&["rx_opt", "rcv_wscale"])?.into(),
            net: optional("tcp_sock", tcp_sock, &SKC_NET),
            inode: optional("net", net, &["ns", "inum"]),
            state: common("skc_state")?.byte(),
            num: common("skc_num")?.byte(),
            cookie: common("skc_cookie")?.byte(),
            task_pid: task(&["pid"])?.byte(),
            task_tgid: task(&["tgid"])?.byte(),
            task_started: task(&["start_boottime"])?.byte(),
            task_comm: task(&["comm"])?.byte(),
            family: common("skc_family")?.byte(),
            socket_sk: find(types, "socket", socket, &["sk"])?.byte(),
            tcp_iterator,
            file_iterator,
            has_mptcp: to_mptcp.is_some(),
            sets_callbacks: types.has_name("TCP_BPF_SOCK_OPS_CB_FLAGS"),
            has_tcx: types.has_name("BPF_TCX_EGRESS"),
        })
    }
}

impl From<Member> for BitField {
    fn from(member: Member) -> Self {
        Self { byte: member.bits / 8, shift: member.bits % 8, width: member.width }
    }
}

fn find(
    types: &Types<'_>,
    name: &str,
    id: Option<u32>,
    path: &[&str],
) -> Result<Member, String> {
    id.and_then(|id| types.member(id, path))
        .ok_or_else(|| format!("it has no {name}.{}", path.join(".")))
}

fn read(path: &Path) -> Result<Mapped> {
    Mapped::open(path).map_err(|error| {
        Error::io("read", path.display(), error)
            .meaning("The kernel does not tell how its structures look.")
            .remedy(Remedy::RebuildKernel("CONFIG_DEBUG_INFO_BTF".into()))
    })
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Failed, "use", VMLINUX)
        .meaning(format!("The kernel's type information is not as expected: {what}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The byte offset of STRUCT.MEMBER as bpftool prints it.
    fn bpftool_bits(dump: &str, name: &str, member: &str) -> u32 {
        let heading = format!("] STRUCT '{name}' ");
        let of_struct = dump.split(&heading).nth(1).expect(name);
        let line = of_struct
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with('\t'))
            .find(|line| line.starts_with(&format!("\t'{member}' ")))
            .unwrap_or_else(|| panic!("{name}.{member}"));
        let bits = line.split("bits_offset=").nth(1).unwrap();
        bits.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn agrees_with_bpftool() {
        let dump = std::process::Command::new("bpftool")
            .args(["btf", "dump", "file", VMLINUX, "format", "raw"])
            .output();
        let Some(dump) = dump.ok().filter(|output| output.status.success()) else {
            eprintln!("SKIPPED agrees_with_bpftool: bpftool or {VMLINUX} is missing");
            return;
        };
        let dump = String::from_utf8(dump.stdout).unwrap();
        let offsets = Offsets::from_kernel().unwrap();
        let bits = |name, member| bpftool_bits(&dump, name, member);

        assert_eq!(offsets.rcv_wup * 8, bits("tcp_sock", "rcv_wup"));
        assert_eq!(offsets.rcv_wnd * 8, bits("tcp_sock", "rcv_wnd"));
        assert_eq!(offsets.rcv_nxt * 8, bits("tcp_sock", "rcv_nxt"));
        assert_eq!(offsets.copied_seq * 8, bits("tcp_sock", "copied_seq"));
        assert_eq!(offsets.ack_seq * 8, bits("mptcp_sock", "ack_seq"));
        assert_eq!(offsets.task_pid * 8, bits("task_struct", "pid"));
        assert_eq!(offsets.task_tgid * 8, bits("task_struct", "tgid"));
        assert_eq!(offsets.task_started * 8, bits("task_struct", "start_boottime"));
        assert_eq!(offsets.task_comm * 8, bits("task_struct", "comm"));
        assert_eq!(offsets.socket_sk * 8, bits("socket", "sk"));
        let wscale = offsets.rcv_wscale;
        assert_eq!(
            wscale.byte * 8 + wscale.shift,
            bits("tcp_sock", "rx_opt") + bits("tcp_options_received", "rcv_wscale")
        );
        assert_eq!(wscale.width, 4);
        // icsk_ack is an anonymous struct: the member of the next STRUCT '(anon)' that has it.
        let acks = dump.split("STRUCT '(anon)' ").filter(|s| s.contains("\t'rcv_mss' "));
        let rcv_mss = acks.filter(|s| s.contains("\t'last_seg_size' ")).map(|ack| {
            let line = ack.lines().find(|line| line.contains("'rcv_mss'")).unwrap();
            let bits = line.split("bits_offset=").nth(1).unwrap();
            bits.split_whitespace().next().unwrap().parse::<u32>().unwrap()
        });
        let icsk_ack = bits("inet_connection_sock", "icsk_ack");
        assert!(rcv_mss.into_iter().any(|bits| offsets.rcv_mss * 8 == icsk_ack + bits));
        let iterator = offsets.tcp_iterator.expect("this kernel has it");
        assert!(dump.contains(&format!("\n[{iterator}] FUNC 'bpf_iter_tcp' ")));
        assert_eq!(offsets.has_mptcp, dump.contains("] FUNC 'bpf_skc_to_mptcp_sock' "));
    }

    #[test]
    #[cfg_attr(debug_assertions, ignore = "the budget is for release builds")]
    fn within_the_start_up_budget() {
        let best = (0..5)
            .map(|_| {
                let start = std::time::Instant::now();
                Offsets::from_kernel().unwrap();
                start.elapsed()
            })
            .min()
            .unwrap();
        println!("offsets from the kernel in {best:?}");
        assert!(best < std::time::Duration::from_millis(15), "{best:?}");
    }
}
