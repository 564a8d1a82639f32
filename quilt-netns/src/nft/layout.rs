//! What the instance's tables hold. All of it is static: no container adds to it but its name servers, which others may
//! have added before.

use std::net::Ipv4Addr;

use netlink_packet_netfilter::NetfilterProtoFamily as Family;
use quilt_record::{Instance, defence};

use super::message::{Chain, Message, Set};
use super::term::Term;
use crate::subnet::Subnet;

/// The name servers: address, protocol, port.
pub const RESOLVERS: &str = "resolvers";
/// Equal bytes: one of a group at its place and nothing else, and three that are the same.
pub const PINNED: &str = "pinned";

/// `NF_IP_PRI_NAT_SRC`, `NF_IP_PRI_FILTER` (linux/netfilter_ipv4.h), `NF_BR_PRI_FILTER_BRIDGED` (netfilter_bridge.h).
const NAT_SOURCE: i32 = 100;
const FILTER: i32 = 0;
const FILTER_BRIDGED: i32 = -200;

/// Where connections to the outside get the host's address.
const POSTROUTING: Chain = Chain { name: "postrouting", kind: "nat", hook: "postrouting", priority: NAT_SOURCE };
/// What goes through the host.
const FORWARD: Chain = Chain { name: "forward", kind: "filter", hook: "forward", priority: FILTER };
/// What is for the host.
const INPUT: Chain = Chain { name: "input", kind: "filter", hook: "input", priority: FILTER };
/// Every frame that comes in by a port of any bridge, before the bridge learns anything from it.
const FRAMES: Chain = Chain { name: "frames", kind: "filter", hook: "prerouting", priority: FILTER_BRIDGED };
/// Those that a bridge passes on to the host as if there were no bridge, and that went past the chain above.
const PASSED: Chain = Chain { name: "passed", kind: "filter", hook: "input", priority: FILTER_BRIDGED };

/// The link-local network (RFC 3927), where clouds have their metadata.
const METADATA: Term = Term::To { network: Ipv4Addr::new(169, 254, 0, 0), prefix: 16 };

/// A chain with its rules.
struct Rules {
    family: Family,
    chain: Chain,
    rules: Vec<Vec<Term>>,
}

/// Whether containers' frames are looked at, as far as that is Quilt's to say and not the kernel's.
pub fn wants_pinned() -> bool {
    !defence::out("pinned") && !defence::out("bridge-family")
}

fn chains(instance: &Instance, subnet: Subnet, pinned: bool) -> Vec<Rules> {
    use Term::{Accept, Answer, Between, ByPort, Drop, From, Masquerade, NotFrom, NotSource, NotTo, Ping, Resolver};
    let bridges = instance.bridge_prefix();
    let rule = |defence: &str, terms: Vec<Term>| (!defence::out(defence)).then_some(terms);
    let from = || From(bridges.clone());
    let nat = vec![vec![Term::Source(subnet), NotTo(bridges.clone()), Masquerade]];
    let forward = [
        rule("input-drop", vec![ByPort, Drop]),
        rule("forward-drop", vec![Between, Drop]),
        rule("pinned", vec![from(), NotSource(subnet), Drop]),
        Some(vec![from(), Resolver, Accept]),
        rule("metadata-drop", vec![from(), METADATA, Drop]),
    ];
    let gateway = Term::To { network: subnet.gateway(), prefix: 32 };
    let input = [
        rule("input-drop", vec![ByPort, Drop]),
        Some(vec![NotFrom(bridges.clone()), Accept]),
        Some(vec![Answer, Accept]),
        Some(vec![gateway, Ping, Accept]),
        Some(vec![Resolver, Accept]),
        rule("metadata-drop", vec![METADATA, Drop]),
        rule("input-drop", vec![Drop]),
    ];
    let ip = |chain, rules| Rules { family: Family::IPv4, chain, rules };
    let mut all = vec![
        ip(POSTROUTING, nat),
        ip(FORWARD, forward.into_iter().flatten().collect()),
        ip(INPUT, input.into_iter().flatten().collect()),
    ];
    if pinned {
        let frames = [
            Some(vec![Term::NotByPortOf(subnet), Accept]),
            Some(vec![Term::Ip, Term::Pinned { subnet, arp: false }, Accept]),
            Some(vec![Term::Arp, Term::Pinned { subnet, arp: true }, Accept]),
            defence::out("no-ipv6").then(|| vec![Term::Ipv6, Accept]),
            Some(vec![Drop]),
        ];
        let bridge = |chain, rules| Rules { family: Family::Bridge, chain, rules };
        all.push(bridge(FRAMES, frames.into_iter().flatten().collect()));
        all.push(bridge(PASSED, vec![vec![Term::NotByPortOf(subnet), Accept], vec![Term::LinkLocal, Drop]]));
    }
    all
}

/// A key of the set of equal bytes: a byte of a group at its place, and three more of it.
fn equal(group: [u8; 4], byte: u8) -> Vec<u8> {
    [group, [byte, 0, 0, 0], [byte, 0, 0, 0], [byte, 0, 0, 0]].concat()
}

/// The keys of the set of equal bytes: the two bytes of an address that are not the whole subnet's, one at a time.
pub(super) fn equal_bytes() -> Vec<Vec<u8>> {
    let third = (0..=255).map(|byte| equal([0, 0, byte, 0], byte));
    // The last byte's 0 is the same as the third's.
    third.chain((1..=255).map(|byte| equal([0, 0, 0, byte], byte))).collect()
}

/// Those of them that the frames of one address are compared with.
pub(super) fn bytes_of(address: Ipv4Addr) -> Vec<Vec<u8>> {
    let [.., third, last] = address.octets();
    vec![equal([0, 0, third, 0], third), equal([0, 0, 0, last], last)]
}

/// What fills the set of equal bytes.
pub fn pins(instance: &Instance) -> Message {
    Message::Elements {
        family: Family::Bridge,
        table: instance.name(),
        set: PINNED,
        keys: equal_bytes(),
        text: "every byte, three times, at its place in the group".to_owned(),
    }
}

/// The keys of a name server: what `Term::Resolver` looks up.
pub(super) fn resolver_keys(address: Ipv4Addr) -> [Vec<u8>; 2] {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let key = |protocol: u8| [address.octets(), [protocol, 0, 0, 0], [0, 53, 0, 0]].concat();
    [key(UDP), key(TCP)]
}

/// The batch that makes the tables. If they are there, EEXIST ends it.
pub fn plan(instance: &Instance, subnet: Subnet, pinned: bool) -> Vec<Message> {
    let table = instance.name();
    let families = [Some(Family::IPv4), pinned.then_some(Family::Bridge)];
    let tables = families.iter().flatten();
    let mut all: Vec<Message> =
        tables.map(|family| Message::NewTable { family: *family, table: table.clone(), exclusive: true }).collect();
    let set = Set { name: RESOLVERS, types: &["ipv4_addr", "inet_proto", "inet_service"] };
    all.push(Message::NewSet { family: Family::IPv4, table: table.clone(), set });
    if pinned {
        let set = Set { name: PINNED, types: &["ipv4_addr", "inet_proto", "inet_proto", "inet_proto"] };
        all.push(Message::NewSet { family: Family::Bridge, table: table.clone(), set });
        all.push(pins(instance));
    }
    for Rules { family, chain, rules } in chains(instance, subnet, pinned) {
        let name = chain.name;
        all.push(Message::NewChain { family, table: table.clone(), chain });
        let rules = rules.into_iter().map(|terms| Message::Rule { family, table: table.clone(), chain: name, terms });
        all.extend(rules);
    }
    all
}

/// The batch that puts new tables into the place of whatever there is under their names: a table that is not there cannot
/// be deleted, so it is made first.
pub(super) fn replacement(instance: &Instance, subnet: Subnet, pinned: bool) -> Vec<Message> {
    let table = instance.name();
    let families = [Some(Family::IPv4), pinned.then_some(Family::Bridge)];
    let clear = families.iter().flatten().flat_map(|family| {
        let made = Message::NewTable { family: *family, table: table.clone(), exclusive: false };
        [made, Message::DelTable { family: *family, table: table.clone() }]
    });
    clear.chain(plan(instance, subnet, pinned)).collect()
}

/// The batch that lets containers ask these name servers. What is there already stays.
pub fn resolvers(instance: &Instance, addresses: &[Ipv4Addr]) -> Vec<Message> {
    let element = |address: &Ipv4Addr| Message::Elements {
        family: Family::IPv4,
        table: instance.name(),
        set: RESOLVERS,
        keys: resolver_keys(*address).to_vec(),
        text: format!("{address} . {{ udp, tcp }} . 53"),
    };
    addresses.iter().map(element).collect()
}

/// The chains that must be there, each with the number of its rules.
pub(super) fn expected(instance: &Instance, subnet: Subnet, pinned: bool) -> Vec<(Family, &'static str, u32)> {
    let all = chains(instance, subnet, pinned).into_iter();
    all.map(|Rules { family, chain, rules }| (family, chain.name, rules.len() as u32)).collect()
}

/// The batches that delete the tables, whichever are there.
pub fn removal(instance: &Instance) -> [Message; 2] {
    [Family::IPv4, Family::Bridge].map(|family| Message::DelTable { family, table: instance.name() })
}
