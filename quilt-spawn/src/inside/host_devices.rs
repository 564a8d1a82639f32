//! Nodes in the container's own /dev.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat};

use quilt_record::Error;

use super::{missing, os};
use crate::files::DIR_MODE;
use crate::host_devices::Node;

/// Makes a node, and the directories that it is in. The file system was just made, and nobody else has seen it.
pub(super) fn make(dev: BorrowedFd<'_>, node: &Node) -> Result<(), Error> {
    let name = node.path.file_name().ok_or_else(missing)?;
    let below = node.path.parent().unwrap_or(Path::new(""));
    let mut parent = None;
    for dir in below.ancestors().collect::<Vec<_>>().into_iter().rev().filter(|dir| *dir != Path::new("")) {
        match mkdirat(dev, dir, DIR_MODE) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(os(e)),
        }
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        parent = Some(openat2(dev, dir, OpenHow::new().flags(flags).resolve(resolve)).map_err(os)?);
    }
    let parent = parent.as_ref().map_or(dev, AsFd::as_fd);
    let mode = Mode::from_bits_truncate(node.mode);
    mknodat(parent, name, node.file_type(), mode, makedev(node.major, node.minor)).map_err(os)?;
    match node.owner {
        (0, 0) => Ok(()),
        (uid, gid) => {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(os)
        }
    }
}
