//! Volumes and file systems in memory, once they have a place to be mounted on.

use std::os::fd::AsFd;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use quilt_record::{Error, sys};

use super::{Job, Made, NONE, missing, old, os, path_of, targets};
use crate::tmpfs::Tmpfs;
use crate::volume::Volume;

/// Attaches the copy of the source that was made for it.
pub(super) fn volume(job: &Job<'_>, made: &mut Made, volume: &Volume) -> Result<(), Error> {
    let tree = job.volumes.iter().find(|tree| tree.volume == *volume).ok_or_else(missing)?;
    let place = targets::find(made, &volume.target, tree.is_dir)?;
    sys::attach_mount(tree.as_fd(), place.as_fd()).map_err(os)?;
    // The descriptor of the copy is one of the mount that it has become.
    let id = sys::mount_id(tree.as_fd()).map_err(os)?;
    if !tree.restricted {
        let read_only = if volume.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        old::restrict_tree(tree.as_fd(), id, read_only | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    }
    targets::note(made, &volume.target, |_, there| Ok(there == id))
}

/// Mounts an empty file system.
pub(super) fn tmpfs(made: &mut Made, tmpfs: &Tmpfs) -> Result<(), Error> {
    let place = targets::find(made, &tmpfs.target, true)?;
    let before = sys::mount_id(place.as_fd()).map_err(os)?;
    let on = path_of(place.as_fd());
    mount(Some("tmpfs"), &on, Some("tmpfs"), tmpfs.flags, Some(tmpfs.data.as_str())).map_err(os)?;
    targets::note(made, &tmpfs.target, |there, id| {
        Ok(id != before && fstatfs(there).map_err(os)?.filesystem_type() == TMPFS_MAGIC)
    })
}

/// Makes the root read-only: the mount, not the file system, which is also that of the layer on the host.
pub(super) fn read_only_root(made: &Made) -> Result<(), Error> {
    let root = super::have(&made.root)?;
    match sys::restrict_mount(root, libc::MOUNT_ATTR_RDONLY) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {}
        other => return other.map_err(os),
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | old::flags(root)?;
    mount(NONE, &path_of(root), NONE, flags, NONE).map_err(os)
}
