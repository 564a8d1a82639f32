//! The operator's side of the images: what there is, and what may go.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use quilt_record::claim::{Claim, Work};
use quilt_record::container::Container;
use quilt_record::error::{Code, Error, Step};
use quilt_record::have::Unpack;
use quilt_record::instance::Instance;
use quilt_record::sys;

use crate::cache::{self, Image, is_digest};
use crate::tree;

/// The start of a lock file's name.
const LOCK: &str = ".lock-";

/// The unpacked images, in the order of their digests.
pub fn list(instance: &Instance) -> Result<Vec<Image>, Error> {
    cache::list(&instance.images())
}

/// Removes an unpacked image, `sha256:…`; `busy` if a container uses it, or may be about to.
pub fn remove(instance: &Instance, digest: &str) -> Result<(), Error> {
    let missing = || Error::new(Code::NotFound, "", format!("no image {digest}"));
    let name = digest.strip_prefix("sha256:").filter(|name| is_digest(name.as_bytes())).ok_or_else(missing)?;
    let dir = cache::open(&instance.images())?.ok_or_else(missing)?;
    refuse_used(instance, digest)?;
    let gone = format!(".rm-{name}");
    let step = || format!("remove the image {digest}");
    match sys::rename_noreplace(&dir, name, &dir, gone.as_str()) {
        Err(Errno::ENOENT) => return Err(missing()),
        result => result.step(step)?,
    }
    // A create that found it before the rename had claimed its name by then, so it shows now.
    if let Err(used) = refuse_used(instance, digest) {
        sys::rename_noreplace(&dir, gone.as_str(), &dir, name).step(step)?;
        return Err(used);
    }
    tree::remove(dir.as_fd(), &gone)?;
    sweep(instance)
}

fn refuse_used(instance: &Instance, digest: &str) -> Result<(), Error> {
    let busy = |id| Err(Error::new(Code::Busy, "", format!("the container {id} uses the image {digest}")));
    for id in Container::list(instance)? {
        let container = match Container::open(instance, &id) {
            Err(e) if e.code == Code::NotFound => continue,
            container => container?,
        };
        match container.record().and_then(|record| record.have::<Unpack>("unpack")) {
            Ok(Some(have)) if have.digest.as_deref() != Some(digest) => {}
            Ok(None) if !container.holder().is_ok_and(|holder| matches!(holder.work, Work::Creating(_))) => {}
            // One that cannot be read may use anything.
            _ => return busy(id),
        }
    }
    Ok(())
}

/// Removes what the claim's unpacking left half-made, if anything, and lock files that nobody holds: one may be its.
pub fn remove_half_made(instance: &Instance, claim: Claim) -> Result<(), Error> {
    let Some(dir) = cache::open(&instance.images())? else { return Ok(()) };
    tree::remove(dir.as_fd(), &format!(".new-{claim}"))?;
    let names = names(instance)?;
    names.iter().filter(|name| name.starts_with(LOCK)).try_for_each(|name| unlink_unheld(&dir, name))
}

/// The names of all that is in the directory of the images.
fn names(instance: &Instance) -> Result<Vec<String>, Error> {
    let path = instance.images();
    let entries = fs::read_dir(&path).step(|| format!("list {}", path.display()))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Removes what interrupted commands left among the images: half-made ones whose claim is nobody's, half-removed ones,
/// lock files that nobody holds, and names of files for images that are gone.
pub fn sweep(instance: &Instance) -> Result<(), Error> {
    let Some(dir) = cache::open(&instance.images())? else { return Ok(()) };
    let path = instance.images();
    let names = names(instance)?;
    // After the names: a claim is older than what is made under it, and outlives it.
    let claims = claims(instance)?;
    for name in names {
        if let Some(claim) = name.strip_prefix(".new-") {
            if claims.as_ref().is_some_and(|claims| !claims.contains(claim)) {
                tree::remove(dir.as_fd(), &name)?;
            }
        } else if name.starts_with(".rm-") {
            tree::remove(dir.as_fd(), &name)?;
        } else if name.starts_with(LOCK) {
            unlink_unheld(&dir, &name)?;
        } else if name.starts_with("at.") && !path.join(&name).exists() {
            unlink(&dir, &name)?;
        }
    }
    Ok(())
}

/// All claims that there are; `None` if one cannot be read, and so may be any.
fn claims(instance: &Instance) -> Result<Option<HashSet<String>>, Error> {
    let mut claims = HashSet::new();
    for id in Container::list(instance)? {
        match Container::open(instance, &id).and_then(|container| container.holder()) {
            Ok(holder) => drop(claims.insert(holder.claim.to_string())),
            Err(e) if e.code == Code::NotFound => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(claims))
}

fn unlink_unheld(dir: &OwnedFd, name: &str) -> Result<(), Error> {
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(file) if sys::flock(file.as_fd(), true).is_ok() => unlink(dir, name),
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(Error::os(format!("open {name}"), e)),
    }
}

fn unlink(dir: &OwnedFd, name: &str) -> Result<(), Error> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(Error::os(format!("remove {name}"), e)),
    }
}
