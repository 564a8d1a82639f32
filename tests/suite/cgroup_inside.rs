//! What a container sees of its cgroups: its own limits where programs look for them, nobody else's, and nothing that it
//! can write to.

use std::fs;

use crate::harness::run::LIMIT;
use crate::harness::teeth::{attack, everywhere};
use crate::harness::{World, eventually};

const LIMITS: &str = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; \
    cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null; \
    cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null; true";

#[test]
fn the_limits_are_where_programs_look() {
    let world = World::new("seen");
    let limits = ["--memory", "96", "--cpus", "1.5", "--pids", "99"];
    for (way, said) in everywhere(&world, &[], &limits, LIMITS) {
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("100663296"), "{way}: {said}");
        assert!(lines.next().is_some_and(|quota| ["150000", "150000 100000"].contains(&quota)), "{way}: {said}");
        assert_eq!((lines.next(), lines.next()), (Some("99"), None), "{way}: {said}");
    }
    world.create("box", &limits);
    world.quilt(&["update", "box", "--memory", "128"]).ok();
    assert!(world.exec("box", &["sh", "-c", LIMITS]).starts_with("134217728\n"));
}

#[test]
fn nothing_of_the_host_is_seen() {
    let world = World::new("host");
    world.create("other", &[]);
    let record = world.create("box", &[]);
    let hierarchies = record["cgroup"]["have"]["hierarchies"].as_array().unwrap();
    // Each is at the root of its own namespace, which is where its limits are mounted.
    for (way, said) in everywhere_in(&world, "cat /proc/self/cgroup") {
        assert!(said.lines().all(|line| line.ends_with(":/")), "{way}: {said}");
    }
    // A neighbour inside is in a leaf beside, which is all there is to be seen of it.
    let init = world.exec("box", &["cat", "/proc/1/cgroup"]);
    let beside = init.lines().filter(|line| line.ends_with(":/../init")).count();
    assert!(beside == 1 && init.lines().filter(|line| !line.ends_with(":/")).count() == 1, "{init}");
    // The mounts show no path of the host either: the directory with the leaves is the one above.
    let mounts = world.exec("box", &["grep", " - cgroup", "/proc/self/mountinfo"]);
    let shown: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(shown.len(), hierarchies.len());
    for words in &shown {
        assert!(words[5].starts_with("ro,nosuid,nodev,noexec"), "{words:?}");
    }
    assert_eq!(shown.iter().filter(|words| words[3] == "/..").count(), 1, "{mounts}");
    assert_eq!(shown.iter().filter(|words| words[3] == "/").count(), shown.len() - 1, "{mounts}");
    let dirs = world.exec("box", &["find", "/sys/fs/cgroup", "-mindepth", "1", "-type", "d", "-name", "*[!a-z,]*"]);
    assert!(dirs.lines().all(|dir| dir.rsplit('/').next().unwrap().starts_with("x-")), "{dirs}");
    let found = world.exec("box", &["find", "/sys/fs/cgroup", "-name", "release_agent", "-o", "-name", "*other*"]);
    assert_eq!(found, "");
}

/// What a line of shell prints when it is run by exec, and when it is part of the container's own command.
fn everywhere_in(world: &World, line: &str) -> Vec<(&'static str, String)> {
    let exec = world.exec("box", &["sh", "-c", line]);
    let command = format!("{line} >/.said; mv /.said /said; exec sleep 1000");
    world.create("command", &["--", "sh", "-c", &command]);
    let said = world.root.join("containers/command/upper/said");
    assert!(eventually(LIMIT, || said.exists()));
    vec![("exec", exec), ("command", fs::read_to_string(said).unwrap())]
}

/// Fails if root inside can lift a limit of its own, have a program of the host's run by `release_agent`, or make cgroups.
#[test]
fn attacks_by_writing_to_its_cgroups() {
    const LINE: &str = "for file in memory.max memory/memory.limit_in_bytes; do \
        (echo 1073741824 >/sys/fs/cgroup/$file) 2>/dev/null && echo lifted; done; \
        for dir in '' memory unified devices; do \
        [ -d /sys/fs/cgroup/$dir ] && mkdir /sys/fs/cgroup/$dir/own 2>/dev/null && { rmdir /sys/fs/cgroup/$dir/own; echo made; }; done; \
        (echo a >/sys/fs/cgroup/devices/devices.allow) 2>/dev/null && echo devices; \
        find /sys/fs/cgroup -name release_agent; \
        mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted; true";
    let done = attack("cgroup-mount", "cgroup-mount", |world| {
        world.create("box", &["--memory", "64"]);
        world.exec("box", &["sh", "-c", LINE]).lines().map(str::to_owned).collect()
    });
    assert!(done.iter().any(|line| line == "lifted") && done.iter().any(|line| line == "made"), "{done:?}");
    assert!(!done.iter().any(|line| line.contains("release_agent") || line == "remounted"), "{done:?}");

    let world = World::new("written");
    world.create("box", &[]);
    for dir in world.exec("box", &["find", "/sys/fs/cgroup", "-type", "d", "!", "-name", "x-*"]).lines() {
        let out = world.quilt(&["exec", "box", "mkdir", &format!("{dir}/x")]);
        assert!(out.status == 1 && out.stderr.ends_with(": Read-only file system\n"), "{out:?}");
    }
}

#[test]
fn a_privileged_container_may_write() {
    let world = World::new("privileged");
    world.create("box", &["--privileged", "--memory", "64"]);
    let lift = "for file in memory.max memory/memory.limit_in_bytes; do \
        [ ! -e /sys/fs/cgroup/$file ] || echo 134217728 >/sys/fs/cgroup/$file; done";
    world.exec("box", &["sh", "-c", lift]);
    assert!(world.exec("box", &["sh", "-c", LIMITS]).starts_with("134217728\n"));
}
