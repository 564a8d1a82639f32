//! Which system calls are tried inside, and what each must come to: by the filter that the container is to have, run here
//! as the kernel would run it. Of a filter in force none of these calls gets further than that; without one, their arguments
//! can do no harm.

use std::collections::BTreeMap;

use quilt_record::confine::Seccomp;
use quilt_record::sys;
use quilt_seccomp::{Action, NATIVE, calls, verdict};

/// A call to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Try {
    /// Its name.
    pub(crate) name: &'static str,
    number: i64,
    args: [i64; 3],
    /// The errno that it must end with; `None` if that is the kernel's to say.
    pub(crate) must: Option<i32>,
    /// Whether it is one of those that nobody inside needs, and that are shown.
    pub(crate) shown: bool,
}

impl Try {
    /// Makes it; its errno, 0 for success.
    pub(crate) fn run(&self) -> i32 {
        sys::try_call(self.number, self.args)
    }
}

/// System calls that nobody inside needs, with arguments that are bad: without a filter EFAULT, EINVAL or EBADF come back.
fn needless() -> [(&'static str, i64, [i64; 3]); 9] {
    /// With a bit that is no namespace.
    const ALL_NAMESPACES: i64 = libc::CLONE_NEWUSER as i64 | 1;
    [
        ("bpf", libc::SYS_bpf, [-1, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [-1, 0, 0]),
        ("mount", libc::SYS_mount, [0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, -1]),
        ("setns", libc::SYS_setns, [-1, 0, 0]),
        ("unshare", libc::SYS_unshare, [ALL_NAMESPACES, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [-1, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0]),
    ]
}

/// Those that do something whatever their arguments are, and never come back, take long, or end who makes them.
const NEVER: [&str; 12] = [
    "clone",
    "exit",
    "exit_group",
    "fork",
    "pause",
    "restart_syscall",
    "rt_sigreturn",
    "sync",
    "uprobe",
    "uretprobe",
    "vfork",
    "vhangup",
];

/// Bad arguments for all others: no descriptor, no address, no flags that are known.
const BAD: [i64; 3] = [-1; 3];

/// What a filter says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It fails with this.
    Errno(i32),
    /// The kernel decides.
    Allowed,
    /// Whoever makes it is killed, or told by a signal.
    Killed,
}

fn said(filter: Option<&[u8]>, number: i64, [a, b, c]: [i64; 3]) -> Said {
    /// `SECCOMP_RET_ACTION_FULL` and `SECCOMP_RET_DATA` (linux/seccomp.h).
    const ACTION: u32 = 0xffff_0000;
    const DATA: u32 = 0xffff;
    let Some(filter) = filter else { return Said::Allowed };
    let args = [a, b, c, 0, 0, 0].map(|arg| arg as u64);
    match verdict(filter, NATIVE.audit(), number as u32, &args) {
        Some(action) if action.0 & ACTION == Action::errno(0).0 => Said::Errno((action.0 & DATA) as i32),
        // Nobody traces.
        Some(action) if action.0 & ACTION == Action::trace(0).0 => Said::Errno(libc::ENOSYS),
        Some(Action::ALLOW | Action::LOG) => Said::Allowed,
        _ => Said::Killed,
    }
}

/// All that are to be tried in a container that has this filter, and why.
pub(crate) fn tries(seccomp: Seccomp, filter: Option<&[u8]>) -> Vec<Try> {
    let needless = needless().into_iter().filter_map(|(name, number, args)| {
        let must = match said(filter, number, args) {
            Said::Killed => return None,
            // What the built-in one must say stands here a second time.
            _ if seccomp == Seccomp::Default => Some(if name == "clone3" { libc::ENOSYS } else { libc::EPERM }),
            Said::Errno(errno) => Some(errno),
            Said::Allowed => None,
        };
        Some(Try { name, number, args, must, shown: true })
    });
    let refused = calls(NATIVE).filter(|(name, _)| !NEVER.contains(name)).filter_map(|(name, number)| {
        let number = i64::from(number);
        match said(filter, number, BAD) {
            Said::Errno(errno) => Some(Try { name, number, args: BAD, must: Some(errno), shown: false }),
            Said::Allowed | Said::Killed => None,
        }
    });
    needless.chain(refused).collect()
}

/// How many deviations are told one by one.
const TOLD: usize = 8;

/// What is wrong with what the tries came to.
pub(crate) fn wrong(tries: &[Try], seen: &[i32]) -> Vec<String> {
    let pairs = tries.iter().zip(seen.iter().map(Some).chain(std::iter::repeat(None)));
    let deviate = pairs.filter(|(one, is)| one.must.is_some_and(|must| *is != Some(&must)));
    let mut wrong: Vec<String> = deviate
        .map(|(one, is)| {
            let is = is.map_or("nothing known".to_owned(), |errno| name_of(*errno));
            let must = name_of(one.must.unwrap_or_default());
            format!("the system call {} ends with {is} and must with {must}", one.name)
        })
        .collect();
    wrong.dedup();
    if wrong.len() > TOLD {
        let more = wrong.split_off(TOLD).len();
        wrong.push(format!("so do {more} other system calls that must not"));
    }
    wrong
}

/// What is shown of it: a few names, and what they came to.
pub(crate) fn shown(tries: &[Try], seen: &[i32]) -> BTreeMap<&'static str, String> {
    let shown = tries.iter().zip(seen).filter(|(one, _)| one.shown);
    shown.map(|(one, errno)| (one.name, name_of(*errno))).collect()
}

/// `EPERM`, or `success`.
fn name_of(errno: i32) -> String {
    if errno == 0 { "success".to_owned() } else { format!("{:?}", nix::errno::Errno::from_raw(errno)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn must(tries: &[Try], name: &str) -> Vec<Option<i32>> {
        tries.iter().filter(|one| one.name == name).map(|one| one.must).collect()
    }

    #[test]
    fn a_filter_says_what_must_answer_what() -> Result<(), String> {
        let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["setns"], "action": "SCMP_ACT_KILL_PROCESS"}, {"names": ["bpf"], "action": "SCMP_ACT_TRACE"}]}"#;
        let filter = quilt_seccomp::from_docker(profile, &quilt_seccomp::Options::default())?;
        let tries = tries(Seccomp::File, Some(&filter));
        assert_eq!(must(&tries, "mkdirat"), [Some(libc::ENOSPC)]);
        assert_eq!(must(&tries, "setns"), []);
        assert_eq!(must(&tries, "bpf"), [Some(libc::ENOSYS); 2]);
        assert_eq!(must(&tries, "mount"), [None]);
        Ok(())
    }

    #[test]
    fn what_the_built_in_filter_refuses_is_tried() {
        let tries = tries(Seccomp::Default, Some(quilt_seccomp::DEFAULT));
        assert_eq!(must(&tries, "clone3"), [Some(libc::ENOSYS); 2]);
        assert_eq!(must(&tries, "kexec_load"), [Some(libc::EPERM)]);
        assert!(tries.len() > 60 && must(&tries, "vhangup").is_empty(), "{}", tries.len());
        // Nobody is asked for what nothing refuses.
        assert_eq!(super::tries(Seccomp::Off, None).iter().filter(|one| one.must.is_some()).count(), 0);
        let good: Vec<i32> = tries.iter().map(|one| one.must.unwrap_or(0)).collect();
        assert_eq!(wrong(&tries, &good), [""; 0]);
        let mut bad = good.clone();
        bad[0] = libc::EINVAL;
        assert_eq!(wrong(&tries, &bad), ["the system call bpf ends with EINVAL and must with EPERM"]);
        assert_eq!(wrong(&tries, &[]).len(), TOLD + 1);
    }
}
