//! What Linux before 5.12 has instead of mount_setattr(2): flags of a mount are set by mounting it anew, each by itself.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use quilt_record::{Code, Error, mountinfo, sys};

use super::{NONE, os, path_of};

/// Sets flags on a mount and on all that is mounted below it, beside those that each has, and makes them private.
pub(super) fn restrict_tree(top: BorrowedFd<'_>, id: u64, set: MsFlags) -> Result<(), Error> {
    mount(NONE, &path_of(top), NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(os)?;
    // The host's own, and of this process's mount namespace.
    let table = mountinfo::read("self")?;
    let mut tree = HashSet::from([id]);
    for entry in mountinfo::mounts(&table) {
        if entry.id != id && !tree.contains(&entry.parent) {
            continue;
        }
        tree.insert(entry.id);
        let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        let mounted = openat2(AT_FDCWD, &*entry.point, how).map_err(os)?;
        if sys::mount_id(mounted.as_fd()).map_err(os)? != entry.id {
            // Below another mount, where nobody gets at it; or somebody moves it about.
            let why = format!("{} is below another mount", entry.point.display());
            return Err(Error::new(Code::Unsupported, "", why));
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | set | flags(mounted.as_fd())?;
        mount(NONE, &path_of(mounted.as_fd()), NONE, flags, NONE).map_err(os)?;
    }
    Ok(())
}

/// The flags that a mount has, which mounting it anew would clear. `relatime` is kept if nothing is said (mount(2)).
pub(super) fn flags(mounted: BorrowedFd<'_>) -> Result<MsFlags, Error> {
    let has = fstatvfs(mounted).map_err(os)?.flags();
    let all = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    Ok(all.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag).collect())
}
