//! What a process may do once it runs inside: the same for init, for every command and for every probe.
//!
//! [`apply`] and [`seal`] are the last things but exec. They leave the capabilities that the container's rules name (by
//! default the eleven that podman leaves, of 41), nothing to inherit them by, no way to gain any (no_new_privs), the groups
//! of the user and no others, a session keyring of its own, the container's resource limits, no core dumps, and the system
//! calls of the filter. The order in it is the one hard thing: what needs a capability comes before that capability goes,
//! and what the filter may refuse before the filter.

use std::borrow::Cow;
use std::fmt;
use std::io;

use nix::sys::stat::{Mode, umask};

use crate::defence::out;
use crate::sys::{self, Capabilities};

pub mod capability;
pub mod filter;
pub mod rlimit;
mod rules;
pub mod starting;
mod status;
pub mod user;

pub use capability::CapSet;
pub use rlimit::Rlimit;
pub use rules::{FILTER, Rules, Seccomp};
pub use status::Status;
pub use user::User;

/// What a process becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confine {
    /// The user: real, effective, saved.
    pub uid: u32,
    /// The group: real, effective, saved.
    pub gid: u32,
    /// The supplementary groups, all of them.
    pub groups: Vec<u32>,
    /// What all processes of the container are held to.
    pub rules: Rules,
    /// The filter of system calls, `struct sock_filter`s; none if there is to be none, or one was inherited.
    pub filter: Option<Cow<'static, [u8]>>,
}

impl Confine {
    /// The confinement of a command that runs as `user`.
    pub fn of(user: &User, rules: &Rules, filter: Option<Cow<'static, [u8]>>) -> Confine {
        Confine { uid: user.uid, gid: user.gid, groups: user.groups.clone(), rules: rules.clone(), filter }
    }

    /// The capabilities that it has, permitted and effective: root has all that are left, any other user none, as
    /// execve(2) would leave it.
    fn capabilities(&self) -> CapSet {
        if self.uid == 0 { self.rules.capabilities } else { CapSet(0) }
    }
}

impl fmt::Display for Confine {
    /// One line, as a dry run prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "become {}:{} groups {:?}, {}", self.uid, self.gid, self.groups, self.rules)
    }
}

/// Confines this process, which must have one thread and be about to [`seal`] and exec.
///
/// - Needs CAP_SETPCAP, CAP_SETUID and CAP_SETGID in its user namespace, so comes after every mount and setns.
/// - For root the capabilities of the rules are permitted and effective; for any other user none is, but the bounding set
///   is the same.
/// - The process is not dumpable from here to exec, which makes it so again: nobody inside can ptrace it or look at its
///   descriptors meanwhile (CVE-2016-9962). Whoever enters namespaces sets that before the first setns, too.
/// - The kernel forgets a parent-death signal when credentials change: ask for it after this, not before.
pub fn apply(confine: &Confine) -> io::Result<()> {
    let rules = &confine.rules;
    sys::set_dumpable(false)?;
    if !out("umask") {
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
    }
    if !out("rlimits") {
        rlimit::set(&rules.rlimits)?;
    }
    // Without no_new_privs the kernel takes a filter from CAP_SYS_ADMIN only (seccomp(2)), which is about to go.
    if !new_privs_refused(rules) {
        install(confine)?;
    }
    if !out("capabilities") {
        sys::bound_capabilities(rules.capabilities.0)?;
    }
    sys::set_user(confine.uid, confine.gid, &confine.groups)?;
    if !out("capabilities") {
        // Lowering the inheritable set lowers the ambient one with it (capabilities(7)).
        let CapSet(mask) = confine.capabilities();
        sys::set_capabilities(Capabilities { effective: mask, permitted: mask, inheritable: 0 })?;
    }
    if new_privs_refused(rules) {
        sys::set_no_new_privs()?;
    }
    // A change of credentials sets it to fs.suid_dumpable, which may be 1.
    sys::set_dumpable(false)
}

/// A session keyring of its own, for what enters a container. As the host's root, so before the container's user
/// namespace: there it would count against the 200 that a user may have (keyrings(7)), and a container with as many commands
/// would get no more.
pub fn leave_keyring() -> io::Result<()> {
    if out("keyring") { Ok(()) } else { sys::join_new_session_keyring() }
}

/// Gives up all capabilities but those, for good.
pub fn narrow(CapSet(mask): CapSet) -> io::Result<()> {
    let CapSet(now) = CapSet(sys::permitted_capabilities()?);
    if now & !mask == 0 {
        return Ok(());
    }
    sys::bound_capabilities(mask)?;
    let mask = mask & now;
    sys::set_capabilities(Capabilities { effective: mask, permitted: mask, inheritable: 0 })
}

/// Installs the filter of system calls, after [`apply`] and right before exec, so that what is allowed to a command is
/// asked of nothing else; or earlier, before somebody inside can make this process do as he likes.
pub fn seal(confine: &Confine) -> io::Result<()> {
    if new_privs_refused(&confine.rules) { install(confine) } else { Ok(()) }
}

fn new_privs_refused(rules: &Rules) -> bool {
    rules.no_new_privs && !out("no-new-privs")
}

fn install(confine: &Confine) -> io::Result<()> {
    let filter = confine.filter.as_deref().filter(|_| !out("seccomp"));
    let filter = filter.map(|filter| if out("own-filter") { quilt_seccomp::DEFAULT } else { filter });
    filter.map_or(Ok(()), sys::install_seccomp_filter)
}
