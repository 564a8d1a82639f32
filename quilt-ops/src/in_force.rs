//! What a running container's confinement is, as the kernel tells it of its init: not what was asked, nor what was done.

use std::fs;

use quilt_record::confine::CapSet;
use quilt_record::{Error, Step};
use serde::Serialize;

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// The bounding set: nobody inside can have another.
    pub capabilities: CapSet,
    /// Whether no exec grants anything.
    pub no_new_privs: bool,
    /// Whether there is a filter of system calls.
    pub seccomp: bool,
    /// The container's ids in the host's: first inside, first outside, how many (user_namespaces(7)).
    pub uid_map: Vec<[u64; 3]>,
    /// Whether its root cannot be written.
    pub read_only: bool,
    /// What of /proc and /sys is covered or read-only.
    pub covered: Vec<String>,
    /// Everything else that is mounted.
    pub mounts: Vec<String>,
}

impl InForce {
    /// Looks at a process.
    pub fn of(pid: i32) -> Result<InForce, Error> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).step(|| format!("read {path}"))
        };
        Ok(parse(&read("status")?, &read("uid_map")?, &read("mountinfo")?))
    }
}

fn parse(status: &str, uid_map: &str, mountinfo: &str) -> InForce {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let number = |text: &str| text.parse::<u64>().ok();
    let map = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(number).collect();
        numbers.try_into().ok()
    };
    // The mount point and the options of a line (proc_pid_mountinfo(5)).
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    let mounts: Vec<(String, String)> = mountinfo.lines().filter_map(mount).collect();
    let root = mounts.iter().rev().find(|(target, _)| target == "/");
    let covers = |target: &str| target.starts_with("/proc/") || target.starts_with("/sys/");
    let names = |wanted: bool| {
        let names = mounts.iter().map(|(target, _)| target).filter(|target| covers(target) == wanted && *target != "/");
        names.cloned().collect::<Vec<_>>()
    };
    InForce {
        capabilities: CapSet(u64::from_str_radix(field("CapBnd:"), 16).unwrap_or(u64::MAX)),
        no_new_privs: field("NoNewPrivs:") == "1",
        seccomp: field("Seccomp:") == "2",
        uid_map: uid_map.lines().filter_map(map).collect(),
        read_only: root.is_some_and(|(_, options)| options.split(',').any(|option| option == "ro")),
        covered: names(true),
        mounts: names(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read() {
        let status = "Name:\tquilt-init\nCapBnd:\t0000000000000003\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let mounts = "1 2 0:3 / / ro,nodev - overlay overlay rw\n3 1 0:4 / /proc rw - proc proc rw\n\
                      4 3 0:5 / /proc/acpi ro - tmpfs tmpfs ro\n";
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let expected = InForce {
            capabilities: CapSet(3),
            no_new_privs: true,
            seccomp: true,
            uid_map: vec![[0, 1000, 65536]],
            read_only: true,
            covered: words(&["/proc/acpi"]),
            mounts: words(&["/proc"]),
        };
        assert_eq!(parse(status, "         0       1000      65536\n", mounts), expected);
    }
}
