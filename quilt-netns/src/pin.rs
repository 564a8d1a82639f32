//! Pins: a namespace lives as long as a file is bound to it, so netns binds it to `<run>/ns/ID` until spawn has entered
//! it. They are in a tmpfs of their own with private propagation: a mount namespace that is cloned from a shared one
//! later gets no copies of them.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use quilt_record::{Error, Id, Instance, Step, lock};

/// The directory of the pins.
pub fn dir(instance: &Instance) -> PathBuf {
    instance.run().join("ns")
}

/// The pin of a container's network namespace.
pub fn net(instance: &Instance, id: &Id) -> PathBuf {
    dir(instance).join(id.as_str())
}

/// The pin of a container's user namespace. No id has an `@` in it.
pub fn user(instance: &Instance, id: &Id) -> PathBuf {
    dir(instance).join(format!("user@{id}"))
}

/// Stands in the tmpfs when it is mounted and private; goes with it. One look at it says that there is nothing to do.
fn marker(instance: &Instance) -> PathBuf {
    dir(instance).join(".private")
}

pub(crate) fn is_mounted(instance: &Instance) -> bool {
    marker(instance).exists()
}

/// Mounts the tmpfs, unless somebody else just did.
pub(crate) fn mount_dir(instance: &Instance) -> Result<(), Error> {
    let dir = dir(instance);
    let step = || format!("mount a tmpfs on {}", dir.display());
    let path = instance.run().join("ns.lock");
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path).step(step)?;
    lock::acquire(file.as_fd(), Duration::from_secs(10), "the directory of pinned namespaces")?;
    if is_mounted(instance) {
        return Ok(());
    }
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::os(step(), e)),
        _ => {}
    }
    if fs::metadata(&dir).step(step)?.dev() == fs::metadata(instance.run()).step(step)?.dev() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("quilt"), &dir, Some("tmpfs"), flags, Some("mode=0700,size=1m")).step(step)?;
    }
    mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).step(step)?;
    File::create(marker(instance)).step(step).map(drop)
}

/// Binds the namespace behind `fd` to `path`. A pin that an earlier try left there goes first.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let create = || File::options().write(true).create_new(true).mode(0o600).open(path);
    match create() {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            remove(path)?;
            create()?;
        }
        made => drop(made?),
    }
    let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn remove(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: nothing is mounted there.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Removes the container's pins, if there are any: idempotent. Once spawn has entered, or to undo.
pub fn unpin(instance: &Instance, id: &Id) -> Result<(), Error> {
    for path in [net(instance, id), user(instance, id)] {
        remove(&path).step(|| format!("unpin {}", path.display()))?;
    }
    Ok(())
}

/// Unmounts the tmpfs with all that is in it.
pub(crate) fn unmount_dir(instance: &Instance) -> Result<(), Error> {
    let dir = dir(instance);
    let step = || format!("unmount {}", dir.display());
    loop {
        match umount2(&dir, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(e) => return Err(Error::os(step(), e)),
        }
    }
    match fs::remove_dir(&dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::os(step(), e)),
        _ => Ok(()),
    }
}
