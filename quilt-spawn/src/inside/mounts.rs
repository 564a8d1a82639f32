//! The mounts inside the root, each onto a descriptor of what is really there.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, makedev, mkdirat};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC, TMPFS_MAGIC, fstatfs};

use quilt_record::defence::out;
use quilt_record::{Code, Error, sys};

use super::idmap::{self, Ids};
use super::{DIR, Made, NONE, have, missing, os, path_of};
use crate::files::DIR_MODE;
use crate::plan::{EMPTY, Mount};

const ANY: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Mounts a file system of the kernel.
pub(super) fn mount_one(ids: Option<&Ids>, made: &mut Made, what: &Mount) -> Result<(), Error> {
    let mount_on = |target: &Path| {
        let data = Some(&*what.data).filter(|data| !data.is_empty());
        mount(Some(what.fstype), target, Some(what.fstype), what.flags, data).map_err(os)
    };
    if let Some(name) = what.target.strip_prefix("/dev/") {
        // In a directory that was just made, in a file system that nobody else has seen.
        let dev = have(&made.dev)?;
        mkdirat(dev, name, DIR_MODE).map_err(os)?;
        mount_on(&path_of(dev).join(name))?;
        // Those that do not belong to whoever mounted them.
        return if matches!(what.fstype, "devpts" | "mqueue") { idmap::give(ids, dev, name) } else { Ok(()) };
    }
    let root = have(&made.root)?;
    let name = what.target.trim_start_matches('/');
    let target = mountpoint(root, name)?;
    mount_on(&path_of(target.as_fd()))?;
    let mounted = no_links(root, name, DIR).map_err(os)?;
    let (magic, place) = match what.fstype {
        "proc" => (PROC_SUPER_MAGIC, &mut made.proc),
        "sysfs" => (SYSFS_MAGIC, &mut made.sys),
        _ => (TMPFS_MAGIC, &mut made.dev),
    };
    verify(mounted.as_fd(), magic)?;
    *place = Some(mounted);
    Ok(())
}

pub(super) fn verify(fd: BorrowedFd<'_>, magic: FsType) -> Result<(), Error> {
    if fstatfs(fd).map_err(os)?.filesystem_type() == magic {
        return Ok(());
    }
    Err(Error::new(Code::Internal, "", "it is not what is there now"))
}

/// Opens a path without following any link.
pub(super) fn no_links(dir: BorrowedFd<'_>, path: impl AsRef<Path>, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let resolve = if out("mount-target") { ResolveFlag::empty() } else { resolve };
    openat2(dir, path.as_ref(), OpenHow::new().flags(flags).resolve(resolve))
}

/// A directory of the image to mount on, made if it is not there; nothing else will do.
fn mountpoint(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Error> {
    match no_links(root, name, DIR) {
        Err(Errno::ENOENT) => {
            mkdirat(root, name, DIR_MODE).map_err(os)?;
            no_links(root, name, DIR).map_err(os)
        }
        Err(Errno::ELOOP | Errno::ENOTDIR) => {
            let kind = fstatat(root, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|found| found.st_mode);
            let kind = match kind.map(|mode| mode & SFlag::S_IFMT.bits()) {
                Ok(mode) if mode == SFlag::S_IFLNK.bits() => "a symlink",
                Ok(mode) if mode == SFlag::S_IFREG.bits() => "a file",
                Ok(mode) if mode == SFlag::S_IFIFO.bits() => "a fifo",
                Ok(mode) if mode == SFlag::S_IFSOCK.bits() => "a socket",
                _ => "something else",
            };
            let message = format!("/{name} of the image must be a directory or missing, and is {kind}");
            Err(Error::new(Code::Invalid, "", message))
        }
        other => other.map_err(os),
    }
}

/// Opens what is below /proc, /sys or elsewhere in the root, staying on the mount that was put there.
pub(super) fn target(made: &Made, path: &Path) -> Result<OwnedFd, Error> {
    let below = |top: &str| path.strip_prefix(top).ok();
    let (dir, rest) = match (below("/proc"), below("/sys")) {
        (Some(rest), _) => (have(&made.proc)?, rest),
        (_, Some(rest)) => (have(&made.sys)?, rest),
        _ => (have(&made.root)?, path.strip_prefix("/").unwrap_or(path)),
    };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    openat2(dir, rest, OpenHow::new().flags(ANY).resolve(resolve)).map_err(os)
}

pub(super) fn mask_file(made: &mut Made, path: &Path) -> Result<(), Error> {
    if made.null.is_none() {
        made.null = Some(null(have(&made.dev)?)?);
    }
    let null = path_of(have(&made.null)?);
    let target = target(made, path)?;
    mount(Some(&null), &path_of(target.as_fd()), NONE, MsFlags::MS_BIND, NONE).map_err(os)
}

/// The container's null device, which is what everything trusts it to be.
pub(super) fn null(dev: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let null = openat(dev, "null", OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).map_err(os)?;
    let found = fstat(&null).map_err(os)?;
    if is_null(&found) || out("null-check") {
        return Ok(null);
    }
    Err(Error::new(Code::Internal, "", "/dev/null is not the null device"))
}

fn is_null(found: &FileStat) -> bool {
    found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFCHR.bits() && found.st_rdev == makedev(1, 3)
}

/// What is to be hidden of the image is not there: on another file system than it, so an empty directory already.
fn may_be_missing(path: &Path) -> bool {
    !path.starts_with("/proc") && !path.starts_with("/sys")
}

pub(super) fn mask_dir(made: &mut Made, path: &Path) -> Result<(), Error> {
    let target = match target(made, path) {
        Err(e) if e.errno == Some(libc::ENOENT) && may_be_missing(path) => return Ok(()),
        other => other?,
    };
    let place = path_of(target.as_fd());
    match &made.empty {
        Some(empty) => mount(Some(&path_of(empty.as_fd())), &place, NONE, MsFlags::MS_BIND, NONE).map_err(os),
        None => {
            mount(Some(EMPTY.fstype), &place, Some(EMPTY.fstype), EMPTY.flags, Some(&*EMPTY.data)).map_err(os)?;
            let dir = have(match path {
                path if path.starts_with("/proc") => &made.proc,
                path if path.starts_with("/sys") => &made.sys,
                _ => &made.root,
            })?;
            let below = ["/proc", "/sys", "/"].iter().find_map(|top| path.strip_prefix(top).ok()).unwrap_or(path);
            let mounted = no_links(dir, below, DIR).map_err(os)?;
            verify(mounted.as_fd(), TMPFS_MAGIC)?;
            made.empty = Some(mounted);
            Ok(())
        }
    }
}

/// Looks, when all is mounted, whether each mask is what everything trusts it to be: the null device, or the empty
/// directory (CVE-2025-31133). One call for each.
pub(super) fn check_masks(made: &Made, files: &[PathBuf], dirs: &[PathBuf]) -> Result<(), Error> {
    if out("mask-check") {
        return Ok(());
    }
    let at = |path: &Path| {
        let (dir, rest) = match (path.strip_prefix("/proc"), path.strip_prefix("/sys")) {
            (Ok(rest), _) => (have(&made.proc)?, rest),
            (_, Ok(rest)) => (have(&made.sys)?, rest),
            // The image's own paths may be anything.
            _ => return fstat(no_links(have(&made.root)?, path, ANY).map_err(os)?).map_err(os),
        };
        fstatat(dir, rest, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(os)
    };
    let uncovered = |path: &Path| {
        let why = format!("{} is not covered by what was put there", path.display());
        Error::new(Code::Internal, "", why)
    };
    for path in files {
        let found = at(path)?;
        if !is_null(&found) {
            return Err(uncovered(path));
        }
    }
    let Some(empty) = &made.empty else { return Ok(()) };
    let empty = fstat(empty).map_err(os)?;
    for path in dirs {
        match at(path) {
            Ok(found) if (found.st_dev, found.st_ino) == (empty.st_dev, empty.st_ino) => {}
            Err(e) if e.errno == Some(libc::ENOENT) && may_be_missing(path) => {}
            other => return other.and_then(|_| Err(uncovered(path))),
        }
    }
    Ok(())
}

/// Puts a read-only copy of the mount over the path.
pub(super) fn read_only(made: &Made, path: &Path) -> Result<(), Error> {
    let target = target(made, path)?;
    let attributes =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let copied = sys::clone_mount(target.as_fd(), c"").and_then(|clone| {
        sys::restrict_mount(clone.as_fd(), attributes)?;
        sys::attach_mount(clone.as_fd(), target.as_fd())
    });
    match copied {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {}
        other => return other.map_err(os),
    }
    // Before Linux 5.12: a bind, and that bind mounted anew, which must be opened for it.
    let place = path_of(target.as_fd());
    mount(Some(&place), &place, NONE, MsFlags::MS_BIND, NONE).map_err(os)?;
    let rest = path.strip_prefix("/proc").map_err(|_| missing())?;
    let bound = no_links(have(&made.proc)?, rest, ANY).map_err(os)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | EMPTY.flags;
    mount(NONE, &path_of(bound.as_fd()), NONE, flags, NONE).map_err(os)
}
