//! The rtnetlink messages that a container's network is made of, as values: they print as a dry run shows them, and
//! turn into the kernel's form when the interfaces that they speak of have numbers.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Rtnl;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkExtentMask,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use quilt_record::defence;

use crate::netlink::Request;
use crate::nft::BRIDGES;
use crate::subnet::{Mac, Shard};

/// The container's interface, as the container sees it.
pub const ETH: &str = "eth0";

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for an interface by its name.
    GetLink { name: String },
    /// Asks which way an address is reached.
    GetRoute { to: Ipv4Addr },
    /// Asks for all IPv4 addresses.
    GetAddresses,
    /// Asks where the bridge of this port has a MAC address.
    GetFdb { name: String, mac: Mac },
    /// Makes a bridge, still down. With a MAC address of its own: else it takes the lowest of its ports', and changes it
    /// with them.
    NewBridge { name: String, mac: Mac },
    /// Gives an interface an address. The prefix of a bridge's is 32: its route is made by hand.
    NewAddress { name: String, address: Ipv4Addr, prefix: u8 },
    /// Takes a bridge up, in the group of all bridges of Quilt's. Frames that a bridge passes on to the host by itself go the
    /// way of all others (`group_fwd_mask`), so that the firewall sees them.
    BridgeUp { name: String },
    /// Routes a bridge's piece of the subnet to it.
    BridgeRoute { name: String, shard: Shard, source: Ipv4Addr },
    /// Labels an interface. On a bridge it is the last step, and says that all before it are done.
    Label { name: String, label: String },
    /// Makes both ends of a pair where they belong: one never moves, which would cost a grace period. The group of the host's
    /// end is the container's address: what the firewall compares its frames with.
    NewVeth { name: String, address: Ipv4Addr, bridge: String },
    /// Makes an interface that is there a port again, in its group.
    Attach { name: String, address: Ipv4Addr, bridge: String },
    /// Labels the port, isolates it, and takes nothing for true that comes in by it; the message that makes it ignores all
    /// of this. `locked` is ignored before Linux 5.18.
    Port { name: String, label: String },
    /// Says where the container's MAC address is: the bridge learns nothing by itself, and the entry goes with the port.
    Fdb { name: String, mac: Mac },
    /// Takes an interface up.
    Up { name: String },
    /// The way out.
    DefaultRoute { gateway: Ipv4Addr },
    /// Deletes an interface by its name.
    DelLink { name: String },
    /// Takes a port off its bridge and its name away, so that another may have the name at once.
    Retire { name: String, rename: String },
}

/// What a message must know to be encoded: the indices of interfaces by their names, and the new namespace.
pub struct Names<'a> {
    /// Name and index.
    pub indices: &'a [(String, u32)],
    /// The container's network namespace.
    pub netns: Option<BorrowedFd<'a>>,
}

impl Names<'_> {
    /// The last that is known; 0 if none is, which the kernel refuses.
    fn index(&self, name: &str) -> u32 {
        self.indices.iter().rev().find(|(known, _)| known == name).map_or(0, |(_, index)| *index)
    }
}

/// Of the addresses 01:80:c2:00:00:00 to 0f, all that a bridge may be told to treat as any other (`BR_GROUPFWD_RESTRICTED`,
/// net/bridge/br_private.h, has the three that are left).
pub(crate) const FORWARD_MASK: u16 = 0xfff8;

/// The group is the address as it stands in a packet.
pub(crate) fn group_of(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn group(address: Ipv4Addr) -> LinkAttribute {
    LinkAttribute::Group(group_of(address))
}

/// A MAC address behind a port, in its bridge's table.
fn fdb(port: u32, mac: Mac) -> NeighbourMessage {
    let mut entry = NeighbourMessage::default();
    entry.header = NeighbourHeader {
        family: AddressFamily::Bridge,
        ifindex: port,
        flags: NeighbourFlags::Controller,
        ..NeighbourHeader::default()
    };
    entry.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    entry
}

/// No IPv6 address of any kind on the host's side.
fn no_ipv6() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])])
}

impl Message {
    /// Whether the kernel answers with what was asked rather than with an acknowledgement.
    pub fn is_question(&self) -> bool {
        use Message::{GetAddresses, GetFdb, GetLink, GetRoute};
        matches!(self, GetLink { .. } | GetRoute { .. } | GetAddresses | GetFdb { .. })
    }

    /// The errno that means that somebody else, or an earlier try, did it.
    pub fn tolerates(&self, errno: i32) -> bool {
        use Message::{BridgeRoute, DelLink, NewAddress, NewBridge};
        match self {
            NewBridge { .. } | NewAddress { .. } | BridgeRoute { .. } => errno == libc::EEXIST,
            DelLink { .. } => errno == libc::ENODEV,
            _ => false,
        }
    }

    /// The message in the kernel's form.
    pub fn encode(&self, names: &Names<'_>) -> Request<Rtnl> {
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let (payload, flags) = match self {
            Message::GetLink { name } => {
                let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
                (Rtnl::GetLink(LinkUnspec::new_with_name(name).append_extra_attribute(mask).build()), 0)
            }
            Message::GetRoute { to } => {
                (Rtnl::GetRoute(RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(*to, 32).build()), 0)
            }
            Message::GetAddresses => {
                let mut address = AddressMessage::default();
                address.header.family = AddressFamily::Inet;
                (Rtnl::GetAddress(address), NLM_F_DUMP)
            }
            Message::GetFdb { name, mac } => (Rtnl::GetNeighbour(fdb(names.index(name), *mac)), 0),
            Message::NewBridge { name, mac } => {
                let link = LinkMessageBuilder::<LinkBridge>::new(name)
                    .address(mac.0.to_vec())
                    .stp_state(BridgeStpState::Disabled)
                    .mcast_snooping(false);
                (Rtnl::NewLink(link.build()), create)
            }
            Message::NewAddress { name, address, prefix } => {
                let builder = AddressMessageBuilder::<Ipv4Addr>::new().index(names.index(name));
                (Rtnl::NewAddress(builder.address(*address, *prefix).build()), create)
            }
            Message::BridgeUp { name } => {
                let mut link = LinkMessageBuilder::<LinkBridge>::new(name).up();
                if !defence::out("pinned") {
                    link = link.group_fwd_mask(FORWARD_MASK);
                }
                if !defence::out("no-ipv6") {
                    link = link.append_extra_attribute(no_ipv6());
                }
                (Rtnl::NewLink(link.append_extra_attribute(LinkAttribute::Group(BRIDGES)).build()), 0)
            }
            Message::BridgeRoute { name, shard, source } => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(shard.network, shard.prefix)
                    .output_interface(names.index(name))
                    .pref_source(*source)
                    .scope(RouteScope::Link);
                (Rtnl::NewRoute(route.build()), create)
            }
            Message::Label { name, label } => {
                (Rtnl::NewLink(LinkUnspec::new_with_index(names.index(name)).alias(label).build()), 0)
            }
            Message::NewVeth { name, address, bridge } => {
                // One queue each way: a default pair shrinks its queues to that, with two grace periods.
                let queues = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
                let [tx, rx] = queues.clone();
                let mut inside = LinkUnspec::new_with_name(ETH).address(Mac::container(*address).0.to_vec());
                if let Some(netns) = names.netns {
                    inside = inside.setns_by_fd(netns.as_raw_fd());
                }
                let inside = inside.append_extra_attribute(tx).append_extra_attribute(rx).build();
                let [tx, rx] = queues;
                let link = LinkVeth::new(name, ETH)
                    .address(Mac::host(*address).0.to_vec())
                    .append_extra_attribute(group(*address))
                    .append_extra_attribute(tx)
                    .append_extra_attribute(rx)
                    .controller(names.index(bridge))
                    .up()
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)));
                (Rtnl::NewLink(link.build()), create)
            }
            Message::Attach { name, address, bridge } => {
                let link = LinkUnspec::new_with_index(names.index(name)).controller(names.index(bridge)).up();
                (Rtnl::NewLink(link.append_extra_attribute(group(*address)).build()), 0)
            }
            Message::Port { name, label } => {
                let mut link = LinkBridgePort::new(0).name(name).alias(label);
                if !defence::out("no-ipv6") {
                    link = link.append_extra_attribute(no_ipv6());
                }
                if !defence::out("isolated-port") {
                    link = link.isolated(true);
                }
                if !defence::out("pinned") {
                    link = link.learning(false).flood(false).mcast_flood(false).locked(true);
                }
                (Rtnl::NewLink(link.build()), 0)
            }
            Message::Fdb { name, mac } => {
                let mut entry = fdb(names.index(name), *mac);
                // Static: neither learned nor forgotten.
                entry.header.state = NeighbourState::Noarp;
                (Rtnl::NewNeighbour(entry), NLM_F_CREATE | NLM_F_REPLACE)
            }
            Message::Up { name } => (Rtnl::NewLink(LinkUnspec::new_with_index(names.index(name)).up().build()), 0),
            Message::DefaultRoute { gateway } => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(*gateway);
                (Rtnl::NewRoute(route.output_interface(names.index(ETH)).build()), create)
            }
            Message::DelLink { name } => (Rtnl::DelLink(LinkUnspec::new_with_name(name).build()), 0),
            Message::Retire { name, rename } => {
                let link = LinkUnspec::new_with_index(names.index(name)).name(rename).nocontroller();
                (Rtnl::NewLink(link.build()), 0)
            }
        };
        Request { payload, flags }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::GetLink { name } => write!(f, "RTM_GETLINK {name}"),
            Message::GetRoute { to } => write!(f, "RTM_GETROUTE {to}"),
            Message::GetAddresses => f.write_str("RTM_GETADDR"),
            Message::GetFdb { name, mac } => write!(f, "RTM_GETNEIGH {mac} dev {name} master"),
            Message::NewBridge { name, mac } => {
                write!(f, "RTM_NEWLINK {name} address {mac} type bridge stp_state 0 mcast_snooping 0")
            }
            Message::NewAddress { name, address, prefix } => write!(f, "RTM_NEWADDR {address}/{prefix} dev {name}"),
            Message::BridgeUp { name } => {
                write!(
                    f,
                    "RTM_NEWLINK {name} up group {BRIDGES:#x} addrgenmode none type bridge group_fwd_mask {FORWARD_MASK:#x}"
                )
            }
            Message::BridgeRoute { name, shard, source } => write!(f, "RTM_NEWROUTE {shard} dev {name} src {source}"),
            Message::Label { name, label } => write!(f, "RTM_NEWLINK {name} alias \"{label}\""),
            Message::NewVeth { name, address, bridge } => write!(
                f,
                "RTM_NEWLINK {name} address {} group {address} master {bridge} up type veth peer {ETH} address {} in the container",
                Mac::host(*address),
                Mac::container(*address)
            ),
            Message::Attach { name, address, bridge } => {
                write!(f, "RTM_NEWLINK {name} group {address} master {bridge} up")
            }
            Message::Port { name, label } => write!(
                f,
                "RTM_NEWLINK {name} alias \"{label}\" isolated on learning off flood off mcast_flood off locked on addrgenmode none"
            ),
            Message::Fdb { name, mac } => write!(f, "RTM_NEWNEIGH {mac} dev {name} master static"),
            Message::Up { name } => write!(f, "RTM_NEWLINK {name} up"),
            Message::DefaultRoute { gateway } => write!(f, "RTM_NEWROUTE default via {gateway} dev {ETH}"),
            Message::DelLink { name } => write!(f, "RTM_DELLINK {name}"),
            Message::Retire { name, rename } => write!(f, "RTM_NEWLINK {name} name {rename} nomaster"),
        }
    }
}
