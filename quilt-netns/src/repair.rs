//! Makes again what others have flushed, deleted or switched off. Everything is sent as a create sends it, and says by itself
//! whether it was there.

use std::os::fd::OwnedFd;

use quilt_record::{Container, Error, Instance};
use serde::Serialize;

use crate::check::{is_routed, notes};
use crate::execute::{Machine, find, host_socket, is_bridge};
use crate::message::Message;
use crate::plan::{Facts, connect};
use crate::shared::{self, Place, bridge_fault, port};
use crate::step::Step;
use crate::subnet::{Shard, Subnet};
use crate::{nft, pin};

/// One thing that was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// `firewall`, `forwarding`, `bridge`, `resolver`, `port`, `interface`; `host` for what is not Quilt's to repair.
    pub kind: &'static str,
    /// Which.
    pub name: String,
    /// What was wrong.
    pub why: String,
    /// Whether it is right now.
    pub repaired: bool,
}

impl Repaired {
    fn new(kind: &'static str, name: impl Into<String>, why: impl Into<String>) -> Repaired {
        Repaired { kind, name: name.into(), why: why.into(), repaired: true }
    }
}

/// Repairs what containers share: tables, forwarding, bridges with address and route, the way to name servers.
pub fn repair_shared(instance: &Instance) -> Result<Vec<Repaired>, Error> {
    let subnet = Subnet::of(instance, None, false)?;
    let places = Place::all(instance)?;
    let mut servers: Vec<_> = places.iter().flat_map(|place| place.servers.clone()).collect();
    servers.sort();
    servers.dedup();
    let mut done = Vec::new();
    let mut pinned = None;
    let mut socket = host_socket()?;
    for shard in (0..subnet.shards()).map(|k| subnet.shard(k)) {
        let name = shard.bridge(instance);
        let used = places.iter().any(|place| place.link.bridge == name);
        let there = find(&mut socket, &name)?.filter(|found| is_bridge(found, shard));
        if !used && there.is_none() {
            continue;
        }
        let mut machine = Machine::new(instance, subnet)?;
        let fault = there.and_then(|found| bridge_fault(&found, shard));
        repair_shard(instance, &mut machine, shard, &servers, fault, &mut done)?;
        pinned = Some(machine.is_pinned());
    }
    if let Some(pinned) = pinned {
        let all = notes(instance, pinned, true)?.into_iter();
        done.extend(all.map(|why| Repaired { repaired: false, ..Repaired::new("host", "not Quilt's", why) }));
    }
    Ok(done)
}

fn repair_shard(
    instance: &Instance,
    machine: &mut Machine<'_>,
    shard: Shard,
    servers: &[std::net::Ipv4Addr],
    fault: Option<String>,
    done: &mut Vec<Repaired>,
) -> Result<(), Error> {
    let (subnet, name) = (Subnet::of(instance, None, false)?, shard.bridge(instance));
    let label = machine.look(shard)?;
    let found = nft::look(instance, subnet, label.map_or(nft::wants_pinned(), |label| label.pinned), servers)?;
    let facts = Facts {
        subnet,
        lease: None,
        bridge_ready: false,
        looked: Vec::new(),
        strays: Vec::new(),
        servers: servers.to_vec(),
        forwards: shared::forwards()?,
        pins_mounted: pin::is_mounted(instance),
        ids: None,
        ids_lease: None,
    };
    machine.made = Some(Vec::new());
    machine.run(&shared::steps(instance, &facts, shard))?;
    for made in machine.made.take().into_iter().flatten() {
        if made.starts_with("NFT") {
            done.push(Repaired::new("firewall", instance.name(), format!("missing: {}", found.missing.join(", "))));
        } else {
            done.push(Repaired::new("bridge", &name, format!("missing: {made}")));
        }
    }
    done.extend(fault.map(|fault| Repaired::new("bridge", &name, fault)));
    if machine.is_pinned() && !nft::is_pinned(instance, None)? {
        nft::send(&[nft::pins(instance)])?;
        done.push(Repaired::new(
            "firewall",
            instance.name(),
            format!("missing: elements of the {}", nft::pinned_set(instance)),
        ));
    }
    if !facts.forwards {
        done.push(Repaired::new("forwarding", "net.ipv4.ip_forward", "it was off"));
    }
    // Once: the next bridge finds them.
    let unknown = found.unknown.iter().map(|server| Repaired::new("resolver", server.to_string(), "no way to it"));
    done.extend(unknown);
    Ok(())
}

/// Repairs a container's place on its bridge, which must be there. `net` is its network namespace.
pub fn repair_container(instance: &Instance, container: &Container, net: OwnedFd) -> Result<Vec<Repaired>, Error> {
    let Some(place) = Place::read(container)? else { return Ok(Vec::new()) };
    let subnet = Subnet::of(instance, None, false)?;
    let Some(shard) = subnet.shard_of(place.link.address) else { return Ok(Vec::new()) };
    let mut machine = Machine::in_namespace(instance, subnet, net)?;
    machine.look(shard)?;
    let bridge = find(machine.host_socket(), &place.link.bridge)?.map_or(0, |found| found.index);
    let mut done = repair_place(instance, &mut machine, &place, bridge, subnet, shard)?;
    if !is_routed(machine.host_socket(), place.link.address, bridge)? {
        let address = place.link.address;
        let why = format!("another route to {address} is in the way (ip route get {address})");
        done.push(Repaired { repaired: false, ..Repaired::new("host", "not Quilt's", why) });
    }
    Ok(done)
}

fn repair_place(
    instance: &Instance,
    machine: &mut Machine<'_>,
    place: &Place,
    bridge: u32,
    subnet: Subnet,
    shard: Shard,
) -> Result<Vec<Repaired>, Error> {
    let (id, name) = (place.id.to_string(), place.link.host.clone());
    let Some(found) = find(machine.host_socket(), &name)? else {
        machine.run(&connect(instance, &place.id, subnet, shard, place.link.address))?;
        return Ok(vec![Repaired::new("interface", id, format!("{name} was gone"))]);
    };
    let Some(fault) = place.fault(&found, bridge) else {
        let astray = place.astray(machine.host_socket(), found.index)?;
        // What a look does not show, too.
        let rest =
            [vec![Message::GetLink { name: name.clone() }], port(&name, &place.id, place.link.address).collect()];
        machine.run(&rest.map(Step::Host))?;
        return Ok(astray.into_iter().map(|fault| Repaired::new("port", &id, fault)).collect());
    };
    machine.run(&place.attach().map(Step::Host))?;
    Ok(vec![Repaired::new("port", id, fault)])
}
