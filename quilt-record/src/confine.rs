//! What a process may do once it runs inside: the same for init, for every command and for every probe.
//!
//! [`apply`] is the last thing but exec. It leaves the capabilities that podman leaves (eleven of 41), nothing to
//! inherit them by, no way to gain any (no_new_privs), the groups of the user and no others, a session keyring of its own,
//! and no core dumps. The order in it is the one hard thing: what needs a capability comes before that capability goes.

use std::fmt;
use std::io;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::sys::{self, Capabilities};

pub mod capability;
mod rules;
pub mod user;

pub use capability::CapSet;
pub use rules::{FILTER, Rlimit, Rules, Seccomp};
pub use user::User;

/// The capabilities that are left, by their numbers in `linux/capability.h`: podman's default set.
pub const CAPABILITIES: [(u8, &str); 11] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (8, "CAP_SETPCAP"),
    (10, "CAP_NET_BIND_SERVICE"),
    (18, "CAP_SYS_CHROOT"),
    (31, "CAP_SETFCAP"),
];

/// [`CAPABILITIES`] as the mask that `/proc/PID/status` shows (`CapBnd`).
pub const CAPABILITY_MASK: u64 = mask();

const fn mask() -> u64 {
    let (mut mask, mut i) = (0, 0);
    while i < CAPABILITIES.len() {
        mask |= 1 << CAPABILITIES[i].0;
        i += 1;
    }
    mask
}

/// What a process becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confine {
    /// The user: real, effective, saved.
    pub uid: u32,
    /// The group: real, effective, saved.
    pub gid: u32,
    /// The supplementary groups, all of them.
    pub groups: Vec<u32>,
}

impl Confine {
    /// The confinement of a command that runs as `user`.
    pub fn of(user: &User) -> Confine {
        Confine { uid: user.uid, gid: user.gid, groups: user.groups.clone() }
    }
}

impl fmt::Display for Confine {
    /// One line, as a dry run prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "become {}:{} groups {:?}", self.uid, self.gid, self.groups)?;
        let caps = if self.uid == 0 { CAPABILITY_MASK } else { 0 };
        write!(f, ", capabilities {caps:#x} bounded by {CAPABILITY_MASK:#x}, no_new_privs")
    }
}

/// Confines this process, which must have one thread and be about to exec.
///
/// - Needs the initial capabilities CAP_SETPCAP, CAP_SETUID and CAP_SETGID, so comes after every mount and setns.
/// - For root the eleven are permitted and effective; for any other user none is (as execve(2) would leave it), but the
///   bounding set is the same.
/// - The process is not dumpable from here to exec, which makes it so again: nobody inside can ptrace it or look at its
///   descriptors meanwhile (CVE-2016-9962). Whoever enters namespaces sets that before the first setns, too.
/// - The kernel forgets a parent-death signal when credentials change: ask for it after this, not before.
pub fn apply(confine: &Confine) -> io::Result<()> {
    sys::set_dumpable(false)?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    sys::join_new_session_keyring()?;
    sys::bound_capabilities(CAPABILITY_MASK)?;
    sys::set_user(confine.uid, confine.gid, &confine.groups)?;
    // Lowering the inheritable set lowers the ambient one with it (capabilities(7)).
    let mask = if confine.uid == 0 { CAPABILITY_MASK } else { 0 };
    sys::set_capabilities(Capabilities { effective: mask, permitted: mask, inheritable: 0 })?;
    sys::set_no_new_privs()?;
    // A change of credentials sets it to fs.suid_dumpable, which may be 1.
    sys::set_dumpable(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_podmans() {
        assert_eq!(CAPABILITY_MASK, 0x8004_05fb);
        let text = Confine { uid: 5, gid: 6, groups: vec![7] }.to_string();
        assert_eq!(text, "become 5:6 groups [7], capabilities 0x0 bounded by 0x800405fb, no_new_privs");
    }
}
