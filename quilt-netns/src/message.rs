//! The rtnetlink messages that a container's network is made of, as values: they print as a dry run shows them, and
//! turn into the kernel's form when the interfaces that they speak of have numbers.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Rtnl;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkExtentMask,
};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use crate::netlink::Request;
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
    /// Makes a bridge, still down. With a MAC address of its own: else it takes the lowest of its ports', and changes it
    /// with them.
    NewBridge { name: String, mac: Mac },
    /// Gives an interface an address. The prefix of a bridge's is 32: its route is made by hand.
    NewAddress { name: String, address: Ipv4Addr, prefix: u8 },
    /// Takes a bridge up.
    BridgeUp { name: String },
    /// Routes a bridge's piece of the subnet to it.
    BridgeRoute { name: String, shard: Shard, source: Ipv4Addr },
    /// Labels an interface. On a bridge it is the last step, and says that all before it are done.
    Label { name: String, label: String },
    /// Makes both ends of a pair where they belong: one never moves, which would cost a grace period.
    NewVeth { name: String, mac: Mac, bridge: String, peer: Mac },
    /// Labels the port and isolates it; the message that makes it ignores both.
    Port { name: String, label: String },
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
    /// 0 if unknown, which the kernel refuses.
    fn index(&self, name: &str) -> u32 {
        self.indices.iter().find(|(known, _)| known == name).map_or(0, |(_, index)| *index)
    }
}

/// No IPv6 address of any kind on the host's side.
fn no_ipv6() -> LinkAttribute {
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])])
}

impl Message {
    /// Whether the kernel answers with what was asked rather than with an acknowledgement.
    pub fn is_question(&self) -> bool {
        matches!(self, Message::GetLink { .. } | Message::GetRoute { .. })
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
                let link = LinkUnspec::new_with_index(names.index(name)).up().append_extra_attribute(no_ipv6());
                (Rtnl::NewLink(link.build()), 0)
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
            Message::NewVeth { name, mac, bridge, peer } => {
                // One queue each way: a default pair shrinks its queues to that, with two grace periods.
                let queues = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
                let [tx, rx] = queues.clone();
                let mut inside = LinkUnspec::new_with_name(ETH).address(peer.0.to_vec());
                if let Some(netns) = names.netns {
                    inside = inside.setns_by_fd(netns.as_raw_fd());
                }
                let inside = inside.append_extra_attribute(tx).append_extra_attribute(rx).build();
                let [tx, rx] = queues;
                let link = LinkVeth::new(name, ETH)
                    .address(mac.0.to_vec())
                    .append_extra_attribute(tx)
                    .append_extra_attribute(rx)
                    .controller(names.index(bridge))
                    .up()
                    .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)));
                (Rtnl::NewLink(link.build()), create)
            }
            Message::Port { name, label } => {
                let link =
                    LinkBridgePort::new(0).name(name).alias(label).append_extra_attribute(no_ipv6()).isolated(true);
                (Rtnl::NewLink(link.build()), 0)
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
            Message::NewBridge { name, mac } => {
                write!(f, "RTM_NEWLINK {name} address {mac} type bridge stp_state 0 mcast_snooping 0")
            }
            Message::NewAddress { name, address, prefix } => write!(f, "RTM_NEWADDR {address}/{prefix} dev {name}"),
            Message::BridgeUp { name } => write!(f, "RTM_NEWLINK {name} up addrgenmode none"),
            Message::BridgeRoute { name, shard, source } => write!(f, "RTM_NEWROUTE {shard} dev {name} src {source}"),
            Message::Label { name, label } => write!(f, "RTM_NEWLINK {name} alias \"{label}\""),
            Message::NewVeth { name, mac, bridge, peer } => write!(
                f,
                "RTM_NEWLINK {name} address {mac} master {bridge} up type veth peer {ETH} address {peer} in the container"
            ),
            Message::Port { name, label } => {
                write!(f, "RTM_NEWLINK {name} alias \"{label}\" isolated on addrgenmode none")
            }
            Message::Up { name } => write!(f, "RTM_NEWLINK {name} up"),
            Message::DefaultRoute { gateway } => write!(f, "RTM_NEWROUTE default via {gateway} dev {ETH}"),
            Message::DelLink { name } => write!(f, "RTM_DELLINK {name}"),
            Message::Retire { name, rename } => write!(f, "RTM_NEWLINK {name} name {rename} nomaster"),
        }
    }
}
