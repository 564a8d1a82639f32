//! What the firewall holds, read from the kernel by netlink (there may be no `nft`): linux/netfilter/nf_tables.h.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The dump to ask for, what it is of, and the attributes that name one of them: `NFT_MSG_GETTABLE`, `…GETCHAIN`,
/// `…GETRULE` (whose third attribute is its number).
const DUMPS: [(u16, &str, &[u16]); 3] = [(1, "table", &[1]), (4, "chain", &[1, 3]), (7, "rule in", &[1, 2])];

/// Every table, chain and rule in the network namespace of the calling thread, a line each.
pub fn dump() -> Vec<String> {
    DUMPS.iter().flat_map(|(message, what, names)| dump_of(*message, what, names)).collect()
}

fn dump_of(message: u16, what: &str, names: &[u16]) -> Vec<String> {
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    let mut request = Vec::new();
    request.extend(20u32.to_ne_bytes());
    request.extend((NFNL_SUBSYS_NFTABLES << 8 | message).to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 12]);
    socket.send(&request, 0).unwrap();
    let mut found = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().unwrap();
        let mut rest = &datagram[..];
        while rest.len() >= 16 {
            let length = u32::from_ne_bytes(rest[0..4].try_into().unwrap()) as usize;
            match u16_at(rest, 4) {
                NLMSG_DONE => return found,
                // No nftables in this kernel (EINVAL, EOPNOTSUPP): then there is nothing in it either.
                NLMSG_ERROR => return found,
                _ => found.push(describe(&rest[16..length], what, names)),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// `payload` is a struct nfgenmsg (4 bytes, the family first), then attributes.
fn describe(payload: &[u8], what: &str, names: &[u16]) -> String {
    let mut line = format!("{what} (family {})", payload[0]);
    let mut rest = &payload[4..];
    while rest.len() >= 4 {
        let (length, kind) = (u16_at(rest, 0) as usize, u16_at(rest, 2));
        if names.contains(&kind) {
            line.push(' ');
            line.push_str(String::from_utf8_lossy(&rest[4..length]).trim_end_matches('\0'));
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    line
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}
