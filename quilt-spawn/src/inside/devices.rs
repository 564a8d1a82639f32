//! Devices of the host in the container's own /dev, which nobody has written to but Quilt.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use quilt_record::Error;
use quilt_record::have::Device;

use super::{DIR, Made, have, missing, os};
use crate::files::DIR_MODE;

/// Makes the node, with its owner and mode as on the host, in place of one that was made for everybody; and what is
/// missing of the directories above.
pub(super) fn node(made: &Made, device: &Device) -> Result<(), Error> {
    let below = Path::new(&device.path).strip_prefix("/dev").map_err(|_| missing())?;
    let name = below.file_name().ok_or_else(missing)?;
    let mut dir: Option<OwnedFd> = None;
    for parent in below.parent().into_iter().flat_map(Path::iter) {
        let at = dir.as_ref().map_or_else(|| have(&made.dev), |dir| Ok(dir.as_fd()))?;
        match mkdirat(at, parent, DIR_MODE) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(os(e)),
        }
        dir = Some(openat(at, parent, DIR | OFlag::O_NOFOLLOW, Mode::empty()).map_err(os)?);
    }
    let at = dir.as_ref().map_or_else(|| have(&made.dev), |dir| Ok(dir.as_fd()))?;
    let kind = if device.kind == 'b' { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    let make = || {
        let mode = Mode::from_bits_truncate(device.mode);
        mknodat(at, name, kind, mode, makedev(device.major.into(), device.minor.into()))
    };
    match make() {
        Err(Errno::EEXIST) => {
            unlinkat(at, name, UnlinkatFlags::NoRemoveDir).map_err(os)?;
            make().map_err(os)?;
        }
        made => made.map_err(os)?,
    }
    if (device.uid, device.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        fchownat(at, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(os)?;
    }
    Ok(())
}
