//! Which system calls it takes to start a command once the filter is in force: where a profile refuses one of them, that has
//! to be said, for nobody would guess it from `Operation not permitted`.

use quilt_seccomp::{Action, NATIVE, verdict};

/// A call: name, number, arguments.
pub type Call = (&'static str, libc::c_long, [u64; 3]);

/// The calls of [`super::apply`].
pub const CONFINE: [Call; 7] = [
    ("prctl", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 0, 0]),
    ("prctl", libc::SYS_prctl, [libc::PR_CAPBSET_DROP as u64, 0, 0]),
    ("prlimit64", libc::SYS_prlimit64, [0, libc::RLIMIT_CORE as u64, 1]),
    ("setgroups", libc::SYS_setgroups, [0, 0, 0]),
    ("setresgid", libc::SYS_setresgid, [0, 0, 0]),
    ("setresuid", libc::SYS_setresuid, [0, 0, 0]),
    ("capset", libc::SYS_capset, [1, 1, 0]),
];

/// The calls of [`crate::sys::fork`]; the second is made where the first is not there.
pub const FORK: [Call; 2] = [
    ("clone3", libc::SYS_clone3, [1, 88, 0]),
    ("clone", libc::SYS_clone, [(libc::CLONE_PIDFD | libc::SIGCHLD) as u64, 0, 1]),
];

/// How a command gets a session of its own.
pub const SESSION: [Call; 1] = [("setsid", libc::SYS_setsid, [0, 0, 0])];

/// How a command with a terminal gets that for its session. (The number is an int to musl.)
#[allow(clippy::unnecessary_cast)]
pub const TERMINAL: [Call; 1] = [("ioctl", libc::SYS_ioctl, [0, libc::TIOCSCTTY as u64, 0])];

/// What else the container's init does for its command.
pub const COMMAND: [Call; 4] = [
    SESSION[0],
    ("chdir", libc::SYS_chdir, [1, 0, 0]),
    ("getcwd", libc::SYS_getcwd, [1, 4096, 0]),
    ("execve", libc::SYS_execve, [1, 1, 1]),
];

/// How a command is executed.
pub const EXEC: [Call; 1] = [("execve", libc::SYS_execve, [1, 1, 1])];

/// How init is.
pub const INIT: [Call; 1] = [("execveat", libc::SYS_execveat, [3, 1, 1])];

/// Those of the calls that a filter refuses, with what it does to them. Conditions on arguments that differ from case to
/// case (a user, an address) are taken as for root.
pub fn refused(filter: &[u8], calls: &[Call]) -> Vec<(&'static str, Action)> {
    let judge = |call: &Call| {
        let [a, b, c] = call.2;
        verdict(filter, NATIVE.audit(), call.1 as u32, &[a, b, c, 0, 0, 0]).unwrap_or(Action::ALLOW)
    };
    let mut refused: Vec<(&'static str, Action)> = Vec::new();
    let mut absent = true;
    for call in calls {
        let action = judge(call);
        let fork = FORK.map(|(name, ..)| name);
        // The older way is not gone where the newer is open.
        let needed = call.0 != fork[1] || absent;
        if call.0 == fork[0] {
            absent = action == Action::ENOSYS;
            if absent {
                continue;
            }
        }
        let open = [Action::ALLOW, Action::LOG].contains(&action);
        if needed && !open && !refused.iter().any(|(name, _)| *name == call.0) {
            refused.push((call.0, action));
        }
    }
    refused
}

/// What to say of a failure with `errno` at one of these calls, if it is the filter's.
pub fn blame(filter: Option<&[u8]>, calls: &[Call], errno: i32) -> Option<String> {
    let refused = refused(filter?, calls);
    let same = |action: Action| u16::try_from(errno).is_ok_and(|errno| action == Action::errno(errno));
    let names: Vec<&str> = refused.into_iter().filter(|(_, action)| same(*action)).map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| format!("the container's seccomp profile refuses {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use quilt_seccomp::{DEFAULT, Options, from_docker};

    use super::*;

    fn profile(default: &str, names: &str, action: &str) -> Result<Vec<u8>, String> {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_{default}", "syscalls": [{{"names": [{names}], "action": "SCMP_ACT_{action}"}}]}}"#
        );
        from_docker(&text, &Options::default())
    }

    fn names(filter: &[u8]) -> Vec<&'static str> {
        let all = [&CONFINE[..], &FORK, &COMMAND, &INIT].concat();
        refused(filter, &all).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_a_profile_refuses_is_named() -> Result<(), String> {
        assert_eq!(names(DEFAULT), [""; 0]);
        assert_eq!(
            names(&profile("ALLOW", r#""setresuid", "setresgid", "mkdir""#, "ERRNO")?),
            ["setresgid", "setresuid"]
        );
        assert_eq!(names(&profile("ALLOW", r#""clone""#, "ERRNO")?), [""; 0]);
        assert_eq!(names(&profile("ALLOW", r#""clone3""#, "ERRNO")?), ["clone3"]);
        let most =
            r#""prctl", "prlimit64", "setgroups", "setresgid", "capset", "setsid", "chdir", "getcwd", "execveat""#;
        assert_eq!(names(&profile("KILL", most, "ALLOW")?), ["setresuid", "clone", "execve"]);
        Ok(())
    }

    #[test]
    fn only_what_the_filter_did_is_its_fault() -> Result<(), String> {
        let filter = profile("ALLOW", r#""setgroups", "execve""#, "ERRNO")?;
        let blame = |calls: &[Call], errno| blame(Some(&filter), calls, errno);
        assert_eq!(blame(&CONFINE, libc::EPERM).as_deref(), Some("the container's seccomp profile refuses setgroups"));
        assert_eq!(blame(&EXEC, libc::EACCES), None);
        assert_eq!(blame(&FORK, libc::EPERM), None);
        Ok(())
    }
}
