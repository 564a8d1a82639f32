//! User namespaces of containers: which ids of the host are whose, and how files come to have the container's.
//!
//! Root inside is an id of the host that nobody has (user_namespaces(7)). The files of an image must not be that id's on
//! the disk, or every container would need a copy: a copy of the mount says which id stands for which (mount_setattr(2),
//! "ID-mapped mounts"), and the ids on the disk stay those that the container sees.
//!
//! The one hard thing: overlayfs works on its layers with the credentials of whoever mounted it. It must be mounted in the
//! host's user namespace, or it writes another format; and by one whose files are the container's root's, or every write
//! fails. So the mounting process takes on that id for files alone ([`assume_root`]), and keeps its capabilities.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::sys;

/// Which ids of the host the ids 0 to `size - 1` of a user namespace are (user_namespaces(7)). As text `UID:GID:SIZE`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct IdMap {
    /// The host's uid of the container's root.
    pub uid: u32,
    /// The host's gid of the container's root group.
    pub gid: u32,
    /// How many ids.
    pub size: u32,
}

impl IdMap {
    /// Whether the ids are ids, and none of them is the host's root.
    pub fn check(self) -> Result<IdMap, String> {
        // 4294967295 is nobody's: it is the -1 of the system calls (setresuid(2)).
        let fits = |first: u32| first.checked_add(self.size).is_some();
        if self.size == 0 || !fits(self.uid) || !fits(self.gid) {
            return Err(format!("{self}: UID + SIZE and GID + SIZE must be 1 to 4294967295"));
        }
        if self.uid == 0 || self.gid == 0 {
            return Err(format!("{self}: that would make root inside the host's root, which is what `host` is for"));
        }
        Ok(self)
    }

    /// The host's uid of a user of the container's.
    pub fn uid(self, inside: u32) -> Option<u32> {
        (inside < self.size).then(|| self.uid + inside)
    }

    /// The host's gid of a group of the container's.
    pub fn gid(self, inside: u32) -> Option<u32> {
        (inside < self.size).then(|| self.gid + inside)
    }

    /// Refuses a user, by its ids, groups too, that the container has not.
    pub fn has(self, uid: u32, gid: u32, groups: &[u32]) -> Result<(), Error> {
        match [uid, gid].into_iter().chain(groups.iter().copied()).max().filter(|id| *id >= self.size) {
            Some(id) => {
                let why = format!("the id {id} is not among the container's {} ids (--userns)", self.size);
                Err(Error::new(Code::Invalid, "", why))
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.uid, self.gid, self.size)
    }
}

impl FromStr for IdMap {
    type Err = String;

    fn from_str(text: &str) -> Result<IdMap, String> {
        let number = |n: &str| n.parse().ok().filter(|_| !n.starts_with('+'));
        let numbers: Vec<Option<u32>> = text.split(':').map(number).collect();
        match numbers[..] {
            [Some(uid), Some(gid), Some(size)] => IdMap { uid, gid, size }.check(),
            _ => Err(format!("`{text}` is not UID:GID:SIZE, as in 200000:200000:65536")),
        }
    }
}

/// A copy of the mount that `dir` is on, from there on, whose files are owned as `userns` says. Detached; it stays behind
/// the descriptor wherever it is attached. `None` if this kernel or this file system cannot do that.
pub fn shifted(dir: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let made = sys::clone_mount(dir, c"").and_then(|copy| shift(&copy, userns, false).map(|can| can.then_some(copy)));
    match made {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(None),
        made => made,
    }
}

/// Makes the files of a detached mount owned as `userns` says; with `tree`, of all mounts below it as well. False, and
/// nothing has changed, if this kernel or a file system cannot do that, or a mount is another user namespace's already.
pub fn shift(mount: &OwnedFd, userns: BorrowedFd<'_>, tree: bool) -> io::Result<bool> {
    match sys::idmap_mount(mount.as_fd(), userns, tree) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The directory that the writable layer and overlayfs' work directory are in, and their names there: they must be on one
/// mount, so that is what is copied for them.
pub fn home<'a>(upper: &'a Path, work: &'a Path) -> Result<(&'a Path, [&'a Path; 2]), Error> {
    let parts = |path: &'a Path| path.parent().zip(path.file_name().map(Path::new));
    match (parts(upper), parts(work)) {
        (Some((home, upper)), Some((same, work))) if home == same => Ok((home, [upper, work])),
        _ => {
            let message = format!("{} and {} are not in one directory", upper.display(), work.display());
            Err(Error::new(Code::Invalid, "read `unpack.have` of the record", message))
        }
    }
}

/// What this process makes, and looks for, in a file system is the container's root's from here on; its capabilities stay
/// as they are. For a child that will enter the user namespace, which puts the securebits back, or end.
///
/// The kernel forgets a parent-death signal and the mark "not dumpable" at this: both are set again.
pub fn assume_root(map: IdMap) -> io::Result<()> {
    sys::keep_capabilities()?;
    sys::set_fs_ids(map.uid, map.gid)?;
    sys::set_dumpable(false)?;
    sys::set_parent_death_signal(Some(Signal::SIGKILL))
}

/// For a process that has entered the user namespace: its root, instead of a user that it has no number for. What is made
/// from here on can be given away. Confinement comes later, and takes what this process can do.
pub fn become_root() -> io::Result<()> {
    sys::set_user(0, 0, &[])?;
    // Which the change of ids undid.
    sys::set_dumpable(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_strictly() {
        let map = IdMap { uid: 100_000, gid: 200_000, size: 65_536 };
        assert_eq!("100000:200000:65536".parse(), Ok(map));
        assert_eq!(map.to_string().parse(), Ok(map));
        assert_eq!((map.uid(0), map.gid(65_535), map.uid(65_536)), (Some(100_000), Some(265_535), None));
        for bad in [
            "",
            "1",
            "1:1",
            "1:1:1:1",
            "a:1:1",
            "+1:1:1",
            "1:1:0",
            "0:1:1",
            "1:0:1",
            "1:1:4294967295",
            "4294967295:1:1",
        ] {
            assert!(bad.parse::<IdMap>().is_err(), "{bad}");
        }
        assert!("1:1:4294967294".parse::<IdMap>().is_ok());
    }
}
