//! Leases of addresses and of ids: the symlink `<run>/leases-BOOT/ADDRESS` or `…/ids@BLOCK`, whose target is the owner's
//! `CLAIM/ID`. Making it is taking what it names: the kernel decides who was first, and the lease is never there without
//! its owner's name.
//!
//! The hard thing: a lease whose owner is gone may be taken back, but two who do so at once would give what it names to
//! two containers. So creates never do it; only [`reclaim`], under one lock, does.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use quilt_record::id::hash64;
use quilt_record::process::boot_id;
use quilt_record::{Claim, Code, Container, Error, Id, Instance, Step, lock};

use crate::ids::Range;
use crate::subnet::{Shard, Subnet};

/// How many addresses are tried one by one before the directory is read.
const PROBES: usize = 16;

/// The directory of this boot's leases. After a reboot it is another, wherever `/run` is.
pub fn dir(instance: &Instance) -> PathBuf {
    instance.run().join(format!("leases-{}", boot_id().get(..8).unwrap_or("unknown")))
}

/// What a lease points to.
pub fn owner(id: &Id, claim: Claim) -> String {
    format!("{claim}/{id}")
}

/// All leases: what they name, and the owner.
pub(crate) fn list(instance: &Instance) -> Result<BTreeMap<Name, String>, Error> {
    let dir = dir(instance);
    let step = || format!("list the leases in {}", dir.display());
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(Error::os(step(), e)),
    };
    let mut leases = BTreeMap::new();
    for entry in entries {
        let entry = entry.step(step)?;
        let Some(name) = entry.file_name().to_str().and_then(Name::parse) else { continue };
        if let Some(owner) = read(&entry.path()).step(step)? {
            leases.insert(name, owner);
        }
    }
    Ok(leases)
}

/// What a lease is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// An address of the subnet.
    Address(Ipv4Addr),
    /// A block of ids, by its number.
    Ids(u32),
}

impl Name {
    fn parse(text: &str) -> Option<Name> {
        match text.strip_prefix("ids@") {
            Some(number) => number.parse().ok().map(Name::Ids),
            None => text.parse().ok().map(Name::Address),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Address(address) => address.fmt(f),
            Name::Ids(number) => write!(f, "ids@{number}"),
        }
    }
}

/// Takes what `name` says if it is free or ours already; else returns who has it. `dry`: only looks.
pub(crate) fn take(instance: &Instance, name: Name, mine: &str, dry: bool) -> Result<Option<String>, Error> {
    let path = dir(instance).join(name.to_string());
    let step = || format!("lease {name}");
    if dry {
        return Ok(read(&path).step(step)?.filter(|owner| owner != mine));
    }
    loop {
        match symlink(mine, &path) {
            Ok(()) => return Ok(None),
            Err(e) if e.kind() == ErrorKind::NotFound => make_dir(instance)?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => match read(&path).step(step)? {
                Some(owner) if owner == mine => return Ok(None),
                Some(owner) => return Ok(Some(owner)),
                // Given back in between.
                None => {}
            },
            Err(e) => return Err(Error::os(step(), e)),
        }
    }
}

pub(crate) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_link(path) {
        Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A wish for an address.
pub(crate) struct Asking<'a> {
    pub instance: &'a Instance,
    pub subnet: Subnet,
    pub id: &'a Id,
    pub claim: Claim,
    /// Whether to only look: a dry run.
    pub dry: bool,
}

impl Asking<'_> {
    /// Takes the address if it is free or ours already; else returns who has it.
    fn try_take(&self, address: Ipv4Addr) -> Result<Option<String>, Error> {
        take(self.instance, Name::Address(address), &owner(self.id, self.claim), self.dry)
    }

    /// Takes this very address, and its piece.
    pub fn fixed(&self, address: Ipv4Addr) -> Result<Shard, Error> {
        let shard = self.subnet.shard_of(address).ok_or_else(|| {
            let why = "it must be in the subnet, and neither the gateway nor the first or last of a bridge's addresses";
            Error::new(Code::Invalid, "read --ip", format!("{address} cannot be given (subnet {}): {why}", self.subnet))
        })?;
        let Some(mut other) = self.try_take(address)? else { return Ok(shard) };
        if !self.dry && reclaim(self.instance)? > 0 {
            match self.try_take(address)? {
                None => return Ok(shard),
                Some(owner) => other = owner,
            }
        }
        let by = other.split_once('/').map_or(other.as_str(), |(_, id)| id);
        Err(Error::new(Code::Exists, format!("lease {address}"), format!("address taken by {by}")))
    }

    /// Takes the address that the container had before, if nobody has it now.
    pub fn again(&self, address: Ipv4Addr) -> Result<Option<(Ipv4Addr, Shard)>, Error> {
        let Some(shard) = self.subnet.shard_of(address) else { return Ok(None) };
        Ok(self.try_take(address)?.is_none().then_some((address, shard)))
    }

    /// Takes the first free address, from the piece `from` on.
    pub fn any(&self, from: u32) -> Result<(Ipv4Addr, Shard), Error> {
        if let Some(found) = self.probe(from)? {
            return Ok(found);
        }
        if !self.dry
            && reclaim(self.instance)? > 0
            && let Some(found) = self.probe(from)?
        {
            return Ok(found);
        }
        let message = format!("every address of {} is taken (quilt gc frees what dead containers left)", self.subnet);
        Err(Error::new(Code::Exhausted, "lease an address", message))
    }

    fn probe(&self, from: u32) -> Result<Option<(Ipv4Addr, Shard)>, Error> {
        let hash = hash64(self.id.as_str().as_bytes());
        let mut taken = None;
        for shard in (from..self.subnet.shards()).map(|k| self.subnet.shard(k)) {
            for (tries, address) in self.subnet.candidates(shard, hash).enumerate() {
                if tries == PROBES && taken.is_none() {
                    taken = Some(list(self.instance)?);
                }
                let known = taken.as_ref().filter(|_| tries >= PROBES);
                if known.is_some_and(|t| t.contains_key(&Name::Address(address))) {
                    continue;
                }
                if self.try_take(address)?.is_none() {
                    return Ok(Some((address, shard)));
                }
            }
        }
        Ok(None)
    }
}

pub(crate) fn make_dir(instance: &Instance) -> Result<(), Error> {
    let dir = dir(instance);
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(Error::os(format!("make {}", dir.display()), e)),
        _ => Ok(()),
    }
}

/// Gives back the leases of the container, if they are its own: idempotent.
pub fn release(instance: &Instance, id: &Id, claim: Claim) -> Result<(), Error> {
    let (dir, mine) = (dir(instance), owner(id, claim));
    let step = || format!("give back the address of {id}");
    let give_back = |name: Name| -> Result<bool, Error> {
        let path = dir.join(name.to_string());
        if read(&path).step(step)?.as_deref() != Some(mine.as_str()) {
            return Ok(false);
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::os(step(), e)),
            _ => Ok(true),
        }
    };
    // Where it most likely is; else wherever it is.
    let subnet = Subnet::of(instance, None, false)?;
    for address in subnet.candidates(subnet.shard(0), hash64(id.as_str().as_bytes())).take(PROBES / 2) {
        // Whose ids follow from the address has no other lease.
        if give_back(Name::Address(address))? && Range::of(instance, None, false)?.follows(subnet, address).is_some() {
            return Ok(());
        }
    }
    for (name, owner) in list(instance)? {
        if owner == mine {
            give_back(name)?;
        }
    }
    Ok(())
}

/// Takes back every lease whose owner is gone, and the directories of earlier boots; returns how many leases.
pub fn reclaim(instance: &Instance) -> Result<usize, Error> {
    let step = || "take back the addresses of containers that are gone".to_owned();
    let path = instance.run().join("leases.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).step(step)?;
    lock::acquire(file.as_fd(), Duration::from_secs(10), "the leases")?;
    let mut count = 0;
    for (name, owner) in list(instance)? {
        let path = dir(instance).join(name.to_string());
        // Since the list was made, its owner may have given it back and gone, and another taken it. Nobody but a reclaim
        // touches the lease of one that is gone.
        if stale(instance, &owner) && read(&path).step(step)? == Some(owner) {
            fs::remove_file(&path).step(step)?;
            count += 1;
        }
    }
    let current = dir(instance);
    for entry in fs::read_dir(instance.run()).step(step)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("leases-") && entry.path() != current {
            fs::remove_dir_all(entry.path()).step(step)?;
        }
    }
    Ok(count)
}

/// Whether nobody holds what the lease was taken for. A claim is older than its lease and younger ones never have the
/// same: once stale, always stale.
fn stale(instance: &Instance, owner: &str) -> bool {
    let Some((claim, id)) = owner.split_once('/') else { return true };
    let Ok(id) = id.parse::<Id>() else { return true };
    match Container::open(instance, &id) {
        // One whose claim cannot be read may run, and stand on the address.
        Ok(container) => container.holder().is_ok_and(|holder| holder.claim.to_string() != claim),
        Err(e) => e.code == Code::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn instance(name: &str) -> Result<Instance, Error> {
        let root = std::env::temp_dir().join(format!("quilt-lease-{name}-{}", std::process::id()));
        fs::create_dir_all(root.join("run")).step(|| "make a directory")?;
        Instance::locate(Some(&root))
    }

    #[test]
    fn addresses_are_given_once_and_found_again() -> Result<(), Error> {
        let instance = instance("once")?;
        let subnet: Subnet = "10.9.8.16/28".parse().unwrap_or_default();
        std::os::unix::fs::symlink(subnet.to_string(), instance.state().join("subnet")).step(|| "keep")?;
        let claims: Vec<(Id, Claim)> = (0..13u128).map(|i| (Id::generate(i), Claim::generate())).collect();
        let take = |(id, claim): &(Id, Claim)| {
            let asking = Asking { instance: &instance, subnet, id, claim: *claim, dry: false };
            asking.probe(0).map(|found| found.map(|(address, _)| address))
        };
        let got: Vec<Option<Ipv4Addr>> = thread::scope(|scope| {
            let threads: Vec<_> = claims.iter().map(|c| scope.spawn(|| take(c))).collect();
            threads.into_iter().map(|t| t.join().ok().and_then(Result::ok).flatten()).collect()
        });
        let mut all: Vec<_> = got.iter().flatten().collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 13);
        assert_eq!(take(&(Id::generate(99), Claim::generate()))?, None);
        // Its own lease is found again; another's is not given back.
        assert_eq!(take(&claims[4])?, got[4]);
        release(&instance, &claims[4].0, claims[5].1)?;
        assert_eq!(list(&instance)?.len(), 13);
        release(&instance, &claims[4].0, claims[4].1)?;
        assert_eq!(list(&instance)?.len(), 12);
        fs::remove_dir_all(instance.state()).step(|| "clean up")
    }
}
