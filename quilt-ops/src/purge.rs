//! `quilt gc --purge`: the end of an instance, with all its containers and images.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use quilt_record::error::{classify, complain};
use quilt_record::{Code, Container, Error, Instance, Step, readonly};
use quilt_unpack::tree;

use crate::{network, remove};

/// What the state directory has of Quilt; a file of anybody else's in it stays.
const STATE: [&str; 5] = ["containers", "images", "run", "subnet", "userns-range"];

/// Removes every container, then all else that belongs to the instance: images, bridges, firewall table, cgroups,
/// mounts, directories. Stops at the first container that cannot be removed.
pub fn purge(instance: &Instance) -> anyhow::Result<()> {
    let mut failed = None;
    for id in Container::list(instance)? {
        if let Err(error) = remove::remove(instance, &id, true) {
            let error = classify(&error);
            // Somebody else was quicker.
            if error.code == Code::NotFound {
                continue;
            }
            complain("quilt-gc", &error);
            failed.get_or_insert(error);
        }
    }
    if let Some(error) = failed {
        return Err(Error { step: "purge the instance".to_owned(), ..error }.into());
    }
    network::teardown(instance)?;
    quilt_cgroup::remove_parent(instance)?;
    for mount in [readonly::bound(instance), instance.run().join("ns")] {
        // As many as were stacked there.
        while umount2(&mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
    }
    if instance.run().parent() != Some(instance.state()) {
        clear(instance.run(), None)?;
    }
    Ok(clear(instance.state(), Some(&STATE))?)
}

/// Removes a directory with the named entries, or with all.
fn clear(dir: &Path, names: Option<&[&str]>) -> Result<(), Error> {
    let step = || format!("remove {}", dir.display());
    let name = |path: &Path| path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    match names {
        None => {
            let Some(parent) = dir.parent().and_then(|p| open_dir(p).ok()) else { return Ok(()) };
            tree::remove(parent.as_fd(), &name(dir))
        }
        Some(names) => {
            let fd = match open_dir(dir) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => return Ok(()),
                Err(e) => return Err(Error::os(step(), e)),
            };
            for name in names {
                tree::remove(fd.as_fd(), name)?;
            }
            match fs::remove_dir(dir) {
                // Somebody else's file is in it; or it is a mount point, and that is somebody else's.
                Err(e) if matches!(e.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy) => Ok(()),
                other => other.step(step),
            }
        }
    }
}

fn open_dir(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
}
