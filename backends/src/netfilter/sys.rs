//! What nftnl lacks, over the C library: expressions, owned tables, counters, verdict maps.
// libnftnl is a C library that takes pointers; nftnl's traits for messages are unsafe to implement.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_void},
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
};

use nftnl::{
    MsgType, NlMsg, ProtoFamily, Rule,
    expr::Expression,
    nftnl_sys::{self as nft, libc},
};

/// A socket to `nf_tables`. It is bound to the network namespace that it was opened in, and may
/// be used from any thread.
pub(super) struct Socket(pub(super) mnl::Socket);

// SAFETY: the socket is a file descriptor and its addresses, nothing of which belongs to a thread;
// mnl keeps no global state. Only one thread has it at a time (it is not Sync).
unsafe impl Send for Socket {}

impl Socket {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as self, which the borrow does not outlive.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// An attribute of an expression.
#[derive(Debug, Clone)]
pub(super) enum Value {
    U16(u16),
    U32(u32),
    U64(u64),
    Text(CString),
    /// Bytes that the expression takes over and frees.
    Owned(Vec<u8>),
}

/// An expression by its name and attributes (`NFTNL_EXPR_*`).
pub(super) struct Raw {
    pub(super) name: &'static CStr,
    pub(super) values: Vec<(u32, Value)>,
}

impl Expression for Raw {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<nft::nftnl_expr> {
        // SAFETY: the name is a C string; the library copies it.
        let expr = unsafe { nft::nftnl_expr_alloc(self.name.as_ptr()) };
        // Null for a name the library does not know (ours are fixed) or without memory.
        let expr = NonNull::new(expr).expect("libnftnl knows the expression");
        for (attribute, value) in &self.values {
            let attribute = *attribute as u16;
            // SAFETY: expr is alive and of this kind; strings are copied by the library.
            unsafe {
                match value {
                    Value::U16(value) => {
                        nft::nftnl_expr_set_u16(expr.as_ptr(), attribute, *value);
                    }
                    Value::Owned(bytes) => {
                        // The library keeps the pointer and frees it (expr/target.c).
                        let copy = libc::malloc(bytes.len());
                        assert!(!copy.is_null(), "out of memory");
                        copy.cast::<u8>().copy_from(bytes.as_ptr(), bytes.len());
                        let length = bytes.len() as u32;
                        nft::nftnl_expr_set(expr.as_ptr(), attribute, copy, length);
                    }
                    Value::U32(value) => {
                        nft::nftnl_expr_set_u32(expr.as_ptr(), attribute, *value);
                    }
                    Value::U64(value) => {
                        nft::nftnl_expr_set_u64(expr.as_ptr(), attribute, *value);
                    }
                    Value::Text(text) => {
                        nft::nftnl_expr_set_str(expr.as_ptr(), attribute, text.as_ptr());
                    }
                }
            }
        }
        expr
    }
}

/// A table with flags, which [`nftnl::Table`] does not send.
pub(super) struct TableMessage<'a> {
    pub(super) name: &'a CStr,
    pub(super) family: ProtoFamily,
    pub(super) flags: u32,
}

// SAFETY: writes one message of less than `nft_nlmsg_maxsize` bytes with this sequence number.
unsafe impl NlMsg for TableMessage<'_> {
    unsafe fn write(&self, buffer: *mut c_void, seq: u32, kind: MsgType) {
        let (message, flags) = match kind {
            MsgType::Add => (libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
            MsgType::Del => (libc::NFT_MSG_DELTABLE, 0),
        };
        // SAFETY: the caller gives a buffer that is large enough; the table lives until freed.
        unsafe {
            let table = nft::nftnl_table_alloc();
            assert!(!table.is_null(), "out of memory");
            nft::nftnl_table_set_u32(table, nft::NFTNL_TABLE_FAMILY as u16, self.family as u32);
            nft::nftnl_table_set_str(table, nft::NFTNL_TABLE_NAME as u16, self.name.as_ptr());
            if matches!(kind, MsgType::Add) {
                nft::nftnl_table_set_u32(table, nft::NFTNL_TABLE_FLAGS as u16, self.flags);
            }
            let header = header(buffer, message, self.family, flags, seq);
            nft::nftnl_table_nlmsg_build_payload(header, table);
            nft::nftnl_table_free(table);
        }
    }
}

/// `NFT_OBJECT_COUNTER` of `linux/netfilter/nf_tables.h`.
pub(super) const OBJECT_COUNTER: u32 = 1;

/// A named counter.
pub(super) struct CounterMessage<'a> {
    pub(super) table: &'a CStr,
    pub(super) family: ProtoFamily,
    pub(super) name: &'a CStr,
}

impl CounterMessage<'_> {
    /// SAFETY: `buffer` must have room for a message.
    unsafe fn write_as(&self, buffer: *mut c_void, message: i32, flags: i32, seq: u32) {
        // SAFETY: as promised by the caller; the object lives until freed.
        unsafe {
            let object = nft::nftnl_obj_alloc();
            assert!(!object.is_null(), "out of memory");
            nft::nftnl_obj_set_u32(object, nft::NFTNL_OBJ_FAMILY as u16, self.family as u32);
            nft::nftnl_obj_set_str(object, nft::NFTNL_OBJ_TABLE as u16, self.table.as_ptr());
            nft::nftnl_obj_set_str(object, nft::NFTNL_OBJ_NAME as u16, self.name.as_ptr());
            nft::nftnl_obj_set_u32(object, nft::NFTNL_OBJ_TYPE as u16, OBJECT_COUNTER);
            let header = header(buffer, message, self.family, flags, seq);
            nft::nftnl_obj_nlmsg_build_payload(header, object);
            nft::nftnl_obj_free(object);
        }
    }

    /// The message that asks for its value.
    pub(super) fn question(&self, seq: u32) -> Vec<u8> {
        let mut words = vec![0_u64; 64]; // Three short attributes; aligned as nlmsghdr is.
        // SAFETY: 512 bytes hold a header (20 bytes) and three attributes of at most 132 bytes.
        unsafe {
            self.write_as(words.as_mut_ptr().cast(), libc::NFT_MSG_GETOBJ, 0, seq);
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        bytes[..length].to_vec()
    }
}

// SAFETY: as above.
unsafe impl NlMsg for CounterMessage<'_> {
    unsafe fn write(&self, buffer: *mut c_void, seq: u32, kind: MsgType) {
        let (message, flags) = match kind {
            MsgType::Add => (libc::NFT_MSG_NEWOBJ, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
            MsgType::Del => (libc::NFT_MSG_DELOBJ, 0),
        };
        // SAFETY: the caller gives a buffer that is large enough.
        unsafe { self.write_as(buffer, message, flags, seq) }
    }
}

/// Name, packets and bytes in an answer about a counter.
pub(super) fn parse_counter(message: &[u8]) -> Option<(CString, u64, u64)> {
    // The library reads the header through a pointer, which must be aligned.
    let words: Vec<u64> = message
        .chunks(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        })
        .collect();
    // SAFETY: the buffer is aligned and as long as its header says (checked by the caller); the
    // name is copied before the object that owns it is freed.
    unsafe {
        let object = nft::nftnl_obj_alloc();
        assert!(!object.is_null(), "out of memory");
        let parsed = nft::nftnl_obj_nlmsg_parse(words.as_ptr().cast(), object) >= 0;
        let name = nft::nftnl_obj_get_str(object, nft::NFTNL_OBJ_NAME as u16);
        let found = (parsed && !name.is_null()).then(|| {
            let name = CStr::from_ptr(name).to_owned();
            let packets = nft::nftnl_obj_get_u64(object, nft::NFTNL_OBJ_CTR_PKTS as u16);
            let bytes = nft::nftnl_obj_get_u64(object, nft::NFTNL_OBJ_CTR_BYTES as u16);
            (name, packets, bytes)
        });
        nft::nftnl_obj_free(object);
        found
    }
}

/// A map from a key to a verdict, or some of its elements.
pub(super) struct MapMessage<'a> {
    pub(super) table: &'a CStr,
    pub(super) family: ProtoFamily,
    pub(super) name: &'a CStr,
    /// Names it within a batch.
    pub(super) id: u32,
    /// Data type that nft(8) prints the key as.
    pub(super) key_type: u32,
    /// Bytes of a key.
    pub(super) key_len: u32,
    /// Keys, and the chains to go on in; empty: the map itself.
    pub(super) elements: &'a [(Vec<u8>, CString)],
}

/// `NFTNL_UDATA_SET_KEYBYTEORDER` and `BYTEORDER_HOST_ENDIAN` of nft(8): without it nft prints
/// byte-swapped keys.
const KEY_BYTE_ORDER: (u8, u32) = (0, 1);

// SAFETY: as above; callers keep the elements of one message few enough for its buffer.
unsafe impl NlMsg for MapMessage<'_> {
    unsafe fn write(&self, buffer: *mut c_void, seq: u32, kind: MsgType) {
        let elements = !self.elements.is_empty();
        let (message, flags) = match (kind, elements) {
            (MsgType::Add, false) => (libc::NFT_MSG_NEWSET, libc::NLM_F_CREATE),
            (MsgType::Del, false) => (libc::NFT_MSG_DELSET, 0),
            (MsgType::Add, true) => {
                (libc::NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
            }
            (MsgType::Del, true) => (libc::NFT_MSG_DELSETELEM, 0),
        };
        // SAFETY: the caller gives a buffer that is large enough. The set owns its elements and
        // lives until freed; keys and strings are copied.
        unsafe {
            let set = nft::nftnl_set_alloc();
            assert!(!set.is_null(), "out of memory");
            let number = |attribute: u32, value: u32| {
                nft::nftnl_set_set_u32(set, attribute as u16, value);
            };
            number(nft::NFTNL_SET_FAMILY, self.family as u32);
            nft::nftnl_set_set_str(set, nft::NFTNL_SET_TABLE as u16, self.table.as_ptr());
            nft::nftnl_set_set_str(set, nft::NFTNL_SET_NAME as u16, self.name.as_ptr());
            number(nft::NFTNL_SET_ID, self.id);
            if elements {
                for (key, chain) in self.elements {
                    let element = nft::nftnl_set_elem_alloc();
                    assert!(!element.is_null(), "out of memory");
                    let attribute = nft::NFTNL_SET_ELEM_KEY as u16;
                    let length = key.len() as u32;
                    nft::nftnl_set_elem_set(element, attribute, key.as_ptr().cast(), length);
                    if matches!(kind, MsgType::Add) {
                        let goto = libc::NFT_GOTO.cast_unsigned();
                        let attribute = nft::NFTNL_SET_ELEM_VERDICT as u16;
                        nft::nftnl_set_elem_set_u32(element, attribute, goto);
                        let attribute = nft::NFTNL_SET_ELEM_CHAIN as u16;
                        nft::nftnl_set_elem_set_str(element, attribute, chain.as_ptr());
                    }
                    nft::nftnl_set_elem_add(set, element);
                }
            } else {
                number(nft::NFTNL_SET_KEY_TYPE, self.key_type);
                number(nft::NFTNL_SET_KEY_LEN, self.key_len);
                number(nft::NFTNL_SET_FLAGS, libc::NFT_SET_MAP as u32);
                number(nft::NFTNL_SET_DATA_TYPE, libc::NFT_DATA_VERDICT);
                number(nft::NFTNL_SET_DATA_LEN, VERDICT_LEN);
                let data = nft::nftnl_udata_buf_alloc(64);
                assert!(!data.is_null(), "out of memory");
                nft::nftnl_udata_put_u32(data, KEY_BYTE_ORDER.0, KEY_BYTE_ORDER.1);
                nft::nftnl_set_set_data(
                    set,
                    nft::NFTNL_SET_USERDATA as u16,
                    nft::nftnl_udata_buf_data(data),
                    nft::nftnl_udata_buf_len(data),
                );
                nft::nftnl_udata_buf_free(data);
            }
            let header = header(buffer, message, self.family, flags, seq);
            if elements {
                nft::nftnl_set_elems_nlmsg_build_payload(header, set);
            } else {
                nft::nftnl_set_nlmsg_build_payload(header, set);
            }
            nft::nftnl_set_free(set);
        }
    }
}

/// `sizeof(struct nft_verdict)`, what nft(8) sends.
const VERDICT_LEN: u32 = 16;

/// SAFETY: `buffer` must have room for a header.
unsafe fn header(
    buffer: *mut c_void,
    message: i32,
    family: ProtoFamily,
    flags: i32,
    seq: u32,
) -> *mut libc::nlmsghdr {
    // SAFETY: as promised by the caller.
    unsafe {
        nft::nftnl_nlmsg_build_hdr(
            buffer.cast::<c_char>(),
            message.cast_unsigned() as u16,
            family as u16,
            flags.cast_unsigned() as u16,
            seq,
        )
    }
}
