//! Looks whether the host's side of a container's network is whole: what others may have flushed, deleted or switched off
//! since it was made. And says what of the host's own stands in containers' way.

use std::net::Ipv4Addr;

use quilt_record::have::Netns;
use quilt_record::{Error, Instance, Step};

use crate::execute::{find, host_socket, is_bridge, send};
use crate::interface::{address, route_interface};
use crate::legacy;
use crate::message::{Message, Names};
use crate::netlink::Netlink;
use crate::nft::{self, Verdict as Policy};
use crate::shared::{Label, Place, bridge_fault, forwards};
use crate::subnet::Subnet;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is missing, or is not as it was made: `quilt repair` makes it again.
    pub missing: Vec<String>,
    /// What is not Quilt's to change.
    pub notes: Vec<String>,
}

/// Looks at everything on the host that the container's network rests on. Changes nothing.
pub fn verify(instance: &Instance, place: &Place) -> Result<Verdict, Error> {
    let subnet = Subnet::of(instance, None, false)?;
    let (link, mut missing) = (&place.link, Vec::new());
    let mut socket = host_socket()?;
    let shard = subnet.shard_of(link.address);
    let bridge = find(&mut socket, &link.bridge)?.filter(|found| shard.is_some_and(|shard| is_bridge(found, shard)));
    let label = bridge.as_ref().zip(shard).and_then(|(found, shard)| Label::read(&found.alias, shard));
    match bridge.as_ref().zip(shard) {
        None => missing.push(format!("the bridge {}", link.bridge)),
        Some((found, shard)) => match bridge_fault(found, shard) {
            Some(fault) => missing.push(fault),
            None => missing.extend(ways(&mut socket, place, found.index, subnet)?),
        },
    }
    match find(&mut socket, &link.host)? {
        None => missing.push(format!("the interface {}", link.host)),
        Some(found) => {
            if let Some(bridge) = bridge {
                let fault = place.fault(&found, bridge.index);
                missing.extend(if fault.is_some() { fault } else { place.astray(&mut socket, found.index)? });
            }
        }
    }
    let pinned = label.map_or(nft::wants_pinned(), |label| label.pinned);
    let found = nft::look(instance, subnet, pinned, &place.servers)?;
    if pinned && found.missing.is_empty() && !nft::is_pinned(instance, Some(link.address))? {
        missing.push(nft::pinned_set(instance));
    }
    missing.extend(found.missing);
    missing.extend(found.unknown.iter().map(|server| format!("the way to the name server {server}")));
    if !forwards()? {
        missing.push("net.ipv4.ip_forward is off".to_owned());
    }
    Ok(Verdict { missing, notes: notes(instance, pinned, true)? })
}

/// What is missing of the ways between the host and a container: the gateway's address on the bridge, the route to it.
fn ways(socket: &mut Netlink, place: &Place, bridge: u32, subnet: Subnet) -> Result<Vec<String>, Error> {
    let none = Names { indices: &[], netns: None };
    let (name, gateway) = (&place.link.bridge, subnet.gateway());
    let all = socket.list(Message::GetAddresses.encode(&none)).step(|| Message::GetAddresses.to_string())?;
    let mut missing = Vec::new();
    if !all.iter().any(|payload| address(payload) == Some((bridge, gateway))) {
        missing.push(format!("the address {gateway} of {name}"));
    }
    if !is_routed(socket, place.link.address, bridge)? {
        missing.push(format!("the route to {} by {name}", place.link.address));
    }
    Ok(missing)
}

/// Whether the host reaches an address by this interface.
pub(crate) fn is_routed(socket: &mut Netlink, to: Ipv4Addr, by: u32) -> Result<bool, Error> {
    match send(socket, &[Message::GetRoute { to }], &Names { indices: &[], netns: None }) {
        Ok(answers) => Ok(answers.told.first().and_then(|(_, payload)| route_interface(payload)) == Some(by)),
        // What no route, and routes of the types unreachable, prohibit and blackhole come to (ip-route(8)).
        Err(e) if matches!(e.errno, Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)) => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

impl Verdict {
    /// The same, of what a record says.
    pub fn of(instance: &Instance, id: &quilt_record::Id, have: &Netns) -> Result<Verdict, Error> {
        match Place::of(id, have) {
            Some(place) => verify(instance, &place),
            None => Ok(Verdict::default()),
        }
    }
}

/// What could not be done on this host, and what of the host's own stands in the way of containers (only if `all`: that takes
/// questions), with the command that helps.
pub fn notes(instance: &Instance, pinned: bool, all: bool) -> Result<Vec<String>, Error> {
    let mut notes = Vec::new();
    if !pinned && nft::wants_pinned() {
        notes.push(
            "this kernel has no nftables for bridges (CONFIG_NF_TABLES_BRIDGE): nobody checks the IP addresses that containers \
             send from, nor their ARP; their MAC addresses are checked from Linux 5.18 on"
                .to_owned(),
        );
    }
    if all && let Some(chain) = dropped_by()? {
        let bridges = format!("{}+", instance.bridge_prefix());
        notes.push(format!(
            "this host drops what no rule lets through (the policy of the chain FORWARD in the table filter, as docker sets it), \
             containers' traffic to the outside too, unless this was run, with UPLINK the interface of the default route: \
             iptables -I {chain} -i {bridges} -o UPLINK -j ACCEPT && iptables -I {chain} -o {bridges} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        ));
    }
    Ok(notes)
}

/// The chain that rules go into, if the host's own firewall drops what it forwards by default.
fn dropped_by() -> Result<Option<&'static str>, Error> {
    let policy = match nft::forward_policy()? {
        Policy::Accept => legacy::forward_policy().step(|| "look at the table filter")?,
        policy => policy,
    };
    Ok(match policy {
        Policy::Accept => None,
        Policy::Drop => Some("FORWARD"),
        Policy::DropBehindDocker => Some("DOCKER-USER"),
    })
}
