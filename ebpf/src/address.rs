//! Whether a peer is this host itself: loopback is never limited.

/// An IPv4 or IPv6 address as the kernel programs see it: words in network byte order.
pub type Words = [u32; 4];

/// `::ffff:0:0/96`: an IPv4 address on an IPv6 socket.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();
/// `::1`.
const ONE: u32 = 1_u32.to_be();

/// 127.0.0.0/8.
const fn is_loopback_v4(word: u32) -> bool {
    word.to_ne_bytes()[0] == 127
}

/// Whether an IPv4 peer is this host: 127/8, or the address we send from.
#[inline]
#[must_use]
pub const fn is_local_v4(remote: u32, local: u32) -> bool {
    is_loopback_v4(remote) || remote == local
}

/// The same for an IPv6 peer: `::1`, mapped 127/8, or the address we send from.
#[inline]
#[must_use]
pub const fn is_local_v6(remote: Words, local: Words) -> bool {
    let [a, b, c, d] = remote;
    if a == 0 && b == 0 && (c == 0 && d == ONE || c == MAPPED && is_loopback_v4(d)) {
        return true;
    }
    a == local[0] && b == local[1] && c == local[2] && d == local[3]
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(text: &str) -> u32 {
        u32::from_ne_bytes(text.parse::<Ipv4Addr>().unwrap().octets())
    }

    fn v6(text: &str) -> Words {
        let octets = text.parse::<Ipv6Addr>().unwrap().octets();
        core::array::from_fn(|i| {
            u32::from_ne_bytes([
                octets[4 * i],
                octets[4 * i + 1],
                octets[4 * i + 2],
                octets[4 * i + 3],
            ])
        })
    }

    #[test]
    fn loopback_and_oneself() {
        assert!(is_local_v4(v4("127.9.9.9"), v4("10.0.0.1")));
        assert!(is_local_v4(v4("10.0.0.1"), v4("10.0.0.1")));
        assert!(!is_local_v4(v4("10.0.0.127"), v4("10.0.0.1")));
        assert!(is_local_v6(v6("::1"), v6("2001:db8::1")));
        assert!(is_local_v6(v6("::ffff:127.0.0.1"), v6("2001:db8::1")));
        assert!(is_local_v6(v6("2001:db8::1"), v6("2001:db8::1")));
        assert!(!is_local_v6(v6("::ffff:10.0.0.2"), v6("::ffff:10.0.0.1")));
        assert!(!is_local_v6(v6("2001:db8::2"), v6("2001:db8::1")));
    }
}
