//! What a container's network costs, step by step, before any of it is done.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use quilt_record::idmap::IdMap;
use quilt_record::{Id, Instance, defence};

use crate::ids;
use crate::message::{ETH, Message};
use crate::pin;
use crate::shared::{self, Place};
use crate::step::Step;
use crate::subnet::{Shard, Subnet};
use crate::want::{Network, Want};

/// What must be known to plan. Taking the lease is part of it: the address is in the messages.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The instance's subnet.
    pub subnet: Subnet,
    /// The lease: address, its piece of the subnet, the symlink and its target. Absent without a bridge.
    pub lease: Option<Lease>,
    /// Whether the bridge is there, with all that goes before it, and the firewall's tables are whole.
    pub bridge_ready: bool,
    /// What was asked to know this.
    pub looked: Vec<Step>,
    /// The containers' interfaces that are no ports of this bridge and should be; only looked at if it is not ready.
    pub strays: Vec<Place>,
    /// The name servers that containers must be let ask, and cannot yet.
    pub servers: Vec<Ipv4Addr>,
    /// Whether the host forwards packets; only looked at if the bridge is not ready.
    pub forwards: bool,
    /// Whether the directory of pins is mounted.
    pub pins_mounted: bool,
    /// The ids of the container's own, if it gets a user namespace.
    pub ids: Option<IdMap>,
    /// The lease of them, where they do not follow from the address.
    pub ids_lease: Option<ids::Lease>,
}

/// An address that was taken.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The piece of the subnet it is in.
    pub shard: Shard,
    /// The symlink that is the lease.
    pub path: PathBuf,
    /// Its target.
    pub owner: String,
}

/// The host's switch for forwarding (ip-sysctl.rst).
pub const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Who may use ping(8)'s sockets: every group.
const PING: &str = "/proc/sys/net/ipv4/ping_group_range";

/// The sysctls of a container's network namespace. `default` and not `all`: it is what the interface that is made next
/// starts with, and it needs no RTNL, for which `all` would spin. Loopback keeps ::1. The other two are what docker
/// sets: low ports and ping without capabilities.
const SYSCTLS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    (PING, "0 2147483647"),
];

/// The most that a number of [`PING`] may be (`GID_T_MAX`, net/ipv4/sysctl_net_ipv4.c).
const PING_MAX: u32 = i32::MAX as u32;

/// The value of a sysctl for a container with these ids. Groups are the host's, whoever reads it: inside, others than its
/// own would look like none at all.
fn value(path: &str, value: &'static str, ids: Option<IdMap>) -> Cow<'static, str> {
    match ids.and_then(|ids| Some((ids.gid, ids.gid(ids.size - 1)?))) {
        Some((first, last)) if path == PING && last <= PING_MAX => format!("{first} {last}").into(),
        _ => value.into(),
    }
}

/// The plan for one container. Pure: the same input gives the same plan.
pub fn plan(instance: &Instance, id: &Id, want: &Want, facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::with_capacity(16);
    let lease_ids = facts.ids_lease.clone().map(|ids::Lease { path, owner }| Step::Lease { path, owner });
    let mount_pins = (!facts.pins_mounted).then(|| Step::MountPins(pin::dir(instance)));
    if want.network() == Network::Host {
        if let Some(map) = facts.ids {
            steps.extend(lease_ids.into_iter().chain(mount_pins));
            steps.extend([Step::User(map), Step::PinUser(pin::user(instance, id))]);
        }
        return steps;
    }
    if let Some(Lease { shard, path, owner, .. }) = &facts.lease {
        steps.push(Step::Lease { path: path.clone(), owner: owner.clone() });
        steps.extend(facts.looked.iter().cloned());
        if facts.bridge_ready {
            steps.extend(shared::servers(instance, &facts.servers));
        } else {
            steps.extend(shared::steps(instance, facts, *shard));
        }
    }
    steps.extend(lease_ids.into_iter().chain(mount_pins));
    steps.push(facts.ids.map_or(Step::Unshare, Step::Pair));
    let sysctls = SYSCTLS.into_iter().filter(|(path, _)| !path.contains("ipv6") || !defence::out("no-ipv6"));
    steps.extend(sysctls.map(|(path, usual)| Step::Sysctl { path: path.into(), value: value(path, usual, facts.ids) }));
    steps.push(Step::Return);
    steps.push(Step::PinNet(pin::net(instance, id)));
    let Some(Lease { address, shard, .. }) = facts.lease else {
        steps.push(Step::Inside(vec![Message::Up { name: "lo".to_owned() }]));
        return steps;
    };
    steps.extend(connect(instance, id, facts.subnet, shard, address));
    steps
}

/// What connects a network namespace to a bridge.
pub fn connect(instance: &Instance, id: &Id, subnet: Subnet, shard: Shard, address: Ipv4Addr) -> [Step; 3] {
    let up = |name: &str| Message::Up { name: name.to_owned() };
    let veth = instance.veth(id);
    [
        Step::Host(vec![
            Message::NewVeth { name: veth.clone(), address, bridge: shard.bridge(instance) },
            // Instead of an acknowledgement: the answer says which index it has, and the other end in its namespace.
            Message::GetLink { name: veth.clone() },
        ]),
        Step::Host(shared::port(&veth, id, address).collect()),
        Step::Inside(vec![
            up("lo"),
            Message::NewAddress { name: ETH.to_owned(), address, prefix: subnet.prefix() },
            up(ETH),
            Message::DefaultRoute { gateway: subnet.gateway() },
        ]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft;

    fn facts(instance: &Instance, bridge_ready: bool) -> Facts {
        let subnet = Subnet::default();
        let address = Ipv4Addr::new(10, 42, 4, 9);
        let lease = subnet.shard_of(address).map(|shard| Lease {
            address,
            shard,
            path: instance.run().join("leases-b00t/10.42.4.9"),
            owner: "c1a1/web".to_owned(),
        });
        let server = Ipv4Addr::new(10, 0, 0, 2);
        let (strays, servers) = (Vec::new(), if bridge_ready { vec![] } else { vec![server] });
        let mut looked = vec![Step::Look(Message::GetLink { name: subnet.shard(1).bridge(instance) })];
        if bridge_ready {
            looked.push(Step::LookFirewall(nft::questions(instance, subnet, true, &[server])));
        }
        let (forwards, pins_mounted) = (bridge_ready, bridge_ready);
        let (ids, ids_lease) = (None, None);
        Facts { subnet, lease, bridge_ready, looked, strays, servers, forwards, pins_mounted, ids, ids_lease }
    }

    fn lines(want: &Want, bridge_ready: bool) -> Vec<String> {
        lines_for(want, bridge_ready, None)
    }

    fn lines_for(want: &Want, bridge_ready: bool, ids: Option<IdMap>) -> Vec<String> {
        let instance = Instance::locate(Some("/nowhere/q".as_ref()));
        let (Ok(instance), Ok(id)) = (instance, "web".parse()) else { return Vec::new() };
        let mut facts = facts(&instance, bridge_ready);
        facts.lease = facts.lease.filter(|_| want.network() == Network::Bridge);
        facts.ids = ids;
        let path = instance.run().join("leases-b00t/ids@8192");
        facts.ids_lease =
            ids.filter(|_| facts.lease.is_none()).map(|_| ids::Lease { path, owner: "c1a1/web".to_owned() });
        let (prefix, veth) = (instance.bridge_prefix(), instance.veth(&id));
        let lines = plan(&instance, &id, want, &facts).iter().flat_map(Step::lines).collect::<Vec<_>>();
        let general = |line: &String| {
            let line = line
                .replace(&format!("{:#x}", nft::BRIDGES), "GROUP")
                .replace(&instance.name(), "NAME")
                .replace(&prefix, "BRIDGE")
                .replace(&veth, "VETH");
            line.replace("/nowhere/q", "ROOT")
        };
        lines.iter().map(general).collect()
    }

    const INSIDE: [&str; 5] = [
        "unshare CLONE_NEWNET",
        "write 1 to /proc/sys/net/ipv6/conf/default/disable_ipv6",
        "write 0 to /proc/sys/net/ipv4/ip_unprivileged_port_start",
        "write 0 2147483647 to /proc/sys/net/ipv4/ping_group_range",
        "setns CLONE_NEWNET: the host's",
    ];

    const CONNECT: [&str; 9] = [
        "bind the network namespace to ROOT/run/ns/web",
        "host: RTM_NEWLINK VETH address 06:51:0a:2a:04:09 group 10.42.4.9 master BRIDGE1 up type veth peer eth0 address \
         02:51:0a:2a:04:09 in the container",
        "host: RTM_GETLINK VETH",
        "host: RTM_NEWLINK VETH alias \"web\" isolated on learning off flood off mcast_flood off locked on addrgenmode none",
        "host: RTM_NEWNEIGH 02:51:0a:2a:04:09 dev VETH master static",
        "container: RTM_NEWLINK lo up",
        "container: RTM_NEWADDR 10.42.4.9/16 dev eth0",
        "container: RTM_NEWLINK eth0 up",
        "container: RTM_NEWROUTE default via 10.42.0.1 dev eth0",
    ];

    const LEASE: [&str; 2] = ["symlink ROOT/run/leases-b00t/10.42.4.9 -> c1a1/web", "host: RTM_GETLINK BRIDGE1"];

    const LOOK: [&str; 6] = [
        "host: NFT_MSG_GETCHAIN ip NAME postrouting",
        "host: NFT_MSG_GETCHAIN ip NAME forward",
        "host: NFT_MSG_GETCHAIN ip NAME input",
        "host: NFT_MSG_GETCHAIN bridge NAME frames",
        "host: NFT_MSG_GETCHAIN bridge NAME passed",
        "host: NFT_MSG_GETSETELEM ip NAME resolvers { 10.0.0.2 }",
    ];

    #[test]
    fn with_the_bridge_there_two_batches_do() {
        assert_eq!(lines(&Want::default(), true), [&LEASE[..], &LOOK, &INSIDE, &CONNECT].concat());
    }

    #[test]
    fn the_first_makes_what_all_share_and_the_label_last() {
        let cold = [
            "host: NFT_MSG_NEWTABLE ip NAME",
            "host: NFT_MSG_NEWTABLE bridge NAME",
            "host: NFT_MSG_NEWSET ip NAME resolvers { type ipv4_addr . inet_proto . inet_service; }",
            "host: NFT_MSG_NEWSET bridge NAME pinned { type ipv4_addr . inet_proto . inet_proto . inet_proto; }",
            "host: NFT_MSG_NEWSETELEM bridge NAME pinned { every byte, three times, at its place in the group }",
            "host: NFT_MSG_NEWCHAIN ip NAME postrouting { type nat hook postrouting priority 100; policy accept; }",
            "host: NFT_MSG_NEWRULE ip NAME postrouting ip saddr 10.42.0.0/16 oifname != \"BRIDGE*\" masquerade",
            "host: NFT_MSG_NEWCHAIN ip NAME forward { type filter hook forward priority 0; policy accept; }",
            "host: NFT_MSG_NEWRULE ip NAME forward iifname \"vq*\" drop",
            "host: NFT_MSG_NEWRULE ip NAME forward iifgroup GROUP oifgroup GROUP drop",
            "host: NFT_MSG_NEWRULE ip NAME forward iifname \"BRIDGE*\" ip saddr != 10.42.0.0/16 drop",
            "host: NFT_MSG_NEWRULE ip NAME forward iifname \"BRIDGE*\" ip daddr . meta l4proto . th dport @resolvers accept",
            "host: NFT_MSG_NEWRULE ip NAME forward iifname \"BRIDGE*\" ip daddr 169.254.0.0/16 drop",
            "host: NFT_MSG_NEWCHAIN ip NAME input { type filter hook input priority 0; policy accept; }",
            "host: NFT_MSG_NEWRULE ip NAME input iifname \"vq*\" drop",
            "host: NFT_MSG_NEWRULE ip NAME input iifname != \"BRIDGE*\" accept",
            "host: NFT_MSG_NEWRULE ip NAME input ct state established accept",
            "host: NFT_MSG_NEWRULE ip NAME input ip daddr 10.42.0.1 icmp type echo-request accept",
            "host: NFT_MSG_NEWRULE ip NAME input ip daddr . meta l4proto . th dport @resolvers accept",
            "host: NFT_MSG_NEWRULE ip NAME input ip daddr 169.254.0.0/16 drop",
            "host: NFT_MSG_NEWRULE ip NAME input drop",
            "host: NFT_MSG_NEWCHAIN bridge NAME frames { type filter hook prerouting priority -200; policy accept; }",
            "host: NFT_MSG_NEWRULE bridge NAME frames iifgroup & 255.255.0.0 != 10.42.0.0 accept",
            "host: NFT_MSG_NEWRULE bridge NAME frames ether type ip ether daddr & 01:00:00:00:00:00 == 0 \
             ether saddr, ip saddr == iifgroup in 10.42.0.0/16 @pinned accept",
            "host: NFT_MSG_NEWRULE bridge NAME frames ether type arp arp htype 1 ptype ip hlen 6 plen 4 \
             ether saddr, arp saddr ether, arp saddr ip == iifgroup in 10.42.0.0/16 @pinned accept",
            "host: NFT_MSG_NEWRULE bridge NAME frames drop",
            "host: NFT_MSG_NEWCHAIN bridge NAME passed { type filter hook input priority -200; policy accept; }",
            "host: NFT_MSG_NEWRULE bridge NAME passed iifgroup & 255.255.0.0 != 10.42.0.0 accept",
            "host: NFT_MSG_NEWRULE bridge NAME passed ether daddr 01:80:c2:* drop",
            "write 1 to /proc/sys/net/ipv4/ip_forward",
            "host: RTM_NEWLINK BRIDGE1 address 0a:51:0a:2a:04:00 type bridge stp_state 0 mcast_snooping 0",
            "host: RTM_GETLINK BRIDGE1",
            "write 1 to /proc/sys/net/ipv6/conf/BRIDGE1/disable_ipv6",
            "host: RTM_NEWADDR 10.42.0.1/32 dev BRIDGE1",
            "host: RTM_NEWLINK BRIDGE1 up group GROUP addrgenmode none type bridge group_fwd_mask 0xfff8",
            "host: RTM_NEWROUTE 10.42.4.0/22 dev BRIDGE1 src 10.42.0.1",
            "host: NFT_MSG_NEWSETELEM ip NAME resolvers { 10.0.0.2 . { udp, tcp } . 53 }",
            "host: NFT_MSG_GETCHAIN ip filter FORWARD",
            "host: NFT_MSG_GETCHAIN ip filter DOCKER-USER",
            "host: RTM_NEWLINK BRIDGE1 alias \"quilt 10.42.4.0/22 layout 3\"",
            "mount tmpfs on ROOT/run/ns, private",
        ];
        assert_eq!(lines(&Want::default(), false), [&LEASE[..], &cold, &INSIDE, &CONNECT].concat());
    }

    #[test]
    fn without_a_bridge_there_is_loopback_or_nothing() {
        let want = |network| Want { network: Some(network), ..Want::default() };
        let none = ["bind the network namespace to ROOT/run/ns/web", "container: RTM_NEWLINK lo up"];
        assert_eq!(lines(&want(Network::None), true), [&INSIDE[..], &none].concat());
        assert_eq!(lines(&want(Network::Host), true), [""; 0]);
    }

    #[test]
    fn with_ids_of_its_own_the_namespace_is_made_by_a_child() {
        let ids = IdMap { uid: 100_000, gid: 200_000, size: 65_536 };
        let want = |network| Want { network: Some(network), ..Want::default() };
        let maps = ["write 0 100000 65536 to /proc/CHILD/uid_map", "write 0 200000 65536 to /proc/CHILD/gid_map"];
        let pair =
            [&["clone3 CLONE_NEWUSER|CLONE_NEWNET"][..], &maps, &["setns CLONE_NEWNET: the container's"]].concat();
        let mut inside = [&pair[..], &INSIDE[1..]].concat();
        inside[6] = "write 200000 265535 to /proc/sys/net/ipv4/ping_group_range";
        assert_eq!(lines_for(&Want::default(), true, Some(ids)), [&LEASE[..], &LOOK, &inside, &CONNECT].concat());
        let lease = ["symlink ROOT/run/leases-b00t/ids@8192 -> c1a1/web"];
        let none = ["bind the network namespace to ROOT/run/ns/web", "container: RTM_NEWLINK lo up"];
        assert_eq!(lines_for(&want(Network::None), true, Some(ids)), [&lease[..], &inside, &none].concat());
        let user =
            [&["clone3 CLONE_NEWUSER"][..], &maps, &["bind the user namespace to ROOT/run/ns/user@web"]].concat();
        assert_eq!(lines_for(&want(Network::Host), true, Some(ids)), [&lease[..], &user].concat());
    }
}
