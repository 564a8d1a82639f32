//! What a container's network costs, step by step, before any of it is done.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use quilt_record::{Id, Instance};

use crate::message::{ETH, Message};
use crate::nft;
use crate::pin;
use crate::subnet::{Mac, Shard, Subnet};
use crate::want::{IdMap, Network, Want};

/// What must be known to plan. Taking the lease is part of it: the address is in the messages.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The instance's subnet.
    pub subnet: Subnet,
    /// The lease: address, its piece of the subnet, the symlink and its target. Absent without a bridge.
    pub lease: Option<Lease>,
    /// Whether the bridge is there, with all that goes before it.
    pub bridge_ready: bool,
    /// Whether the host forwards packets; only looked at if the bridge is not ready.
    pub forwards: bool,
    /// Whether the directory of pins is mounted.
    pub pins_mounted: bool,
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

/// One step. It prints as one line for each thing that the kernel is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take the address: done while planning.
    Lease { path: PathBuf, owner: String },
    /// Look whether the bridge is there: done while planning.
    Look(Message),
    /// Send one batch to nftables.
    Nft(Vec<nft::Message>),
    /// Let the host forward packets.
    Forward,
    /// Send one batch from the host's network namespace.
    Host(Vec<Message>),
    /// Mount the directory of pins.
    MountPins(PathBuf),
    /// Make the network namespace and enter it.
    Unshare,
    /// Make a user namespace that owns a network namespace, and enter the latter.
    Pair(IdMap),
    /// Write a sysctl of the network namespace.
    Sysctl { path: &'static str, value: &'static str },
    /// Go back to the host's network namespace.
    Return,
    /// Pin the network namespace.
    PinNet(PathBuf),
    /// Pin the user namespace.
    PinUser(PathBuf),
    /// Send one batch from inside the network namespace.
    Inside(Vec<Message>),
}

/// The host's switch for forwarding (ip-sysctl.rst).
pub const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The sysctls of a container's network namespace. `default` and not `all`: it is what the interface that is made next
/// starts with, and it needs no RTNL, for which `all` would spin. Loopback keeps ::1. The other two are what docker
/// sets: low ports and ping without capabilities.
const SYSCTLS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// The batches that make a bridge. Every message may have been sent by somebody else before; the label, which comes
/// last, says that all are done.
fn bridge(instance: &Instance, subnet: Subnet, shard: Shard) -> [Step; 2] {
    let name = shard.bridge(instance);
    let gateway = subnet.gateway();
    [
        Step::Host(vec![
            Message::NewBridge { name: name.clone(), mac: Mac::bridge(shard) },
            Message::GetLink { name: name.clone() },
        ]),
        Step::Host(vec![
            Message::NewAddress { name: name.clone(), address: gateway, prefix: 32 },
            Message::BridgeUp { name: name.clone() },
            Message::BridgeRoute { name: name.clone(), shard, source: gateway },
            Message::Label { name, label: label(shard) },
        ]),
    ]
}

/// The alias of a bridge that is ready.
pub fn label(shard: Shard) -> String {
    format!("quilt {shard}")
}

/// The plan for one container. Pure: the same input gives the same plan.
pub fn plan(instance: &Instance, id: &Id, want: &Want, facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::with_capacity(16);
    if want.network() == Network::Host {
        return steps;
    }
    if let Some(Lease { shard, path, owner, .. }) = &facts.lease {
        steps.push(Step::Lease { path: path.clone(), owner: owner.clone() });
        steps.push(Step::Look(Message::GetLink { name: shard.bridge(instance) }));
        if !facts.bridge_ready {
            // First what the bridge stands for, so that whoever sees the bridge has it all.
            steps.push(Step::Nft(nft::plan(instance, facts.subnet)));
            if !facts.forwards {
                steps.push(Step::Forward);
            }
            steps.extend(bridge(instance, facts.subnet, *shard));
        }
    }
    if !facts.pins_mounted {
        steps.push(Step::MountPins(pin::dir(instance)));
    }
    steps.push(want.userns.map_or(Step::Unshare, Step::Pair));
    steps.extend(SYSCTLS.map(|(path, value)| Step::Sysctl { path, value }));
    steps.push(Step::Return);
    if want.userns.is_some() {
        steps.push(Step::PinUser(pin::user(instance, id)));
    }
    steps.push(Step::PinNet(pin::net(instance, id)));
    let up = |name: &str| Message::Up { name: name.to_owned() };
    let Some(Lease { address, shard, .. }) = facts.lease else {
        steps.push(Step::Inside(vec![up("lo")]));
        return steps;
    };
    let veth = instance.veth(id);
    steps.push(Step::Host(vec![
        Message::NewVeth {
            name: veth.clone(),
            mac: Mac::host(address),
            bridge: shard.bridge(instance),
            peer: Mac::container(address),
        },
        Message::Port { name: veth.clone(), label: id.to_string() },
        // Instead of an acknowledgement: the answer says which index the other end got in its namespace.
        Message::GetLink { name: veth },
    ]));
    steps.push(Step::Inside(vec![
        up("lo"),
        Message::NewAddress { name: ETH.to_owned(), address, prefix: facts.subnet.prefix() },
        up(ETH),
        Message::DefaultRoute { gateway: facts.subnet.gateway() },
    ]));
    steps
}

impl Step {
    /// What the kernel is asked, one line each.
    pub fn lines(&self) -> Vec<String> {
        let lines = |messages: &[Message], at: &str| messages.iter().map(|m| format!("{at}: {m}")).collect();
        match self {
            Step::Host(messages) => lines(messages, "host"),
            Step::Inside(messages) => lines(messages, "container"),
            Step::Nft(messages) => messages.iter().map(|m| format!("host: {m}")).collect(),
            Step::Look(message) => vec![format!("host: {message}")],
            Step::Pair(map) => vec![
                "clone3 CLONE_NEWUSER|CLONE_NEWNET".to_owned(),
                format!("write 0 {} {} to /proc/CHILD/uid_map", map.uid, map.size),
                format!("write 0 {} {} to /proc/CHILD/gid_map", map.gid, map.size),
                "setns CLONE_NEWNET: the container's".to_owned(),
            ],
            one => vec![one.to_string()],
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Lease { path, owner } => write!(f, "symlink {} -> {owner}", path.display()),
            Step::Forward => write!(f, "write 1 to {IP_FORWARD}"),
            Step::MountPins(path) => write!(f, "mount tmpfs on {}, private", path.display()),
            Step::Unshare => f.write_str("unshare CLONE_NEWNET"),
            Step::Sysctl { path, value } => write!(f, "write {value} to {path}"),
            Step::Return => f.write_str("setns CLONE_NEWNET: the host's"),
            Step::PinNet(path) => write!(f, "bind the network namespace to {}", path.display()),
            Step::PinUser(path) => write!(f, "bind the user namespace to {}", path.display()),
            Step::Nft(_) | Step::Look(_) | Step::Host(_) | Step::Inside(_) | Step::Pair(_) => {
                f.write_str(&self.lines().join("; "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(instance: &Instance, bridge_ready: bool) -> Facts {
        let subnet = Subnet::default();
        let address = Ipv4Addr::new(10, 42, 4, 9);
        let lease = subnet.shard_of(address).map(|shard| Lease {
            address,
            shard,
            path: instance.run().join("leases-b00t/10.42.4.9"),
            owner: "c1a1/web".to_owned(),
        });
        Facts { subnet, lease, bridge_ready, forwards: bridge_ready, pins_mounted: bridge_ready }
    }

    fn lines(want: &Want, bridge_ready: bool) -> Vec<String> {
        let instance = Instance::locate(Some("/nowhere/q".as_ref()));
        let (Ok(instance), Ok(id)) = (instance, "web".parse()) else { return Vec::new() };
        let mut facts = facts(&instance, bridge_ready);
        facts.lease = facts.lease.filter(|_| want.network() == Network::Bridge);
        let (prefix, veth) = (instance.bridge_prefix(), instance.veth(&id));
        let lines = plan(&instance, &id, want, &facts).iter().flat_map(Step::lines).collect::<Vec<_>>();
        let general = |line: &String| {
            let line = line.replace(&instance.name(), "NAME").replace(&prefix, "BRIDGE").replace(&veth, "VETH");
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

    const CONNECT: [&str; 8] = [
        "bind the network namespace to ROOT/run/ns/web",
        "host: RTM_NEWLINK VETH address 06:51:0a:2a:04:09 master BRIDGE1 up type veth peer eth0 address \
         02:51:0a:2a:04:09 in the container",
        "host: RTM_NEWLINK VETH alias \"web\" isolated on addrgenmode none",
        "host: RTM_GETLINK VETH",
        "container: RTM_NEWLINK lo up",
        "container: RTM_NEWADDR 10.42.4.9/16 dev eth0",
        "container: RTM_NEWLINK eth0 up",
        "container: RTM_NEWROUTE default via 10.42.0.1 dev eth0",
    ];

    const LEASE: [&str; 2] = ["symlink ROOT/run/leases-b00t/10.42.4.9 -> c1a1/web", "host: RTM_GETLINK BRIDGE1"];

    #[test]
    fn with_the_bridge_there_two_batches_do() {
        assert_eq!(lines(&Want::default(), true), [&LEASE[..], &INSIDE, &CONNECT].concat());
    }

    #[test]
    fn the_first_makes_what_all_share_and_the_label_last() {
        let cold = [
            "host: NFT_MSG_NEWTABLE ip NAME",
            "host: NFT_MSG_NEWCHAIN ip NAME postrouting { type nat hook postrouting priority 100; policy accept; }",
            "host: NFT_MSG_NEWCHAIN ip NAME forward { type filter hook forward priority 0; policy accept; }",
            "host: NFT_MSG_NEWRULE ip NAME postrouting ip saddr 10.42.0.0/16 oifname != \"BRIDGE*\" masquerade",
            "host: NFT_MSG_NEWRULE ip NAME forward iifname \"BRIDGE*\" oifname \"BRIDGE*\" drop",
            "write 1 to /proc/sys/net/ipv4/ip_forward",
            "host: RTM_NEWLINK BRIDGE1 address 0a:51:0a:2a:04:00 type bridge stp_state 0 mcast_snooping 0",
            "host: RTM_GETLINK BRIDGE1",
            "host: RTM_NEWADDR 10.42.0.1/32 dev BRIDGE1",
            "host: RTM_NEWLINK BRIDGE1 up addrgenmode none",
            "host: RTM_NEWROUTE 10.42.4.0/22 dev BRIDGE1 src 10.42.0.1",
            "host: RTM_NEWLINK BRIDGE1 alias \"quilt 10.42.4.0/22\"",
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
}
