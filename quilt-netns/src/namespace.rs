//! Being in a container's network namespace, and back.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns};
use quilt_record::{Error, Step as _};

use crate::netlink::Netlink;
use crate::step::Step;

/// The thread is in the container's network namespace; it goes back when this goes, if it did not before.
pub(crate) struct Visit {
    pub home: Option<OwnedFd>,
}

impl Visit {
    pub fn own() -> Result<OwnedFd, Error> {
        File::open("/proc/thread-self/ns/net").map(OwnedFd::from).step(|| "open the network namespace")
    }

    pub fn end(mut self) -> Result<(), Error> {
        let Some(home) = self.home.take() else { return Ok(()) };
        setns(home, CloneFlags::CLONE_NEWNET).step(|| Step::Return.to_string())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // Only after an error, which is what the caller reports.
        let _ = self.home.take().map(|home| setns(home, CloneFlags::CLONE_NEWNET));
    }
}

/// The container's network namespace, once it is made.
pub(crate) struct Namespace {
    pub net: OwnedFd,
    pub socket: Netlink,
}
