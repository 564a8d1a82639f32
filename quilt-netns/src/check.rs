//! Looks whether the host's side of a container's network is whole: what others may have flushed, deleted or switched off
//! since it was made. And says what of the host's own stands in containers' way.

use quilt_record::have::Netns;
use quilt_record::{Error, Instance, Step};

use crate::execute::{find, host_socket, is_bridge};
use crate::legacy;
use crate::nft::{self, Verdict as Policy};
use crate::shared::{Label, Place, forwards};
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
    match &bridge {
        None => missing.push(format!("the bridge {}", link.bridge)),
        Some(found) if found.flags & libc::IFF_UP as u32 == 0 => missing.push(format!("{} is down", link.bridge)),
        Some(_) if label.is_none() => missing.push(format!("{} is of another version of Quilt", link.bridge)),
        Some(found) if found.group != nft::BRIDGES => missing.push(format!("the group of {}", link.bridge)),
        Some(_) => {}
    }
    match find(&mut socket, &link.host)? {
        None => missing.push(format!("the interface {}", link.host)),
        Some(found) => missing.extend(bridge.and_then(|bridge| place.fault(&found, bridge.index))),
    }
    let pinned = label.map_or(nft::wants_pinned(), |label| label.pinned);
    let found = nft::look(instance, subnet, pinned, &place.servers)?;
    missing.extend(found.missing);
    missing.extend(found.unknown.iter().map(|server| format!("the way to the name server {server}")));
    if !forwards()? {
        missing.push("net.ipv4.ip_forward is off".to_owned());
    }
    Ok(Verdict { missing, notes: notes(instance, pinned, true)? })
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
