//! The container's cgroups at /sys/fs/cgroup.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::TMPFS_MAGIC;
use nix::unistd::symlinkat;

use quilt_record::{Error, sys};

use super::mounts::{no_links, target, verify};
use super::{DIR, Made, NONE, have, missing, os, path_of};
use crate::files::DIR_MODE;
use crate::plan::cgroups::{BASE, View};

pub(super) fn view(made: &mut Made, step: &View) -> Result<(), Error> {
    match step {
        View::Base => {
            let base = target(made, Path::new(BASE.target))?;
            mount(Some(BASE.fstype), &path_of(base.as_fd()), Some(BASE.fstype), BASE.flags, Some(BASE.data.as_ref()))
                .map_err(os)?;
            let below = BASE.target.strip_prefix("/sys/").ok_or_else(missing)?;
            let mounted = no_links(have(&made.sys)?, below, DIR).map_err(os)?;
            verify(mounted.as_fd(), TMPFS_MAGIC)?;
            made.cgroups = Some(mounted);
            Ok(())
        }
        View::Show { from, at, writable } => show(made, from, at, *writable),
        View::Link { at, to } => {
            symlinkat(to.as_str(), have(&made.cgroups)?, at.file_name().ok_or_else(missing)?).map_err(os)
        }
        View::Seal => remount(have(&made.cgroups)?, MsFlags::empty(), BASE.flags | MsFlags::MS_RDONLY),
    }
}

/// The path is the host's: this comes before pivot_root.
fn show(made: &Made, from: &Path, at: &Path, writable: bool) -> Result<(), Error> {
    let from = CString::new(from.as_os_str().as_bytes()).map_err(|_| missing())?;
    let read_only = if writable { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let attributes = read_only | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let place = match &made.cgroups {
        None => target(made, at)?,
        Some(base) => {
            let name = at.file_name().ok_or_else(missing)?;
            mkdirat(base, name, DIR_MODE).map_err(os)?;
            openat(base, name, DIR | OFlag::O_NOFOLLOW, Mode::empty()).map_err(os)?
        }
    };
    let clone = sys::clone_mount(have(&made.root)?, &from).map_err(os)?;
    let restricted = sys::restrict_mount(clone.as_fd(), attributes);
    let before_5_12 = restricted.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ENOSYS));
    if !before_5_12 {
        restricted.map_err(os)?;
    }
    sys::attach_mount(clone.as_fd(), place.as_fd()).map_err(os)?;
    if before_5_12 {
        let flags = if writable { MsFlags::empty() } else { MsFlags::MS_RDONLY };
        remount(clone.as_fd(), MsFlags::MS_BIND, BASE.flags | flags)?;
    }
    Ok(())
}

fn remount(mounted: BorrowedFd<'_>, kind: MsFlags, flags: MsFlags) -> Result<(), Error> {
    mount(NONE, &path_of(mounted), NONE, kind | MsFlags::MS_REMOUNT | flags, NONE).map_err(os)
}
