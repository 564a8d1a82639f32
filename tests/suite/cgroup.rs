//! Limits that hold: read from outside, and tried from inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{World, eventually};

/// The container's directory in the hierarchy with a controller, and whether it is v2.
pub fn dir(record: &Value, controller: &str) -> (PathBuf, bool) {
    let all = record["cgroup"]["have"]["hierarchies"].as_array().unwrap();
    let has = |h: &&Value| h["controllers"].as_str().unwrap().split(',').any(|c| c == controller);
    let found = all.iter().find(has).or_else(|| all.iter().find(|h| h["version"] == 2)).unwrap();
    (found["path"].as_str().unwrap().into(), found["version"] == 2)
}

/// A limit as the kernel has it: the file on v1, or that on v2.
pub fn limit(record: &Value, controller: &str, v1: &str, v2: &str) -> String {
    let (dir, two) = dir(record, controller);
    fs::read_to_string(dir.join(if two { v2 } else { v1 })).unwrap().trim().to_owned()
}

#[test]
fn what_was_asked_is_in_force() {
    let world = World::new("limits");
    let record = world.create("box", &["--memory", "128", "--cpu", "50", "--cpus", "1.5", "--pids", "77"]);
    let want = json!({"memory": "128MiB", "cpu": 50.0, "cpus": 1.5, "pids": 77});
    assert_eq!(record["cgroup"]["want"], want);
    assert_eq!(limit(&record, "memory", "memory.limit_in_bytes", "memory.max"), (128 << 20).to_string());
    // weight = percent / 100 * 1000 on v2; v1's shares have 1024 where v2's weight has 100.
    let (_, two) = dir(&record, "cpu");
    let weight = limit(&record, "cpu", "cpu.shares", "cpu.weight");
    assert_eq!(weight, if two { "500".to_owned() } else { weight_as_shares(500) });
    let quota: f64 = if two {
        let max = limit(&record, "cpu", "", "cpu.max");
        let (quota, period) = max.split_once(' ').unwrap();
        quota.parse::<f64>().unwrap() / period.parse::<f64>().unwrap()
    } else {
        let quota: f64 = limit(&record, "cpu", "cpu.cfs_quota_us", "").parse().unwrap();
        quota / limit(&record, "cpu", "cpu.cfs_period_us", "").parse::<f64>().unwrap()
    };
    assert_eq!(quota, 1.5);
    assert_eq!(limit(&record, "pids", "pids.max", "pids.max"), "77");
}

/// cpu.shares for a cpu.weight: the inverse of the kernel's and runc's mapping is not unique; Quilt scales linearly.
fn weight_as_shares(weight: u64) -> String {
    (weight * 1024 / 100).to_string()
}

#[test]
fn the_number_of_processes_is_always_limited() {
    let world = World::new("pids");
    let record = world.create("default", &[]);
    assert_eq!(limit(&record, "pids", "pids.max", "pids.max"), "2048");
    let record = world.create("box", &["--pids", "10"]);
    let out = world.quilt(&["exec", "box", "sh", "-c", "for i in $(seq 30); do sleep 1 & done; wait"]);
    assert!(out.status != 0 && out.stderr.contains("can't fork"), "{out:?}");
    // A limit of pids counts all of the container, and no exec leaves it.
    let (dir, _) = dir(&record, "pids");
    let events = fs::read_to_string(dir.join("pids.events")).unwrap_or_default();
    let leaf = fs::read_to_string(dir.join("pids.current")).unwrap();
    assert!(leaf.trim().parse::<u64>().unwrap() <= 10, "{leaf} {events}");
    // An exec takes two for a moment: while there is room for one it says so, and works when the others have ended.
    let again = || {
        let out = world.quilt(&["exec", "box", "echo", "again"]);
        assert!(out.status == 0 || out.stderr.contains("the limit of processes is reached"), "{out:?}");
        out.status == 0
    };
    assert!(eventually(Duration::from_secs(10), again));
}

#[test]
fn every_exec_is_in_the_containers_cgroups() {
    let world = World::new("member");
    let record = world.create("box", &["--memory", "64"]);
    let exec = world.command(&["exec", "box", "sleep", "60"]).start();
    let mut leaves = 0;
    for hierarchy in record["cgroup"]["have"]["hierarchies"].as_array().unwrap() {
        let dir = PathBuf::from(hierarchy["path"].as_str().unwrap());
        let procs = |dir: &Path| fs::read_to_string(dir.join("cgroup.procs")).unwrap().lines().count();
        if dir.join("init").is_dir() {
            // The one with the leaves: nobody beside them.
            leaves += 1;
            let exec = || {
                let below = fs::read_dir(&dir).unwrap().flatten().map(|e| e.path());
                let below = below.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("x-"));
                below.map(|leaf| procs(&leaf)).sum::<usize>()
            };
            assert!(eventually(Duration::from_secs(5), || exec() == 1), "{hierarchy}");
            assert_eq!((procs(&dir), procs(&dir.join("init"))), (0, 1), "{hierarchy}");
        } else {
            assert_eq!(hierarchy["version"], 1);
            assert!(eventually(Duration::from_secs(5), || procs(&dir) == 2), "{hierarchy}");
        }
    }
    assert_eq!(leaves, 1);
    exec.signal(nix::sys::signal::Signal::SIGTERM);
    exec.finish().is(143, "", "");
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let world = World::new("nonsense");
    let image = crate::harness::images::busybox().display().to_string();
    for bad in [["--memory", "-1"], ["--memory", "lots"], ["--cpu", "x"], ["--cpus", "nan"], ["--pids", "0.5"]] {
        world.quilt(&["create", &image, "--name", "box", bad[0], bad[1]]).misused();
    }
    for bad in [["--memory", "0"], ["--cpu", "-5"], ["--cpus", "0"], ["--cpus", "-1"], ["--pids", "0"]] {
        let out = world.quilt(&["create", &image, "--name", "box", bad[0], bad[1]]);
        assert!(matches!(out.status, 2 | 12), "{out:?}");
        assert_eq!(out.stderr.lines().count().min(1), 1, "{out:?}");
    }
    world.quilt(&["ls", "--json"]).is(0, "", "");
}
