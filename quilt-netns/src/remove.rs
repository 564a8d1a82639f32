//! Takes a network back: a container's, by name, or the whole instance's.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use quilt_record::process::poll_timeout;
use quilt_record::{Claim, Code, Container, Error, Id, Instance, Step};

use crate::execute::{find, host_socket, is_bridge, send};
use crate::interface::Interface;
use crate::message::{Message, Names};
use crate::netlink::Netlink;
use crate::subnet::Subnet;
use crate::{ids, kept, lease, nft, pin};

/// Takes back what a create did for the container, whichever of it is there: pins, interface, address. Does all it can,
/// and returns the first thing that it could not do.
pub fn undo(instance: &Instance, id: &Id, claim: Claim) -> Result<(), Error> {
    // The address last: it must not be another's while the interface still answers for it.
    let unpinned = pin::unpin(instance, id);
    let deleted = delete_link(&instance.veth(id));
    let released = if deleted.is_ok() { lease::release(instance, id, claim) } else { Ok(()) };
    unpinned.and(deleted).and(released)
}

/// Deletes an interface by its name, and with it the other end of a pair; success if there is none. Waits for grace
/// periods: about 25 ms, where [`LinkWatch`] usually gets away with less.
pub fn delete_link(name: &str) -> Result<(), Error> {
    let message = Message::DelLink { name: name.to_owned() };
    send(&mut host_socket()?, &[message], &Names { indices: &[], netns: None }).map(drop)
}

/// What [`retire_link`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retired {
    /// There is no such interface.
    Gone,
    /// It has this name now, is a port of no bridge, and will go with the namespace of its other end.
    Renamed(String),
    /// This kernel renames no interface that is up (before Linux 6.2): nothing was changed.
    Refused,
}

/// Frees the name and the address of an interface whose namespace is going, in 0.2 ms and without a grace period: the
/// kernel takes namespaces apart one after another, up to 20 ms each, and nobody need wait for that.
pub fn retire_link(name: &str) -> Result<Retired, Error> {
    let mut socket = host_socket()?;
    let Some(found) = find(&mut socket, name)? else { return Ok(Retired::Gone) };
    // Indices are not used again. By its name the firewall still knows it for a container's, and takes nothing from what is
    // no port of a bridge: there may be somebody alive at the other end for a while.
    let rename = format!("vq.{}", found.index);
    let names = Names { indices: &[(name.to_owned(), found.index)], netns: None };
    match send(&mut socket, &[Message::Retire { name: name.to_owned(), rename: rename.clone() }], &names) {
        Ok(_) => Ok(Retired::Renamed(rename)),
        Err(e) if e.errno == Some(libc::ENODEV) => Ok(Retired::Gone),
        Err(e) if e.errno == Some(libc::EBUSY) => Ok(Retired::Refused),
        Err(e) => Err(e),
    }
}

/// Waits for an interface to go by itself, with the namespace of its other end.
pub struct LinkWatch {
    name: String,
    events: Netlink,
}

/// Starts watching; before the kill, so that no event is missed.
pub fn watch_link(name: &str) -> Result<LinkWatch, Error> {
    let mut events = host_socket()?;
    events.subscribe(libc::RTMGRP_LINK as u32).step(|| "watch interfaces")?;
    Ok(LinkWatch { name: name.to_owned(), events })
}

impl LinkWatch {
    /// Whether the interface is gone, waiting at most `limit`: its name is free then. True if it never was there.
    pub fn gone(&self, limit: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + limit;
        if find(&mut host_socket()?, &self.name)?.is_none() {
            return Ok(true);
        }
        let step = || format!("wait for the end of {}", self.name);
        loop {
            match self.events.announced().step(step)? {
                Some(events) if events.iter().any(|(kind, payload)| self.is_end(*kind, payload)) => return Ok(true),
                Some(_) => {}
                // Events were lost; this one may be among them.
                None if find(&mut host_socket()?, &self.name)?.is_none() => return Ok(true),
                None => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            match poll(&mut [PollFd::new(self.events.as_fd(), PollFlags::POLLIN)], poll_timeout(left)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::os(step(), e)),
            }
        }
    }

    /// The interface itself is gone, not merely its place on the bridge, of which the bridge speaks first.
    fn is_end(&self, kind: u16, payload: &[u8]) -> bool {
        kind == libc::RTM_DELLINK
            && Interface::read(payload).is_some_and(|i| i.name == self.name && i.family == libc::AF_UNSPEC as u8)
    }
}

/// Removes what containers share: bridges, nftables tables, directory of pins, leases, the subnet. Refuses while there
/// are containers. The host's ip_forward stays as it is: others may have come to rely on it.
pub fn teardown(instance: &Instance) -> Result<(), Error> {
    if let Some(id) = Container::list(instance)?.first() {
        let message = format!("there is still the container {id} (quilt rm -f --all)");
        return Err(Error::new(Code::Busy, "remove the instance's network", message));
    }
    let subnet = Subnet::of(instance, None, false)?;
    let mut socket = host_socket()?;
    for shard in (0..subnet.shards()).map(|k| subnet.shard(k)) {
        let name = shard.bridge(instance);
        if find(&mut socket, &name)?.is_some_and(|found| is_bridge(&found, shard)) {
            send(&mut socket, &[Message::DelLink { name }], &Names { indices: &[], netns: None })?;
        }
    }
    for table in nft::removal(instance) {
        match nft::send(&[table]) {
            Err(e) if e.code != Code::Unsupported => return Err(e),
            _ => {}
        }
    }
    pin::unmount_dir(instance)?;
    lease::reclaim(instance)?;
    let _ = std::fs::remove_dir_all(lease::dir(instance));
    for lock in ["leases.lock", "net.lock", "ns.lock"] {
        let _ = std::fs::remove_file(instance.run().join(lock));
    }
    kept::forget(instance, "subnet")?;
    kept::forget(instance, ids::RANGE)
}

/// What is leased: addresses and blocks of ids, each with its owner, `CLAIM/ID`.
pub fn leases(instance: &Instance) -> Result<Vec<(lease::Name, String)>, Error> {
    Ok(lease::list(instance)?.into_iter().collect())
}
