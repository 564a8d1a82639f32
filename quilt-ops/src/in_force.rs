//! What a running container's confinement is, as the kernel tells it of its init: not what was asked, nor what was done.

use std::fs;
use std::path::Path;

use quilt_record::confine::{CapSet, Status};
use quilt_record::mountinfo::{self, Mount};
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
        let status = Status::read(pid).step(|| format!("read /proc/{pid}/status"))?;
        let uid_map = format!("/proc/{pid}/uid_map");
        let uid_map = fs::read_to_string(&uid_map).step(|| format!("read {uid_map}"))?;
        Ok(parse(&status, &uid_map, &mountinfo::read(pid)?))
    }
}

fn parse(status: &Status, uid_map: &str, table: &[u8]) -> InForce {
    let number = |text: &str| text.parse::<u64>().ok();
    let map = |line: &str| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(number).collect();
        numbers.try_into().ok()
    };
    let mounts: Vec<Mount<'_>> = mountinfo::mounts(table).collect();
    let point = |mount: &Mount<'_>| mount.point.to_string_lossy().into_owned();
    let root = mounts.iter().rev().find(|mount| *mount.point == *Path::new("/"));
    let covers = |target: &str| target.starts_with("/proc/") || target.starts_with("/sys/");
    let names = |wanted: bool| {
        mounts.iter().map(point).filter(|target| covers(target) == wanted && target != "/").collect::<Vec<_>>()
    };
    InForce {
        capabilities: status.capabilities("CapBnd"),
        no_new_privs: status.no_new_privs(),
        seccomp: status.filtered(),
        uid_map: uid_map.lines().filter_map(map).collect(),
        read_only: root.is_some_and(|root| root.options.split(',').any(|option| option == "ro")),
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
        let mounts = b"1 2 0:3 / / ro,nodev - overlay overlay rw\n3 1 0:4 / /proc rw - proc proc rw\n\
                      4 3 0:5 / /proc/acpi ro - tmpfs tmpfs ro\n\
                      5 1 0:6 / /my\\040data rw - ext4 none rw\n";
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let expected = InForce {
            capabilities: CapSet(3),
            no_new_privs: true,
            seccomp: true,
            uid_map: vec![[0, 1000, 65536]],
            read_only: true,
            covered: words(&["/proc/acpi"]),
            mounts: words(&["/proc", "/my data"]),
        };
        assert_eq!(parse(&status.into(), "         0       1000      65536\n", mounts), expected);
    }
}
