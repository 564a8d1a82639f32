//! The policy of iptables-legacy's chain FORWARD, which is not in nftables: linux/netfilter_ipv4/ip_tables.h. Only looked at.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

use quilt_record::sys;

use crate::nft::Verdict;

const IPT_SO_GET_INFO: i32 = 64;
const IPT_SO_GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo` and where in it `underflow[NF_INET_FORWARD]` and `size` stand: a name of 32 bytes, then numbers.
const INFO: usize = 84;
const UNDERFLOW_FORWARD: usize = 32 + 4 + 20 + 2 * 4;
const SIZE: usize = 80;
/// Where the entries begin in `struct ipt_get_entries`.
const ENTRIES: usize = 40;
/// In an entry: where its target stands; in a standard target: where its verdict stands.
const TARGET_OFFSET: usize = 88;
const VERDICT: usize = 32;
/// `-NF_DROP - 1`.
const DROP: u32 = -1i32 as u32;

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The policy, where the kernel has such a table and something has used it.
pub(crate) fn forward_policy() -> io::Result<Verdict> {
    // Asking for a table that has not been used would make it.
    let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    if !names.lines().any(|name| name == "filter") {
        return Ok(Verdict::Accept);
    }
    // Any socket of IPv4 will do.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut info = [0; INFO];
    info[..6].copy_from_slice(b"filter");
    sys::ip_option(socket.as_fd(), IPT_SO_GET_INFO, &mut info)?;
    let size = number(&info, SIZE).unwrap_or(0);
    let mut table = vec![0; ENTRIES + size as usize];
    table[..6].copy_from_slice(b"filter");
    table[32..36].copy_from_slice(&size.to_ne_bytes());
    sys::ip_option(socket.as_fd(), IPT_SO_GET_ENTRIES, &mut table)?;
    let entries = table.get(ENTRIES..).unwrap_or_default();
    Ok(policy(entries, number(&info, UNDERFLOW_FORWARD).unwrap_or(0) as usize))
}

/// The chain's last entry, whose verdict is its policy.
fn policy(entries: &[u8], last: usize) -> Verdict {
    let target = entries.get(last + TARGET_OFFSET..last + TARGET_OFFSET + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let verdict = target.and_then(|target| number(entries, last + usize::from(target) + VERDICT));
    match verdict {
        Some(DROP) if entries.windows(11).any(|name| name == b"DOCKER-USER") => Verdict::DropBehindDocker,
        Some(DROP) => Verdict::Drop,
        _ => Verdict::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_the_verdict_of_the_last_entry() {
        let mut entries = vec![0; 400];
        entries[200 + TARGET_OFFSET] = 112;
        assert_eq!(policy(&entries, 200), Verdict::Accept);
        entries[200 + 112 + VERDICT..][..4].copy_from_slice(&DROP.to_ne_bytes());
        assert_eq!(policy(&entries, 200), Verdict::Drop);
        entries[10..21].copy_from_slice(b"DOCKER-USER");
        assert_eq!(policy(&entries, 200), Verdict::DropBehindDocker);
        assert_eq!(policy(&entries, 399), Verdict::Accept);
    }
}
