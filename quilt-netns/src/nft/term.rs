//! The parts of a rule: each prints as nft(8) writes it, and turns into the kernel's expressions.

use std::fmt;
use std::net::Ipv4Addr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register, Verdict,
    VerdictAttribute,
};

use super::layout::{PINNED, RESOLVERS};
use crate::subnet::{Mac, Subnet};

/// The interface group (`IFLA_GROUP`) of every bridge of Quilt's, of whatever instance: `qult`.
pub const BRIDGES: u32 = u32::from_ne_bytes(*b"qult");
/// How the names of the host's ends begin, in every instance.
const PORTS: &str = "vq";

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// It came in by a port itself: the bridge passes on to the host what is for 01:80:c2:00:00:02 and the like.
    ByPort,
    /// It came in by an interface whose name begins so.
    From(String),
    /// It came in by another.
    NotFrom(String),
    /// It goes out by an interface whose name does not begin so.
    NotTo(String),
    /// It came in by a bridge of Quilt's, and goes out by one.
    Between,
    /// It came in by a port whose group is no address of the subnet: that is, by no container's of this instance.
    NotByPortOf(Subnet),
    /// The source address is in the subnet.
    Source(Subnet),
    /// The source address is not.
    NotSource(Subnet),
    /// The destination is in the network of that many bits, at most 32.
    To { network: Ipv4Addr, prefix: u8 },
    /// The destination is a resolver, at port 53.
    Resolver,
    /// It answers what the host has begun. That it tells of an error in it is not enough: the kernel takes that from whom the
    /// host never sent anything (`nf_conntrack_inet_error`, net/netfilter/nf_conntrack_proto_icmp.c).
    Answer,
    /// It is an ICMP echo request.
    Ping,
    /// An IPv4 packet in a frame for one receiver, and untagged.
    Ip,
    /// An ARP packet about IPv4 on Ethernet.
    Arp,
    /// Anything of IPv6.
    Ipv6,
    /// The frame and the packet in it (the ARP packet, if `arp`) come from the addresses that belong to the port.
    Pinned { subnet: Subnet, arp: bool },
    /// For the bridge itself, as a device (IEEE 802.1D, table 7-10).
    LinkLocal,
    /// The last of every rule.
    Accept,
    /// Likewise.
    Drop,
    /// Likewise: give it the host's address.
    Masquerade,
}

use Operator::{Equal, NotEqual};

const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NF_ACCEPT` and `NF_DROP`, linux/netfilter.h.
const ACCEPT: u32 = 1;
const DROP: u32 = 0;
const ICMP: u8 = 1;
/// The registers of a key in a set, 4 bytes each.
const KEY: [Register; 4] = [Register::Reg32_00, Register::Reg32_01, Register::Reg32_02, Register::Reg32_03];

fn value(bytes: &[u8]) -> DataAttribute {
    DataAttribute::Value(bytes.to_vec())
}

fn meta(key: MetaKey, to: Register) -> Expressions {
    Expressions::Meta(vec![Meta::DestinationRegister(to), Meta::Key(key)])
}

fn payload(base: u32, offset: u32, length: u32, to: Register) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(to),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn mask(register: Register, mask: &[u8]) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register),
        Bitwise::DestinationRegister(register),
        Bitwise::Length(mask.len() as u32),
        Bitwise::Mask(value(mask)),
        Bitwise::Xor(value(&vec![0; mask.len()])),
    ])
}

/// Compares what is in the first register.
fn compare(operator: Operator, bytes: &[u8]) -> Expressions {
    Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), Cmp::Data(value(bytes))])
}

/// Compares bytes of the packet.
fn bytes(base: u32, offset: u32, operator: Operator, with: &[u8]) -> [Expressions; 2] {
    [payload(base, offset, with.len() as u32, Register::Reg1), compare(operator, with)]
}

/// Compares the start of an interface's name: a comparison of fewer bytes than the register holds is a prefix's.
fn name(key: MetaKey, operator: Operator, prefix: &str) -> Vec<Expressions> {
    vec![meta(key, Register::Reg1), compare(operator, prefix.as_bytes())]
}

/// Compares an address of the IPv4 header under a mask.
fn address(offset: u32, operator: Operator, network: Ipv4Addr, under: Ipv4Addr) -> Vec<Expressions> {
    let (load, cut) = (payload(NETWORK, offset, 4, Register::Reg1), mask(Register::Reg1, &under.octets()));
    let cut = (under != Ipv4Addr::BROADCAST).then_some(cut);
    [load].into_iter().chain(cut).chain([compare(operator, &network.octets())]).collect()
}

const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

fn lookup(set: &str) -> Expressions {
    Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(KEY[0])])
}

fn verdict(code: u32) -> Vec<Expressions> {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(code))]);
    vec![Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)])]
}

/// `ct state established`. The crate has no such expression: linux/netfilter/nf_tables.h, nf_conntrack_common.h.
fn answer() -> Vec<Expressions> {
    const NFTA_CT_DREG: u16 = 1;
    const NFTA_CT_KEY: u16 = 2;
    const NFT_CT_STATE: u32 = 0;
    const ESTABLISHED: u32 = 1 << 1;
    let attribute = |kind, number: u32| DefaultNla::new(kind, number.to_be_bytes().to_vec());
    let attributes = vec![attribute(NFTA_CT_DREG, u32::from(Register::Reg1)), attribute(NFTA_CT_KEY, NFT_CT_STATE)];
    vec![
        Expressions::Other { expression_type: "ct".to_owned(), attributes },
        mask(Register::Reg1, &ESTABLISHED.to_ne_bytes()),
        compare(NotEqual, &[0; 4]),
    ]
}

/// Where a frame's and an ARP packet's sender stand (RFC 894, 826), and an IPv4 packet's.
const ETHER_SOURCE: (u32, u32) = (LINK, 6);
const ARP_ETHER: (u32, u32) = (NETWORK, 8);
const ARP_SOURCE: (u32, u32) = (NETWORK, 14);
const IP_SOURCE: (u32, u32) = (NETWORK, SOURCE);

/// Everything that says who sends must say what the port's group says, which is the container's address. No expression
/// compares two things that are not known beforehand (before Linux 6.12), so: the bytes that are the same for the whole
/// subnet, at least two of the four, are compared as they are; for the others there is a set of equal bytes.
fn pinned(subnet: Subnet, arp: bool) -> Vec<Expressions> {
    let [a, b, _, _] = subnet.network().octets();
    let mac = Mac::container(subnet.network()).0;
    let (macs, addresses) =
        if arp { ([ETHER_SOURCE, ARP_ETHER], ARP_SOURCE) } else { ([ETHER_SOURCE, ETHER_SOURCE], IP_SOURCE) };
    let mut all = Vec::new();
    for (base, offset) in if arp { &macs[..] } else { &macs[..1] } {
        all.extend(bytes(*base, *offset, Equal, &mac[..4]));
    }
    all.extend(bytes(addresses.0, addresses.1, Equal, &[a, b]));
    for byte in [2u32, 3] {
        let mut only = [0; 4];
        only[byte as usize] = 0xff;
        all.extend([
            meta(MetaKey::Iifgroup, KEY[0]),
            mask(KEY[0], &only),
            payload(macs[0].0, macs[0].1 + 2 + byte, 1, KEY[1]),
            payload(macs[1].0, macs[1].1 + 2 + byte, 1, KEY[2]),
            payload(addresses.0, addresses.1 + byte, 1, KEY[3]),
            lookup(PINNED),
        ]);
    }
    all
}

impl Term {
    /// The expressions; a rule ends at the first that does not hold.
    pub(super) fn encode(&self) -> Vec<Expressions> {
        match self {
            Term::ByPort => name(MetaKey::Iifname, Equal, PORTS),
            Term::From(prefix) => name(MetaKey::Iifname, Equal, prefix),
            Term::NotFrom(prefix) => name(MetaKey::Iifname, NotEqual, prefix),
            Term::NotTo(prefix) => name(MetaKey::Oifname, NotEqual, prefix),
            Term::Between => {
                let group = compare(Equal, &BRIDGES.to_ne_bytes());
                let (came, goes) = (meta(MetaKey::Iifgroup, Register::Reg1), meta(MetaKey::Oifgroup, Register::Reg1));
                vec![came, group.clone(), goes, group]
            }
            Term::NotByPortOf(subnet) => vec![
                meta(MetaKey::Iifgroup, Register::Reg1),
                mask(Register::Reg1, &subnet.mask().octets()),
                compare(NotEqual, &subnet.network().octets()),
            ],
            Term::Source(subnet) => address(SOURCE, Equal, subnet.network(), subnet.mask()),
            Term::NotSource(subnet) => address(SOURCE, NotEqual, subnet.network(), subnet.mask()),
            Term::To { network, prefix } => address(DESTINATION, Equal, *network, crate::subnet::mask_of(*prefix)),
            Term::Resolver => vec![
                payload(NETWORK, DESTINATION, 4, KEY[0]),
                meta(MetaKey::L4Proto, KEY[1]),
                payload(TRANSPORT, 2, 2, KEY[2]),
                lookup(RESOLVERS),
            ],
            Term::Answer => answer(),
            Term::Ping => {
                const ECHO_REQUEST: u8 = 8;
                let protocol = [meta(MetaKey::L4Proto, Register::Reg1), compare(Equal, &[ICMP])];
                protocol.into_iter().chain(bytes(TRANSPORT, 0, Equal, &[ECHO_REQUEST])).collect()
            }
            Term::Ip => {
                // The lowest bit of the receiver's first byte: for many.
                let one = [payload(LINK, 0, 1, Register::Reg1), mask(Register::Reg1, &[1]), compare(Equal, &[0])];
                bytes(LINK, 12, Equal, &[8, 0]).into_iter().chain(one).collect()
            }
            Term::Arp => {
                let body = bytes(NETWORK, 0, Equal, &[0, 1, 8, 0, 6, 4]);
                bytes(LINK, 12, Equal, &[8, 6]).into_iter().chain(body).collect()
            }
            Term::Ipv6 => bytes(LINK, 12, Equal, &[0x86, 0xdd]).to_vec(),
            Term::Pinned { subnet, arp } => pinned(*subnet, *arp),
            Term::LinkLocal => bytes(LINK, 0, Equal, &[1, 0x80, 0xc2]).to_vec(),
            Term::Accept => verdict(ACCEPT),
            Term::Drop => verdict(DROP),
            Term::Masquerade => {
                vec![Expressions::Other { expression_type: "masq".to_owned(), attributes: Vec::new() }]
            }
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::ByPort => write!(f, "iifname \"{PORTS}*\""),
            Term::From(prefix) => write!(f, "iifname \"{prefix}*\""),
            Term::NotFrom(prefix) => write!(f, "iifname != \"{prefix}*\""),
            Term::NotTo(prefix) => write!(f, "oifname != \"{prefix}*\""),
            Term::Between => write!(f, "iifgroup {BRIDGES:#x} oifgroup {BRIDGES:#x}"),
            Term::NotByPortOf(subnet) => write!(f, "iifgroup & {} != {}", subnet.mask(), subnet.network()),
            Term::Source(subnet) => write!(f, "ip saddr {subnet}"),
            Term::NotSource(subnet) => write!(f, "ip saddr != {subnet}"),
            Term::To { network, prefix: 32 } => write!(f, "ip daddr {network}"),
            Term::To { network, prefix } => write!(f, "ip daddr {network}/{prefix}"),
            Term::Resolver => write!(f, "ip daddr . meta l4proto . th dport @{RESOLVERS}"),
            Term::Answer => f.write_str("ct state established"),
            Term::Ping => f.write_str("icmp type echo-request"),
            Term::Ip => f.write_str("ether type ip ether daddr & 01:00:00:00:00:00 == 0"),
            Term::Arp => f.write_str("ether type arp arp htype 1 ptype ip hlen 6 plen 4"),
            Term::Ipv6 => f.write_str("ether type ip6"),
            Term::Pinned { subnet, arp } => {
                let all = if *arp { "ether saddr, arp saddr ether, arp saddr ip" } else { "ether saddr, ip saddr" };
                write!(f, "{all} == iifgroup in {subnet} @{PINNED}")
            }
            Term::LinkLocal => f.write_str("ether daddr 01:80:c2:*"),
            Term::Accept => f.write_str("accept"),
            Term::Drop => f.write_str("drop"),
            Term::Masquerade => f.write_str("masquerade"),
        }
    }
}
