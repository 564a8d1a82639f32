//! How much has gone over a container's network.

use netlink_packet_route::RouteNetlinkMessage as Rtnl;
use quilt_record::{Error, Step as _};
use rtnetlink::LinkUnspec;
use serde::Serialize;

use crate::execute::host_socket;
use crate::interface::statistics;
use crate::netlink::Request;

/// What went over a container's interface, as the container sees it: received is what came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that were for the container and were dropped before it.
    pub rx_dropped: u64,
    /// Packets that the container sent and the host dropped at its end.
    pub tx_dropped: u64,
}

/// Asks for the counters (`IFLA_STATS64`, rtnetlink(7)) of the host's end of a container's pair, which sends what the
/// container receives; `None` if there is no such interface where the caller is.
pub fn traffic(host_end: &str) -> Result<Option<Traffic>, Error> {
    let step = || format!("RTM_GETLINK {host_end}");
    let payload = Rtnl::GetLink(LinkUnspec::new_with_name(host_end).build());
    let answers = host_socket()?.batch(vec![Request { payload, flags: 0 }], 0, true).step(step)?;
    match answers.refused.first() {
        Some(refusal) if refusal.errno == libc::ENODEV => Ok(None),
        Some(refusal) => Err(Error::os(step(), std::io::Error::from_raw_os_error(refusal.errno))),
        None => Ok(answers.told.first().and_then(|(_, payload)| statistics(payload)).map(of_host_end)),
    }
}

fn of_host_end([rx_packets, tx_packets, rx_bytes, tx_bytes, _, _, rx_dropped, tx_dropped]: [u64; 8]) -> Traffic {
    Traffic {
        rx_bytes: tx_bytes,
        tx_bytes: rx_bytes,
        rx_packets: tx_packets,
        tx_packets: rx_packets,
        rx_dropped: tx_dropped,
        tx_dropped: rx_dropped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_sends_the_container_receives() {
        // struct ifinfomsg, an attribute that does not matter (IFLA_MTU), and struct rtnl_link_stats64's first fields.
        let mut payload = vec![0; 16];
        payload.extend([8, 0, 4, 0, 0xdc, 5, 0, 0]);
        payload.extend((4u16 + 8 * 10).to_ne_bytes());
        payload.extend(23u16.to_ne_bytes());
        payload.extend([1u64, 2, 30, 40, 5, 6, 7, 8, 9, 10].iter().flat_map(|n| n.to_ne_bytes()));
        let traffic =
            Traffic { rx_bytes: 40, tx_bytes: 30, rx_packets: 2, tx_packets: 1, rx_dropped: 8, tx_dropped: 7 };
        assert_eq!(statistics(&payload).map(of_host_end), Some(traffic));
        assert_eq!(statistics(&payload[..60]), None);
    }
}
