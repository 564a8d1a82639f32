//! A container's network: a network namespace (with the user namespace that owns it, if asked), a veth pair from a
//! bridge into it, an address, a default route, masquerade to the outside; and the text of the three files that go
//! with them. It does not start anything: the namespace waits, pinned, for `quilt-spawn`.
//!
//! Everything is netlink, in one batch for each side; in the steady state that is two sends and one look at the bridge.
//! What containers share (nftables table, forwarding, bridge) is made by the first that misses it.
//!
//! The hard thing is that a hundred may miss it at once, and any may be killed in between. There is no lock: each
//! message is one that the kernel refuses to do twice, all of them are sent again by whoever does not find the bridge's
//! label, and the label comes last.

use std::net::Ipv4Addr;

use serde::Deserialize;

use quilt_record::have::{Link, Netns};
use quilt_record::process::boot_id;
use quilt_record::stage::{Context, Outcome, Stage};
use quilt_record::{Claim, Code, Container, Error, Id, Instance, Record};

mod check;
mod execute;
mod files;
pub mod ids;
mod interface;
mod kept;
pub mod lease;
mod legacy;
#[allow(missing_docs)] // Its fields are the arguments of the messages that the variants name.
pub mod message;
mod namespace;
mod netlink;
#[allow(missing_docs)] // Likewise.
pub mod nft;
pub mod pin;
#[allow(missing_docs)] // Likewise.
pub mod plan;
mod remove;
mod repair;
mod shared;
#[allow(missing_docs)] // Likewise.
pub mod step;
pub mod subnet;
mod traffic;
mod trial;
mod userns;
mod want;

pub use check::Verdict;
pub use ids::{Around, Range};
pub use lease::{reclaim, release};
pub use pin::unpin;
pub use remove::{LinkWatch, Retired, delete_link, leases, retire_link, teardown, undo, watch_link};
pub use repair::{Repaired, repair_container, repair_shared};
pub use subnet::Subnet;
pub use traffic::{Traffic, traffic};
pub use want::{Network, Userns, Want};

use execute::Machine;
use ids::Choice;
use message::ETH;
use plan::{Facts, Lease};
use shared::Place;
use step::Step;
use subnet::Mac;

/// The stage.
pub static STAGE: Stage<Want, Netns> = Stage { name: "netns", act, undo: undo_stage, again: false };

fn act(context: &Context<'_, Want>) -> anyhow::Result<Outcome<Netns>> {
    let Context { instance, id, claim, want, .. } = context;
    let around = around(context.record)?;
    match context.container {
        Some(container) => Ok(Outcome::Done(create(instance, id, *claim, want, previous(container)?, &around)?)),
        None => {
            let before = Container::open(instance, id).ok().and_then(|c| previous(&c).ok().flatten());
            Ok(Outcome::Plan(dry_run(instance, id, *claim, want, before, &around)?))
        }
    }
}

/// What other tools do or are asked that the ids depend on.
fn around(record: &Record) -> Result<Around, Error> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Asked {
        pid: Option<String>,
        privileged: bool,
    }
    let asked: Asked = record.want("spawn")?;
    Ok(Around {
        layers: record.have("unpack")?,
        host_pids: asked.pid.as_deref() == Some("host"),
        privileged: asked.privileged,
    })
}

fn undo_stage(instance: &Instance, id: &Id, claim: Claim) -> anyhow::Result<()> {
    Ok(undo(instance, id, claim)?)
}

/// The address that the container had when it ran before: a start keeps it.
fn previous(container: &Container) -> Result<Option<Ipv4Addr>, Error> {
    #[derive(Deserialize)]
    struct Saved {
        have: Option<Place>,
    }
    #[derive(Deserialize)]
    struct Place {
        link: Option<Link>,
    }
    let Some(text) = container.read("netns.json")? else { return Ok(None) };
    let saved = serde_json::from_str::<Saved>(&text).ok();
    Ok(saved.and_then(|s| s.have?.link).map(|link| link.address))
}

/// Makes the network of a container. `previous` is the address that it had before, if any: it gets that again where it
/// can. What was done of a failed create is for [`undo`] to take back.
///
/// The calling thread visits the new network namespace and comes back.
pub fn create(
    instance: &Instance,
    id: &Id,
    claim: Claim,
    want: &Want,
    previous: Option<Ipv4Addr>,
    around: &Around,
) -> Result<Netns, Error> {
    want.check()?;
    let hostname = want.hostname(id)?;
    let choice = ids::choose(instance, want, around, false)?;
    let resolv = files::resolv_conf(want);
    let mut notes = choice.note();
    if let (Network::Host, Choice::Host(_)) = (want.network(), &choice) {
        return Ok(have(instance, id, want, hostname, None, resolv, notes));
    }
    let servers = files::servers(&resolv);
    let mut from = 0;
    loop {
        let (servers, choice) = (&servers, &choice);
        let mut planner = Planner { instance, id, claim, want, previous, servers, choice, from, dry: false };
        let (mut machine, facts) = planner.facts()?;
        match machine.run(&plan::plan(instance, id, want, &facts)) {
            Ok(()) => {
                if want.network() != Network::Host {
                    notes.extend(machine.notes());
                }
                return Ok(have(instance, id, want, hostname, Some(&facts), resolv, notes));
            }
            // The bridge has no port left (others may have added some): the next one.
            Err(e) if e.errno == Some(libc::EXFULL) && want.ip.is_none() => {
                let Some(lease) = &facts.lease else { return Err(e) };
                from = lease.shard.index + 1;
                lease::release(instance, id, claim)?;
                if from == facts.subnet.shards() {
                    return Err(e.with_code(Code::Exhausted));
                }
            }
            Err(e) => return Err(e),
        }
    }
}

/// What [`create`] would do, a line for each thing asked of the kernel.
pub fn dry_run(
    instance: &Instance,
    id: &Id,
    claim: Claim,
    want: &Want,
    previous: Option<Ipv4Addr>,
    around: &Around,
) -> Result<Vec<String>, Error> {
    want.check()?;
    want.hostname(id)?;
    let choice = &ids::choose(instance, want, around, true)?;
    if let (Network::Host, Choice::Host(_)) = (want.network(), choice) {
        return Ok(Vec::new());
    }
    let servers = &files::servers(&files::resolv_conf(want));
    let mut planner = Planner { instance, id, claim, want, previous, servers, choice, from: 0, dry: true };
    let (_, facts) = planner.facts()?;
    Ok(plan::plan(instance, id, want, &facts).iter().flat_map(Step::lines).collect())
}

/// Finds out what must be known to plan, and takes the lease.
struct Planner<'a> {
    instance: &'a Instance,
    id: &'a Id,
    claim: Claim,
    want: &'a Want,
    previous: Option<Ipv4Addr>,
    servers: &'a [Ipv4Addr],
    choice: &'a Choice,
    from: u32,
    dry: bool,
}

impl<'a> Planner<'a> {
    fn facts(&mut self) -> Result<(Machine<'a>, Facts), Error> {
        let keep = !self.dry && self.want.network() != Network::Host;
        let subnet = Subnet::of(self.instance, self.want.subnet, keep)?;
        let mut machine = Machine::new(self.instance, subnet)?;
        let mut facts = Facts {
            subnet,
            lease: None,
            bridge_ready: false,
            looked: Vec::new(),
            strays: Vec::new(),
            servers: self.servers.to_vec(),
            forwards: true,
            pins_mounted: pin::is_mounted(self.instance),
            ids: None,
            ids_lease: None,
        };
        if self.want.network() == Network::Bridge {
            let lease = self.lease(subnet)?;
            let bridge = lease.shard.bridge(self.instance);
            facts.looked.push(Step::Look(message::Message::GetLink { name: bridge.clone() }));
            if let Some(label) = machine.look(lease.shard)? {
                if self.dry {
                    let asked = nft::questions(self.instance, subnet, label.pinned, self.servers);
                    facts.looked.push(Step::LookFirewall(asked));
                }
                let found = nft::look(self.instance, subnet, label.pinned, self.servers)?;
                facts.bridge_ready = found.missing.is_empty();
                facts.servers = found.unknown;
            }
            if !facts.bridge_ready {
                facts.forwards = shared::forwards()?;
                let places = Place::all(self.instance)?;
                facts.servers =
                    self.servers.iter().copied().chain(places.iter().flat_map(|p| p.servers.clone())).collect();
                facts.servers.sort();
                facts.servers.dedup();
                facts.strays = shared::strays(machine.host_socket(), places, &bridge, &mut facts.looked)?;
            }
            facts.lease = Some(lease);
        }
        match *self.choice {
            Choice::Host(_) => {}
            Choice::Map(map) => facts.ids = Some(map),
            Choice::Auto(range) => {
                let address = facts.lease.as_ref().map(|lease| (subnet, lease.address));
                let (map, lease) = ids::block(range, address, (self.instance, self.id, self.claim), self.dry)?;
                (facts.ids, facts.ids_lease) = (Some(map), lease);
            }
        }
        Ok((machine, facts))
    }

    fn lease(&self, subnet: Subnet) -> Result<Lease, Error> {
        let Planner { instance, id, claim, dry, .. } = *self;
        let asking = lease::Asking { instance, subnet, id, claim, dry };
        let again = |previous| if self.from == 0 { asking.again(previous) } else { Ok(None) };
        let (address, shard) = match (self.want.ip, self.previous) {
            (Some(ip), previous) => {
                if previous.is_some_and(|p| p != ip) && !dry {
                    lease::release(instance, id, claim)?;
                }
                (ip, asking.fixed(ip)?)
            }
            (None, Some(previous)) => match again(previous)? {
                Some(found) => found,
                None => asking.any(self.from)?,
            },
            (None, None) => asking.any(self.from)?,
        };
        let path = lease::dir(instance).join(address.to_string());
        Ok(Lease { address, shard, path, owner: lease::owner(id, claim) })
    }
}

fn have(
    instance: &Instance,
    id: &Id,
    want: &Want,
    hostname: String,
    facts: Option<&Facts>,
    resolv: String,
    notes: Vec<String>,
) -> Netns {
    let beside_host = want.network() == Network::Host;
    let ids = facts.and_then(|facts| facts.ids);
    let link = facts.and_then(|facts| {
        let lease = facts.lease.as_ref()?;
        Some(Link {
            name: ETH.to_owned(),
            host: instance.veth(id),
            bridge: lease.shard.bridge(instance),
            address: lease.address,
            prefix: facts.subnet.prefix(),
            gateway: facts.subnet.gateway(),
            mac: Mac::container(lease.address).to_string(),
        })
    });
    let place = files::Place {
        hostname: &hostname,
        address: link.as_ref().map(|l| l.address),
        gateway: link.as_ref().map(|l| l.gateway),
    };
    let files = files::all(want, &place, resolv);
    Netns {
        boot: boot_id().to_owned(),
        network: want.network().as_str().to_owned(),
        net: (!beside_host).then(|| pin::net(instance, id)),
        user: ids.filter(|_| beside_host).map(|_| pin::user(instance, id)),
        ids,
        link,
        hostname,
        files,
        notes,
    }
}
