//! What a container sees of its cgroups: its own limits where programs look for them, nobody else's, and nothing that it
//! can write to.

use std::fs;

use crate::harness::World;
use crate::harness::teeth::{attack, everywhere};

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

/// The lines of `/proc/PID/cgroup` of the hierarchies that the container is in, with their paths.
#[test]
fn nothing_of_the_host_is_seen() {
    let world = World::new("host");
    world.create("other", &[]);
    let record = world.create("box", &[]);
    let leaf_in = |version| {
        let all = record["cgroup"]["have"]["hierarchies"].as_array().unwrap();
        all.iter().any(|h| h["version"] == version)
    };
    for (way, said) in everywhere_but_box(&world, "cat /proc/self/cgroup") {
        let paths: Vec<&str> = said.lines().map(|line| line.splitn(3, ':').nth(2).unwrap()).collect();
        let leaf = |path: &str| path == "/init" || path.starts_with("/x-");
        assert!(paths.iter().all(|path| *path == "/" || leaf(path)), "{way}: {said}");
        assert_eq!(paths.iter().filter(|path| leaf(path)).count(), 1, "{way}: {said}");
        if leaf_in(2) {
            assert!(said.lines().last().unwrap().starts_with("0::/") && leaf(paths[paths.len() - 1]), "{way}: {said}");
        }
    }
    // The mounts show it as the root of its hierarchies: no path of the host.
    let mounts = world.exec("box", &["grep", " - cgroup", "/proc/self/mountinfo"]);
    let shown: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(shown.len(), record["cgroup"]["have"]["hierarchies"].as_array().unwrap().len());
    for words in shown {
        assert_eq!((words[3], &words[5][..27]), ("/", "ro,nosuid,nodev,noexec,rela"), "{words:?}");
    }
    let dirs = world.exec("box", &["find", "/sys/fs/cgroup", "-mindepth", "1", "-type", "d", "-name", "*[!a-z,]*"]);
    assert!(dirs.lines().all(|dir| dir.rsplit('/').next().unwrap().starts_with("x-")), "{dirs}");
    let found = world.exec("box", &["find", "/sys/fs/cgroup", "-name", "release_agent", "-o", "-name", "*other*"]);
    assert_eq!(found, "");
    // From outside the processes are where the record says.
    let init = fs::read_to_string(format!("/proc/{}/cgroup", world.init("box"))).unwrap();
    let inside = world.exec("box", &["cat", "/proc/1/cgroup"]);
    let strip = |text: &str| text.lines().map(|line| line.rsplit('/').next().unwrap().to_owned()).collect::<Vec<_>>();
    let (outer, inner) = (strip(&init), strip(&inside));
    assert!(outer.iter().zip(&inner).all(|(outer, inner)| inner.is_empty() || outer == inner), "{init}{inside}");
}

/// In a container of another name, as `box` is that of the way by which commands get in.
fn everywhere_but_box(world: &World, line: &str) -> Vec<(&'static str, String)> {
    let exec = world.exec("box", &["sh", "-c", line]);
    let init = world.exec("box", &["sh", "-c", &line.replace("self", "1")]);
    vec![("exec", exec), ("init", init)]
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
