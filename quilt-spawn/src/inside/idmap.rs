//! What is different for a container with a user namespace: its layers are copies of the host's mounts that show the
//! container's ids, all that is made for it is its root's, and at the end the child becomes that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, fchownat};

use quilt_record::confine::{User, rlimit};
use quilt_record::error::Step as _;
use quilt_record::idmap::{self, IdMap};
use quilt_record::{Code, Error, sys};

use crate::init::Settings;
use crate::volume::Tree;

use super::{Job, Made, missing, open_dir, os};

/// A container's user namespace.
pub struct Ids {
    /// The namespace.
    pub userns: OwnedFd,
    /// Its ids.
    pub map: IdMap,
}

/// Copies the mount that a layer is on, as the user namespace has it, and attaches the copy where nobody looks: one over
/// the other.
pub(super) fn copy(job: &Job<'_>, made: &mut Made, path: &Path) -> Result<(), Error> {
    let copy = idmap::shifted(open_dir(AT_FDCWD, path)?.as_fd(), ids(job)?.userns.as_fd()).map_err(os)?;
    let copy = copy.ok_or_else(|| Error::new(Code::Unsupported, "", "its file system cannot be idmapped"))?;
    sys::attach_mount(copy.as_fd(), open_dir(AT_FDCWD, job.stage)?.as_fd()).map_err(os)?;
    made.shifted.push(copy);
    Ok(())
}

/// From here on, what this process makes is the container's root's.
pub(super) fn assume_root(job: &Job<'_>) -> Result<(), Error> {
    idmap::assume_root(ids(job)?.map).map_err(os)
}

fn ids<'a>(job: &'a Job<'_>) -> Result<&'a Ids, Error> {
    job.ids.as_ref().ok_or_else(missing)
}

/// Shows the files of a volume by the numbers that they have on the host, as in a container with the host's ids. Where
/// that cannot be done, a note on what they look like instead: nobody's.
pub fn shift_volume(ids: &Ids, tree: &Tree) -> Result<Option<String>, Error> {
    let path = tree.volume.source.display();
    let step = || format!("idmap the volume {path}");
    let userns = ids.userns.as_fd();
    if idmap::shift(&tree.mount, userns, true).step(step)? {
        return Ok(None);
    }
    let what = match idmap::shift(&tree.mount, userns, false).step(step)? {
        true => format!("what is mounted below the volume {path}"),
        false => format!("the volume {path}"),
    };
    Ok(Some(format!("{what} cannot be idmapped: its files are those of users that the container does not have")))
}

/// Refuses a user whom the container has no id for.
pub(super) fn check(ids: Option<&Ids>, user: &User) -> Result<(), Error> {
    let Some(Ids { map, .. }) = ids else { return Ok(()) };
    map.has(user.uid, user.gid, &user.groups)
}

/// Into the user namespace, as its root. It has all capabilities there and none outside, and no securebits.
pub(super) fn enter(job: &Job<'_>) -> Result<(), Error> {
    let ids = ids(job)?;
    rlimit::raise(&Settings::own_rules(job.rules, &job.want.command).rlimits).map_err(os)?;
    setns(&ids.userns, CloneFlags::CLONE_NEWUSER).map_err(os)?;
    idmap::become_root().map_err(os)
}

/// The layers as they are to be mounted: lower ones, and what the names of the writable one are looked up in, which was
/// copied last.
pub(super) fn layers(made: &mut Made) -> Option<(Vec<OwnedFd>, OwnedFd)> {
    let mut lower = std::mem::take(&mut made.shifted);
    let home = lower.pop()?;
    Some((lower, home))
}

/// Makes what the kernel made for the host's root, whoever mounted it, the container's root's.
pub(super) fn give(ids: Option<&Ids>, dir: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    let Some(Ids { map, .. }) = ids else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(map.uid), Gid::from_raw(map.gid));
    fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(os)
}
