//! What the kernel says of an interface or a route, read by hand as all answers are (`netlink.rs`).

use std::net::Ipv4Addr;

use crate::netlink::{array, attribute, string, u32_at};

/// What Quilt wants to know of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// AF_UNSPEC, or AF_BRIDGE where a bridge speaks of its port.
    pub family: u8,
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, …; empty for a device of hardware.
    pub kind: String,
    /// Its MAC address.
    pub mac: Vec<u8>,
    /// Its alias.
    pub alias: String,
    /// The index of the other end of a pair, in that end's namespace; 0 if there is none.
    pub peer: u32,
    /// The index of the bridge that it is a port of; 0 if of none.
    pub master: u32,
    /// Its group.
    pub group: u32,
    /// `IFF_*` (netdevice(7)).
    pub flags: u32,
    /// As a port of a bridge: whether it is isolated, and whether the bridge learns from it.
    pub isolated: bool,
    /// Likewise.
    pub learning: bool,
    /// As a port: whether frames are sent to it for want of knowing where they belong.
    pub floods: bool,
    /// As a port: whether it takes frames from nobody else's MAC address; `None` before Linux 5.18, which knows no such thing.
    pub locked: Option<bool>,
    /// As a bridge: which link-local frames it passes on as any other (`group_fwd_mask`).
    pub forward_mask: u16,
}

impl Interface {
    /// Reads a `struct ifinfomsg` with its attributes (rtnetlink(7)).
    pub fn read(payload: &[u8]) -> Option<Interface> {
        const IFINFOMSG: usize = 16;
        const IFLA_ADDRESS: u16 = 1;
        const IFLA_IFNAME: u16 = 3;
        const IFLA_LINK: u16 = 5;
        const IFLA_MASTER: u16 = 10;
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_IFALIAS: u16 = 20;
        const IFLA_GROUP: u16 = 27;
        const IFLA_INFO_KIND: u16 = 1;
        const IFLA_INFO_DATA: u16 = 2;
        const IFLA_INFO_SLAVE_DATA: u16 = 5;
        const IFLA_BR_GROUP_FWD_MASK: u16 = 9;
        const IFLA_BRPORT_LEARNING: u16 = 8;
        const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
        const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
        const IFLA_BRPORT_ISOLATED: u16 = 33;
        const IFLA_BRPORT_LOCKED: u16 = 39;
        let attributes = payload.get(IFINFOMSG..)?;
        let text = |kind| attribute(attributes, kind).map(string).unwrap_or_default();
        let number = |kind| attribute(attributes, kind).and_then(|v| u32_at(v, 0)).unwrap_or(0);
        let info = |kind| attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute(info, kind));
        let port = info(IFLA_INFO_SLAVE_DATA);
        let known = |kind| port.and_then(|port| attribute(port, kind)).map(|v| v != [0]);
        let switch = |kind| known(kind).unwrap_or(false);
        let kind = info(IFLA_INFO_KIND).map(string).unwrap_or_default();
        let bridge = info(IFLA_INFO_DATA).filter(|_| kind == "bridge");
        Some(Interface {
            family: payload[0],
            index: u32_at(payload, 4)?,
            name: text(IFLA_IFNAME),
            kind,
            mac: attribute(attributes, IFLA_ADDRESS).unwrap_or_default().to_vec(),
            alias: text(IFLA_IFALIAS),
            peer: number(IFLA_LINK),
            master: number(IFLA_MASTER),
            group: number(IFLA_GROUP),
            flags: u32_at(payload, 8)?,
            isolated: switch(IFLA_BRPORT_ISOLATED),
            learning: switch(IFLA_BRPORT_LEARNING),
            floods: switch(IFLA_BRPORT_UNICAST_FLOOD) || switch(IFLA_BRPORT_MCAST_FLOOD),
            locked: known(IFLA_BRPORT_LOCKED),
            forward_mask: bridge
                .and_then(|data| attribute(data, IFLA_BR_GROUP_FWD_MASK))
                .and_then(|v| array(v, 0))
                .map_or(0, u16::from_ne_bytes),
        })
    }
}

/// The first counters of an interface's `IFLA_STATS64`, in the order of `struct rtnl_link_stats64` (linux/if_link.h):
/// packets received and sent, bytes received and sent, errors likewise, dropped likewise.
pub fn statistics(payload: &[u8]) -> Option<[u64; 8]> {
    const IFINFOMSG: usize = 16;
    const IFLA_STATS64: u16 = 23;
    let counters = attribute(payload.get(IFINFOMSG..)?, IFLA_STATS64)?;
    let mut found = [0; 8];
    for (at, counter) in found.iter_mut().enumerate() {
        *counter = array(counters, 8 * at).map(u64::from_ne_bytes)?;
    }
    Some(found)
}

/// The interface that has an IPv4 address, and the address: reads a `struct ifaddrmsg` with its attributes.
pub fn address(payload: &[u8]) -> Option<(u32, Ipv4Addr)> {
    const IFADDRMSG: usize = 8;
    const IFA_LOCAL: u16 = 2;
    let local: [u8; 4] = attribute(payload.get(IFADDRMSG..)?, IFA_LOCAL).and_then(|v| array(v, 0))?;
    Some((u32_at(payload, 4)?, local.into()))
}

/// Where a bridge has a MAC address, and whether for good: reads a `struct ndmsg`.
pub fn entry(payload: &[u8]) -> Option<(u32, bool)> {
    /// `NUD_NOARP`, linux/neighbour.h.
    const STATIC: u16 = 0x40;
    let state = array(payload, 8).map(u16::from_ne_bytes)?;
    Some((u32_at(payload, 4)?, state & STATIC != 0))
}

/// The interface that a route leaves by: reads a `struct rtmsg` with its attributes.
pub fn route_interface(payload: &[u8]) -> Option<u32> {
    const RTMSG: usize = 12;
    const RTA_OIF: u16 = 4;
    attribute(payload.get(RTMSG..)?, RTA_OIF).and_then(|v| u32_at(v, 0))
}
