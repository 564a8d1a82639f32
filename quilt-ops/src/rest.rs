//! What the kernel still does for a container after it has been removed, and what nobody need wait for.
//!
//! When the last reference to an overlay goes, the kernel writes the whole file system below its upper directory back to
//! the disk (`ovl_sync_fs`, Linux `fs/overlayfs/super.c`), everybody's dirty pages included: 2 ms on an idle disk, a
//! third of a second beside a build. Usually the dying init does that, and whoever waits for init waits for it. For a
//! container whose files are removed anyway, a child keeps the reference instead, and lets it go once nobody waits.
//! Network namespaces are taken apart one after another, up to 20 ms each: the child sees that it happens.

use std::io::{Read, stdin};
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use quilt_record::sys;

use crate::network;

/// A reference to a container's root file system.
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// That of a living process; `None` if it cannot be had, which costs nothing but time.
    pub fn of(pid: i32) -> Option<Root> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(format!("/proc/{pid}/root").as_str(), flags, Mode::empty()).ok().map(|fd| Root { fd })
    }
}

/// What is left of a removed container.
pub struct Rest {
    /// Its root file system.
    pub root: Option<Root>,
    /// The new name of its interface, which will go with its namespace.
    pub link: Option<String>,
}

impl Rest {
    /// Leaves it to a child, which outlives this process for as long as the kernel takes.
    pub fn leave(self) {
        let Ok((told, tell)) = pipe2(OFlag::O_CLOEXEC) else { return };
        let root = self.root.map(|root| root.fd);
        let child = sys::fork(0, None, || {
            // Nothing of the caller's: `out=$(quilt rm …)` would wait for it.
            let held = root.as_ref().unwrap_or(&told).as_fd();
            let Ok(_kept) = sys::keep_only(&[told.as_fd(), held, held]) else { return 1 };
            // Until the parent has closed its own, or the last reference would be that one.
            let _ = stdin().read(&mut [0]);
            self.link.is_some_and(|link| network::finish(&link).is_err()).into()
        });
        drop((child, root));
        drop(tell);
    }
}
