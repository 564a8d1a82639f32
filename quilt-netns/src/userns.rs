//! A network namespace that belongs to a user namespace. It must be made by a process inside the user namespace, or the
//! container's root has no rights over its network: no low ports, no raw sockets, no sysfs.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getppid, pause};

use quilt_record::{Code, Error, Step, sys};

use crate::want::IdMap;

/// The two namespaces, held by descriptors.
pub(crate) struct Pair {
    pub user: OwnedFd,
    pub net: OwnedFd,
}

/// Makes the pair in a child that does nothing else, and maps the ids.
pub(crate) fn make(map: IdMap) -> Result<Pair, Error> {
    let step = || "make a user namespace that owns a network namespace".to_owned();
    let parent = Pid::this();
    let flags = (libc::CLONE_NEWUSER | libc::CLONE_NEWNET) as u64;
    let child = sys::fork(flags, None, || {
        let asked = sys::set_parent_death_signal(Some(Signal::SIGKILL));
        while asked.is_ok() && getppid() == parent {
            pause();
        }
        1
    })
    .step(step)?;
    let pair = || -> Result<Pair, Error> {
        let proc = format!("/proc/{}", child.pid);
        // The caller has CAP_SETUID and CAP_SETGID in the parent namespace, so setgroups(2) may stay allowed inside.
        for (file, first) in [("uid_map", map.uid), ("gid_map", map.gid)] {
            let path = format!("{proc}/{file}");
            fs::write(&path, format!("0 {first} {}\n", map.size)).step(|| format!("write {path}"))?;
        }
        let open = |name: &str| File::open(format!("{proc}/ns/{name}")).map(OwnedFd::from).step(step);
        Ok(Pair { user: open("user")?, net: open("net")? })
    }();
    let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), Signal::SIGKILL);
    let _ = waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL));
    let pair = pair?;
    let owner = fstat(sys::owning_user_namespace(pair.net.as_fd()).step(step)?).step(step)?;
    let user = fstat(&pair.user).step(step)?;
    if (owner.st_dev, owner.st_ino) != (user.st_dev, user.st_ino) {
        return Err(Error::new(Code::Internal, step(), "the network namespace belongs to another user namespace"));
    }
    Ok(pair)
}
