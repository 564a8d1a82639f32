//! A container's network, as far as the verbs see it: who has one, and when it is gone.

use std::fs;
use std::time::Duration;

use quilt_netns::{Retired, delete_link, lease, pin, retire_link, unpin, watch_link};
use quilt_record::{Claim, Error, Id, Instance};

/// How long the kernel gets to take an interface away by itself, which costs nobody anything. Deleting it waits for
/// grace periods with the host's network lock held.
const PATIENCE: Duration = Duration::from_millis(50);

/// Takes a dead container off the network, so that its name and address are free: unpins its namespaces, which would
/// live on, and waits for its interface to be gone.
pub fn down(instance: &Instance, id: &Id) -> Result<(), Error> {
    unpin(instance, id)?;
    finish(&instance.veth(id))
}

/// The same without a wait, if this kernel can, of one that lives or has just died; see [`finish`] for the rest.
pub fn retire(instance: &Instance, id: &Id) -> Result<Retired, Error> {
    unpin(instance, id)?;
    retire_link(&instance.veth(id))
}

/// Returns when the interface is gone; deletes it if that takes long, which it does if somebody holds the namespace.
pub fn finish(name: &str) -> Result<(), Error> {
    if watch_link(name)?.gone(PATIENCE)? { Ok(()) } else { delete_link(name) }
}

/// Gives address and ids back. The interface must be gone: it still answers for the address.
pub fn release(instance: &Instance, id: &Id, claim: Claim) -> Result<(), Error> {
    lease::release(instance, id, claim)
}

/// The claim under which the container has its address, if it has one.
pub fn lessee(instance: &Instance, id: &Id) -> Result<Option<Claim>, Error> {
    let owners = leases(instance)?.into_iter().map(|(_, owner)| owner);
    Ok(owners.filter_map(|o| o.split_once('/').filter(|(_, name)| *name == id.as_str())?.0.parse().ok()).next())
}

/// The addresses and blocks of ids in use, each with its owner: `CLAIM/ID`.
pub fn leases(instance: &Instance) -> Result<Vec<(lease::Name, String)>, Error> {
    quilt_netns::leases(instance)
}

/// Takes back the leases of containers that are gone; how many.
pub fn reclaim(instance: &Instance) -> Result<usize, Error> {
    if !instance.run().exists() {
        return Ok(0);
    }
    quilt_netns::reclaim(instance)
}

/// The names that have an interface or a pin, with a container or without.
pub fn list(instance: &Instance) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    // The interface's name is a hash; its alias says of what.
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with("vq") {
            continue;
        }
        let alias = fs::read_to_string(entry.path().join("ifalias")).unwrap_or_default();
        if let Ok(id) = alias.trim().parse::<Id>()
            && name.to_string_lossy() == instance.veth(&id)
        {
            names.push(id.to_string());
        }
    }
    for entry in fs::read_dir(pin::dir(instance)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        names.push(name.trim_start_matches("user@").to_owned());
    }
    Ok(names)
}

/// Removes what the instance's containers share.
pub fn teardown(instance: &Instance) -> Result<(), Error> {
    quilt_netns::teardown(instance)
}
