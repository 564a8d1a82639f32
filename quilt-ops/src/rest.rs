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

/// References to what the kernel would take apart on the way of the dying init, while others wait for its end.
#[derive(Default)]
pub struct Held {
    root: Option<OwnedFd>,
    net: Option<OwnedFd>,
}

impl Held {
    /// Those of a living process, as far as they can be had: without one it costs nothing but time.
    pub fn of(pid: i32) -> Held {
        let open = |what: &str, flags: OFlag| {
            open(format!("/proc/{pid}/{what}").as_str(), flags | OFlag::O_CLOEXEC, Mode::empty()).ok()
        };
        Held { root: open("root", OFlag::O_PATH | OFlag::O_DIRECTORY), net: open("ns/net", OFlag::O_RDONLY) }
    }

    /// Lets the network namespace go at once.
    pub fn release_network(&mut self) {
        self.net = None;
    }
}

/// What is left of a removed container.
pub struct Rest {
    /// Its root file system and its network namespace.
    pub held: Held,
    /// The new name of its interface, which will go with its namespace.
    pub link: Option<String>,
}

impl Rest {
    /// Leaves it to a child, which outlives this process for as long as the kernel takes.
    pub fn leave(self) {
        let Ok((told, tell)) = pipe2(OFlag::O_CLOEXEC) else { return };
        let Rest { held, link } = self;
        let child = sys::fork(0, None, || {
            // Nothing of the caller's: `out=$(quilt rm …)` would wait for it.
            let place = told.as_fd();
            let [root, net] = [&held.root, &held.net].map(|fd| fd.as_ref().map_or(place, |fd| fd.as_fd()));
            let Ok(kept) = sys::keep_only(&[place, place, place, root, net]) else { return 1 };
            // Until the parent has closed its own, or the last reference would be that one.
            let _ = stdin().read(&mut [0]);
            drop(kept);
            link.is_some_and(|link| network::finish(&link).is_err()).into()
        });
        drop((child, held));
        drop(tell);
    }
}
