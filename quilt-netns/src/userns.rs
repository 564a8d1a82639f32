//! A user namespace, alone or with a network namespace that belongs to it. That must be made by a process inside the user
//! namespace, or the container's root has no rights over its network: no low ports, no raw sockets, no sysfs.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getppid, pause};

use quilt_record::idmap::IdMap;
use quilt_record::{Code, Error, Step, sys};

/// The namespaces, held by descriptors.
pub(crate) struct Made {
    pub user: OwnedFd,
    pub net: Option<OwnedFd>,
}

/// The same as [`make`], where it is known that it could be done.
pub(crate) fn make_known(map: IdMap, net: bool) -> Result<Made, Error> {
    make(map, net).map_err(|e| match refusal(&e, map) {
        Some(why) => Error { code: Code::Unsupported, message: why, ..e },
        None => e,
    })
}

/// Makes a user namespace in a child that does nothing else, and maps the ids; with a network namespace if `net`.
pub(crate) fn make(map: IdMap, net: bool) -> Result<Made, Error> {
    let step = || match net {
        true => "make a user namespace that owns a network namespace".to_owned(),
        false => "make a user namespace".to_owned(),
    };
    let parent = Pid::this();
    let flags = if net { libc::CLONE_NEWUSER | libc::CLONE_NEWNET } else { libc::CLONE_NEWUSER };
    let child = sys::fork(flags as u64, None, || {
        let asked = sys::set_parent_death_signal(Some(Signal::SIGKILL));
        while asked.is_ok() && getppid() == parent {
            pause();
        }
        1
    });
    let child = child.step(step)?;
    let made = || -> Result<Made, Error> {
        let proc = format!("/proc/{}", child.pid);
        // The caller has CAP_SETUID and CAP_SETGID in the parent namespace, so setgroups(2) may stay allowed inside.
        for (file, first) in [("uid_map", map.uid), ("gid_map", map.gid)] {
            let path = format!("{proc}/{file}");
            let text = format!("0 {first} {}\n", map.size);
            let mapped = File::options().write(true).open(&path);
            mapped
                .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
                .step(|| format!("write {path}"))?;
        }
        let open = |name: &str| File::open(format!("{proc}/ns/{name}")).map(OwnedFd::from).step(step);
        Ok(Made { user: open("user")?, net: if net { Some(open("net")?) } else { None } })
    }();
    let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), Signal::SIGKILL);
    let _ = waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL));
    let made = made?;
    if let Some(net) = &made.net {
        let owner = fstat(sys::owning_user_namespace(net.as_fd()).step(step)?).step(step)?;
        let user = fstat(&made.user).step(step)?;
        if (owner.st_dev, owner.st_ino) != (user.st_dev, user.st_ino) {
            return Err(Error::new(Code::Internal, step(), "the network namespace belongs to another user namespace"));
        }
    }
    Ok(made)
}

/// Why this machine has no user namespaces for containers, if it is that which `error` of [`make`] says.
pub(crate) fn refusal(error: &Error, map: IdMap) -> Option<String> {
    const MOST: &str = "/proc/sys/user/max_user_namespaces";
    match error.errno? {
        libc::EINVAL | libc::ENOSYS => Some("this kernel has no user namespaces".to_owned()),
        libc::EPERM => {
            Some(format!("Quilt may not make one with the ids {map} (is it in a chroot, or in a container itself?)"))
        }
        libc::ENOSPC if fs::read_to_string(MOST).is_ok_and(|most| most.trim() == "0") => Some(format!("{MOST} is 0")),
        _ => None,
    }
}
