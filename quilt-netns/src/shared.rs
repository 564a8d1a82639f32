//! What an instance's containers share, and what the first that misses it makes: the firewall's tables, forwarding, the
//! bridge; with the ports of the containers that were there before, if there were any.

use std::fmt;
use std::net::Ipv4Addr;

use quilt_record::have::{Link, Netns};
use quilt_record::process::boot_id;
use quilt_record::{Container, Error, Id, Instance, Step as _, defence};
use serde::Deserialize;

use crate::execute::{find, send};
use crate::files;
use crate::interface::{Interface, entry};
use crate::message::{FORWARD_MASK, Message, Names, group_of};
use crate::netlink::Netlink;
use crate::nft;
use crate::plan::{Facts, IP_FORWARD};
use crate::step::Step;
use crate::subnet::{Mac, Shard};

/// The alias of a bridge that is ready. Another version of Quilt, whose tables or ports are others, has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The bridge's piece of the subnet.
    pub shard: Shard,
    /// Whether the firewall looks at its frames.
    pub pinned: bool,
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quilt {} layout 3{}", self.shard, if self.pinned { "" } else { " unpinned" })
    }
}

impl Label {
    /// Reads a bridge's alias; `None` if it is not ready, or was made by another version.
    pub fn read(alias: &str, shard: Shard) -> Option<Label> {
        [true, false].map(|pinned| Label { shard, pinned }).into_iter().find(|label| label.to_string() == alias)
    }
}

/// What is wrong with a bridge; `None` if nothing is.
pub fn bridge_fault(found: &Interface, shard: Shard) -> Option<String> {
    let name = &found.name;
    if found.flags & libc::IFF_UP as u32 == 0 {
        Some(format!("{name} is down"))
    } else if Label::read(&found.alias, shard).is_none() {
        Some(format!("{name} is of another version of Quilt"))
    } else if found.group != nft::BRIDGES {
        Some(format!("the group of {name}"))
    } else if found.forward_mask != FORWARD_MASK && !defence::out("pinned") {
        Some(format!("{name} keeps frames from the firewall (group_fwd_mask {:#x})", found.forward_mask))
    } else {
        None
    }
}

/// A container of this boot that has a place on a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub id: Id,
    /// The place.
    pub link: Link,
    /// The name servers that it was given.
    pub servers: Vec<Ipv4Addr>,
}

impl Place {
    /// What a container's record says, if it has a place.
    pub fn read(container: &Container) -> Result<Option<Place>, Error> {
        #[derive(Deserialize)]
        struct Saved {
            have: Option<Netns>,
        }
        let text = container.read("netns.json")?.unwrap_or_default();
        // One that cannot be read is for `quilt rm -f`, and has no place that anybody could know.
        let have = serde_json::from_str::<Saved>(&text).ok().and_then(|saved| saved.have);
        Ok(have.and_then(|have| Place::of(container.id(), &have)))
    }

    /// What the section of a record says.
    pub fn of(id: &Id, have: &Netns) -> Option<Place> {
        let link = have.link.clone().filter(|_| have.boot == boot_id())?;
        Some(Place { id: id.clone(), link, servers: files::servers_in(&have.files) })
    }

    /// Every container's that has one.
    pub fn all(instance: &Instance) -> Result<Vec<Place>, Error> {
        let mut places = Vec::new();
        for id in Container::list(instance)? {
            // One that is being made or removed is in somebody's hands.
            let place = Container::open(instance, &id).and_then(|container| Place::read(&container));
            places.extend(place.ok().flatten());
        }
        Ok(places)
    }

    /// What is wrong with its port; `None` if nothing is.
    pub fn fault(&self, found: &Interface, bridge: u32) -> Option<String> {
        let name = &self.link.host;
        let pinned = !defence::out("pinned");
        if found.master != bridge {
            Some(format!("{name} is no port of {}", self.link.bridge))
        } else if found.flags & libc::IFF_UP as u32 == 0 {
            Some(format!("{name} is down"))
        } else if found.group != group_of(self.link.address) {
            Some(format!("{name} is not in the group {}", self.link.address))
        } else if !found.isolated && !defence::out("isolated-port") {
            Some(format!("the port {name} is not isolated"))
        } else if found.learning && pinned {
            Some(format!("the bridge learns from {name}"))
        } else if found.floods && pinned {
            Some(format!("the bridge floods {name}"))
        } else if found.locked == Some(false) && pinned {
            Some(format!("the port {name} is not locked"))
        } else {
            None
        }
    }

    /// Whether the bridge has its MAC address elsewhere than at its port, which has this index, or not for good.
    pub fn astray(&self, socket: &mut Netlink, port: u32) -> Result<Option<String>, Error> {
        if defence::out("pinned") {
            return Ok(None);
        }
        let (name, mac) = (self.link.host.clone(), Mac::container(self.link.address));
        let fault = format!("the bridge's entry for {mac} at {name}");
        let names = [(name.clone(), port)];
        match send(socket, &[Message::GetFdb { name, mac }], &Names { indices: &names, netns: None }) {
            Ok(answers) => {
                let at = answers.told.first().and_then(|(_, payload)| entry(payload));
                Ok((at != Some((port, true))).then_some(fault))
            }
            Err(e) if e.errno == Some(libc::ENOENT) => Ok(Some(fault)),
            // It went meanwhile, or is no port any more: that is seen at the next look.
            Err(e) if matches!(e.errno, Some(libc::ENODEV | libc::EINVAL | libc::EOPNOTSUPP)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What makes its interface a port again, as it was when the container was made: two batches.
    pub fn attach(&self) -> [Vec<Message>; 2] {
        let (name, bridge, address) = (self.link.host.clone(), self.link.bridge.clone(), self.link.address);
        let attach = Message::Attach { name: name.clone(), address, bridge };
        let port = port(&name, &self.id, address);
        [vec![Message::GetLink { name: name.clone() }], [attach].into_iter().chain(port).collect()]
    }
}

/// What makes a port of a bridge a container's.
pub fn port(name: &str, id: &Id, address: Ipv4Addr) -> impl Iterator<Item = Message> {
    let name = name.to_owned();
    let port = Message::Port { name: name.clone(), label: id.to_string() };
    let fdb = Message::Fdb { name, mac: Mac::container(address) };
    [Some(port), (!defence::out("pinned")).then_some(fdb)].into_iter().flatten()
}

/// The places on a bridge whose interface is there, and is not the port that it should be. Adds to what was looked at.
pub(crate) fn strays(
    socket: &mut Netlink,
    places: Vec<Place>,
    bridge: &str,
    looked: &mut Vec<Step>,
) -> Result<Vec<Place>, Error> {
    let mut ask = |name: &str| {
        looked.push(Step::Look(Message::GetLink { name: name.to_owned() }));
        find(socket, name)
    };
    let places: Vec<Place> = places.into_iter().filter(|place| place.link.bridge == bridge).collect();
    // Without a bridge, it is nobody's port; 0 is what that looks like.
    let index = if places.is_empty() { 0 } else { ask(bridge)?.map_or(0, |found| found.index) };
    let mut strays = Vec::new();
    for place in places {
        let fault = |found: &Interface| index == 0 || place.fault(found, index).is_some();
        if ask(&place.link.host)?.is_some_and(|found| fault(&found)) {
            strays.push(place);
        }
    }
    Ok(strays)
}

/// Whether the host forwards packets.
pub(crate) fn forwards() -> Result<bool, Error> {
    let text = std::fs::read_to_string(IP_FORWARD).step(|| format!("read {IP_FORWARD}"))?;
    Ok(text.trim() != "0")
}

/// What makes all that the containers on a bridge share. Every message may have been sent by somebody else before; the
/// label, which comes last, says that all are done. First what the bridge stands for, so that whoever sees it has it all.
pub fn steps(instance: &Instance, facts: &Facts, shard: Shard) -> Vec<Step> {
    let (name, gateway) = (shard.bridge(instance), facts.subnet.gateway());
    let mut steps = vec![Step::Tables(nft::plan(instance, facts.subnet, nft::wants_pinned()))];
    if !facts.forwards {
        steps.push(Step::Forward);
    }
    steps.push(Step::Host(vec![
        Message::NewBridge { name: name.clone(), mac: Mac::bridge(shard) },
        Message::GetLink { name: name.clone() },
    ]));
    if !defence::out("no-ipv6") {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        steps.push(Step::Sysctl { path: path.into(), value: "1".into() });
    }
    steps.push(Step::Host(vec![
        Message::NewAddress { name: name.clone(), address: gateway, prefix: 32 },
        Message::BridgeUp { name: name.clone() },
        Message::BridgeRoute { name: name.clone(), shard, source: gateway },
    ]));
    steps.extend(facts.strays.iter().cloned().map(Step::Attach));
    steps.extend(servers(instance, &facts.servers));
    steps.push(Step::Notes(nft::policy_questions().to_vec()));
    steps.push(Step::Label { name, shard });
    steps
}

/// What lets containers ask these name servers.
pub fn servers(instance: &Instance, servers: &[Ipv4Addr]) -> Option<Step> {
    (!servers.is_empty()).then(|| Step::Nft(nft::resolvers(instance, servers)))
}
