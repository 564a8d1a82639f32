//! Every limit, on whatever this kernel has; and changed while the container runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cgroup::{dir, limit};
use crate::harness::{World, images};

/// A whole disk of this machine: `254:0`. There is none without.
fn disk() -> String {
    let disks = fs::read_dir("/sys/block").unwrap().flatten().map(|entry| entry.path());
    let mut disks: Vec<PathBuf> = disks.filter(|path| path.join("device").exists()).collect();
    disks.sort();
    fs::read_to_string(disks.first().expect("a disk").join("dev")).unwrap().trim().to_owned()
}

/// The limits of a disk as the kernel has them: bytes read in a second, and operations written.
fn disk_limits(record: &Value, disk: &str) -> (String, String) {
    let (io, two) = dir(record, if has(record, "io") { "io" } else { "blkio" });
    let line = |file: &str| {
        let text = fs::read_to_string(io.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(disk)).unwrap_or_default();
        line.trim().to_owned()
    };
    if two {
        let line = line("io.max");
        let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)).unwrap_or("max").to_owned();
        return (value("rbps="), value("wiops="));
    }
    let value = |file| Some(line(file)).filter(|l| !l.is_empty()).unwrap_or("max".to_owned());
    (value("blkio.throttle.read_bps_device"), value("blkio.throttle.write_iops_device"))
}

fn has(record: &Value, controller: &str) -> bool {
    let all = record["cgroup"]["have"]["hierarchies"].as_array().unwrap();
    all.iter().any(|h| h["controllers"].as_str().unwrap().split(',').any(|c| c == controller))
}

/// Swap with memory on v1, swap alone on v2; whether this kernel accounts it at all.
fn swap(record: &Value) -> Option<String> {
    let (dir, two) = dir(record, "memory");
    let file = dir.join(if two { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" });
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

#[test]
fn each_is_what_the_kernel_has() {
    let world = World::new("each");
    let disk = disk();
    let io = format!("{disk},rbps=1M,wiops=50");
    let memory = ["--memory", "64M", "--memory-soft", "16MiB"];
    let args = [&memory[..], &["--cpu-weight", "200", "--cpuset", "0", "--io-max", &io]].concat();
    let record = world.create("box", &args);
    assert_eq!(limit(&record, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(limit(&record, "memory", "memory.soft_limit_in_bytes", "memory.low"), (16 << 20).to_string());
    assert_eq!(limit(&record, "cpu", "cpu.shares", "cpu.weight"), if dir(&record, "cpu").1 { "200" } else { "2048" });
    assert_eq!(limit(&record, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert!(world.exec("box", &["grep", "Cpus_allowed_list", "/proc/self/status"]).ends_with("\t0\n"));
    assert_eq!(disk_limits(&record, &disk), ((1 << 20).to_string(), "50".to_owned()));
    // Shares as docker has them: as they are on v1, on runc's curve on v2.
    let shares = world.create("shares", &["--cpu-shares", "2048"]);
    assert_eq!(limit(&shares, "cpu", "cpu.shares", "cpu.weight"), if dir(&shares, "cpu").1 { "174" } else { "2048" });
    if swap(&record).is_some() {
        let record = world.create("swap", &["--memory", "64", "--swap", "32"]);
        let two = dir(&record, "memory").1;
        assert_eq!(swap(&record), Some(((if two { 32 } else { 96 }) << 20).to_string()));
    }
}

/// On each kernel some limit is not to be had.
#[test]
fn what_this_kernel_cannot_do_is_refused_by_the_controllers_name() {
    let world = World::new("cannot");
    let image = images::busybox().display().to_string();
    let record = world.create("probe", &[]);
    let two = dir(&record, "memory").1;
    let create = |args: &[&str]| world.quilt(&[&["create", &image, "--name", "box"], args].concat());
    let before = world.inventory();
    let refused = |args: &[&str], controller: &str| {
        let out = create(args);
        out.failed("quilt-cgroup", "unsupported");
        assert!(out.stderr.contains(&format!("{controller} controller")), "{out:?}");
        let out = world.quilt(&[&["update", "probe"], args].concat());
        assert!(out.status == 17 && out.stderr.contains(&format!("{controller} controller")), "{out:?}");
        assert_eq!(world.inventory(), before);
    };
    if !two {
        refused(&["--memory-high", "32M"], "memory");
    }
    if swap(&record).is_none() {
        refused(&["--memory", "64", "--swap", "0"], "memory");
    }
    let (io, two) = dir(&record, if has(&record, "io") { "io" } else { "blkio" });
    let weights: &[&str] = if two { &["io.weight", "io.bfq.weight"] } else { &["blkio.bfq.weight"] };
    match weights.iter().find(|file| io.join(file).exists()) {
        None => refused(&["--io-weight", "50"], "io"),
        Some(file) => {
            let record = create(&["--io-weight", "50"]).ok().record();
            let (io, _) = dir(&record, if two { "io" } else { "blkio" });
            let text = fs::read_to_string(io.join(file)).unwrap();
            assert!(text.trim().ends_with("50"), "{text}");
        }
    }
}

#[test]
fn all_can_be_changed_while_it_runs_and_stay_so() {
    let world = World::new("update");
    world.create("box", &["--memory", "64", "--cpu", "50", "--label", "a=b"]);
    let init = world.init("box");
    let files = |record: &Value| {
        let two = dir(record, "cpu").1;
        [
            limit(record, "memory", "memory.limit_in_bytes", "memory.max"),
            limit(record, "cpu", "cpu.shares", "cpu.weight"),
            limit(record, "cpu", "cpu.cfs_quota_us", "cpu.max").split(' ').next().unwrap().to_owned(),
            limit(record, "pids", "pids.max", "pids.max"),
            if two { String::new() } else { limit(record, "cpuset", "cpuset.cpus", "") },
        ]
    };
    let inspect = || world.quilt(&["inspect", "box"]).ok().record();
    let two = dir(&inspect(), "cpu").1;
    world.quilt(&["update", "box", "--memory", "96M", "--pids", "20", "--cpus", "0.5", "--cpuset", "0"]).is(0, "", "");
    let want = json!({"memory": "96MiB", "cpu": 50.0, "cpus": 0.5, "pids": 20, "cpuset": "0"});
    let record = inspect();
    assert_eq!((&record["cgroup"]["want"], &record["labels"]), (&want, &json!({"a": "b"})));
    let weight = if two { "500" } else { "5120" };
    let memory = (96 << 20).to_string();
    let now = [memory.as_str(), weight, "50000", "20", if two { "" } else { "0" }];
    assert_eq!(files(&record), now);
    assert_eq!(limit(&record, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert!(world.exec("box", &["grep", "Cpus_allowed_list", "/proc/self/status"]).ends_with("\t0\n"));
    let out = world.quilt(&["exec", "box", "sh", "-c", "for i in $(seq 40); do sleep 1 & done; wait"]);
    assert!(out.stderr.contains("can't fork"), "{out:?}");
    assert_eq!(world.init("box"), init);

    // And they are those of every start after.
    world.quilt(&["stop", "box"]).ok();
    world.quilt(&["update", "box", "--cpu-weight", "30"]).is(0, "", "");
    world.quilt(&["start", "box"]).ok();
    let record = inspect();
    let want = json!({"memory": "96MiB", "cpu_weight": 30, "cpus": 0.5, "pids": 20, "cpuset": "0"});
    assert_eq!(record["cgroup"]["want"], want);
    let now = [memory.as_str(), if two { "30" } else { "307" }, "50000", "20", if two { "" } else { "0" }];
    assert_eq!(files(&record), now);

    // Lifted.
    let lift = ["--memory", "max", "--pids", "max", "--cpus", "max", "--cpuset", "all", "--cpu-shares", "1024"];
    world.quilt(&[&["update", "--all"], &lift[..]].concat()).is(0, "", "");
    let record = inspect();
    let memory = limit(&record, "memory", "memory.limit_in_bytes", "memory.max");
    assert!(memory == "max" || memory.parse::<u64>().unwrap() > 1 << 60, "{memory}");
    let lifted = if two { ["100", "max", "max"] } else { ["1024", "-1", "max"] };
    assert_eq!(files(&record)[1..4], lifted);
    let cpus = || fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert!(world.exec("box", &["grep", "Cpus_allowed_list", "/proc/self/status"]).ends_with(&format!("\t{}", cpus())));
}

#[test]
fn memory_and_swap_can_go_up_and_down_together() {
    let world = World::new("swap");
    let record = world.create("box", &["--memory", "64"]);
    if swap(&record).is_none() {
        // Debian's 5.10 accounts it only if told to (swapaccount=1).
        return world.quilt(&["update", "box", "--memory", "64", "--swap", "0"]).refused("quilt-update", "unsupported");
    }
    let two = dir(&record, "memory").1;
    for (memory, with) in [(64, 32), (256, 0), (32, 16), (512, 512), (16, 0)] {
        let (m, s) = (memory.to_string(), with.to_string());
        world.quilt(&["update", "box", "--memory", &m, "--swap", &s]).is(0, "", "");
        let record = world.quilt(&["inspect", "box"]).ok().record();
        let bytes = (if two { with } else { memory + with }) << 20;
        assert_eq!(swap(&record), Some(bytes.to_string()), "{memory} {with}");
    }
}

#[test]
fn an_update_is_all_or_nothing() {
    let world = World::new("whole");
    let record = world.create("box", &["--pids", "50", "--memory", "64"]);
    let saved = || world.quilt(&["inspect", "box"]).ok().record()["cgroup"].clone();
    let before = saved();
    // The last is refused: by Quilt, and by the kernel.
    for (bad, code) in
        [(["--cpuset", "4000"], 12), (["--io-max", "999:0,rbps=1M"], 11), (["--io-max", "/dev/null,rbps=1M"], 12)]
    {
        let out = world.quilt(&[&["update", "box", "--pids", "60", "--memory", "32"], &bad[..]].concat());
        assert_eq!((out.status, out.stderr.lines().count()), (code, 1), "{out:?}");
        assert_eq!(limit(&record, "pids", "pids.max", "pids.max"), "50");
        assert_eq!(limit(&record, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
        assert_eq!(saved(), before);
    }
    world.quilt(&["update", "box"]).misused();
    world.quilt(&["update", "--pids", "5"]).misused();
    world.quilt(&["update", "nobody", "--pids", "5"]).refused("quilt-update", "not_found");
    world.quilt(&["update", "box", "--cgroup-parent", "/x"]).refused("quilt-update", "invalid");
}

/// Other cgroups than the instance's own.
mod parent {
    use super::*;

    /// A cgroup of the test's own in every hierarchy of the host, and its removal.
    struct Own(String, Vec<PathBuf>);

    impl Own {
        fn new(record: &Value, name: &str) -> Own {
            let name = format!("a-quilt-test-{}-{name}", std::process::id());
            let root = |path: &Path| path.parent().unwrap().parent().unwrap().join(&name);
            let all = record["cgroup"]["have"]["hierarchies"].as_array().unwrap();
            let dirs = all.iter().map(|h| root(Path::new(h["path"].as_str().unwrap()))).collect();
            Own(name, dirs)
        }
    }

    impl Drop for Own {
        fn drop(&mut self) {
            for dir in &self.1 {
                let _ = fs::remove_dir(dir.join("caller"));
                let _ = fs::remove_dir(dir);
            }
        }
    }

    #[test]
    fn is_where_it_is_said() {
        let world = World::new("parent");
        let probe = world.create("probe", &[]);
        let own = Own::new(&probe, "agents");
        let path = format!("/{}", own.0);
        let record = world.create("box", &["--cgroup-parent", &path, "--memory", "32", "--cpuset", "0"]);
        let below = |record: &Value| {
            let all = record["cgroup"]["have"]["hierarchies"].as_array().unwrap().clone();
            all.iter().all(|h| h["path"].as_str().unwrap().contains(&format!("{path}/quilt-")))
        };
        assert!(below(&record), "{record}");
        assert_eq!(limit(&record, "memory", "memory.limit_in_bytes", "memory.max"), (32 << 20).to_string());
        world.quilt(&["exec", "box", "echo", "hi"]).is(0, "hi\n", "");
        // A second one beside it; the first goes, the place stays.
        world.create("other", &["--cgroup-parent", &path]);
        world.quilt(&["rm", "-f", "box"]).ok();
        world.quilt(&["exec", "other", "echo", "hi"]).is(0, "hi\n", "");
        // It is there again after a restart.
        world.quilt(&["stop", "other"]).ok();
        assert!(own.1.iter().all(|dir| fs::read_dir(dir).unwrap().flatten().all(|e| !e.path().is_dir())), "{path}");
        world.quilt(&["start", "other"]).ok();
        assert!(below(&world.quilt(&["inspect", "other"]).ok().record()));
        world.quilt(&["rm", "-f", "other", "probe"]).ok();
        assert!(own.1.iter().all(|dir| dir.exists()), "what was asked for stays");
        assert!(own.1.iter().all(|dir| fs::read_dir(dir).unwrap().flatten().all(|e| !e.path().is_dir())), "{path}");
    }

    #[test]
    fn is_never_the_root_nor_somebody_elses() {
        let world = World::new("foreign");
        let image = images::busybox().display().to_string();
        // The bridge is there, and stays.
        world.create("first", &[]);
        let before = world.inventory();
        for (bad, code) in [
            ("/", "invalid"),
            ("agents", "invalid"),
            ("/a/../b", "invalid"),
            ("/quilt", "invalid"),
            ("/quilt-abcdef/x", "invalid"),
            ("/a-quilt-test.slice", "denied"),
            ("/a-quilt-test.slice/x", "denied"),
        ] {
            let out = world.quilt(&["create", &image, "--name", "box", "--cgroup-parent", bad]);
            out.failed("quilt-cgroup", code);
        }
        world.assert_same(&before, crate::harness::SETTLE);
    }

    /// A cgroup that a controller is not passed on to is one that has none to give.
    #[test]
    fn without_the_controller_is_refused_by_its_name() {
        let world = World::new("poor");
        let probe = world.create("probe", &[]);
        let own = Own::new(&probe, "pool");
        let unit = own.1.last().unwrap().join("unit.service");
        if own.1.len() > 1 {
            // On v1 every cgroup has every controller.
            return;
        }
        fs::create_dir_all(&unit).unwrap();
        world.run("setfattr", &["-n", "trusted.delegate", "-v", "1", unit.to_str().unwrap()]).go().ok();
        let image = images::busybox().display().to_string();
        let parent = format!("/{}/unit.service", own.0);
        let args = ["create", &image, "--name", "box", "--cgroup-parent", &parent, "--memory", "32"];
        let out = world.quilt(&args);
        out.failed("quilt-cgroup", "unsupported");
        assert!(out.stderr.contains("has no memory controller"), "{out:?}");
        fs::remove_dir(unit).unwrap();
    }

    /// As a service of systemd's with Delegate=yes, whose processes are in a cgroup below (DelegateSubgroup=).
    #[test]
    fn is_the_callers_own_if_that_is_delegated() {
        let world = World::new("delegated");
        let probe = world.create("probe", &[]);
        let own = Own::new(&probe, "unit.service");
        let unit = own.1.last().unwrap().clone();
        // On v1 nobody hands controllers on: there it stays with the instance's own.
        let v2_only = own.1.len() == 1;
        fs::create_dir_all(unit.join("caller")).unwrap();
        let image = images::busybox().display().to_string();
        let create = |from: &str, name: &str| {
            let enter = "echo $$ >\"$0\"; quilt=$1; shift; exec \"$quilt\" \"$@\"";
            let procs = unit.join(from).join("cgroup.procs").display().to_string();
            let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
            let args = ["-c", enter, &procs, &quilt, "create", &image, "--name", name, "--memory", "32"];
            let record = world.run("sh", &args).go().ok().record();
            let path = record["cgroup"]["have"]["hierarchies"][0]["path"].as_str().unwrap().to_owned();
            (path, record["cgroup"]["have"]["notes"].clone())
        };
        // Not delegated: not touched.
        let (path, notes) = create("caller", "plain");
        assert!(!path.contains(&own.0) && notes.is_null(), "{path} {notes}");
        let unit_text = unit.display().to_string();
        world.run("setfattr", &["-n", "trusted.delegate", "-v", "1", &unit_text]).go().ok();
        let (path, notes) = create("caller", "lent");
        if !v2_only {
            assert!(!path.contains(&own.0) && notes.is_null(), "{path} {notes}");
            return;
        }
        assert!(path.starts_with(&format!("{unit_text}/quilt-")) && notes.is_null(), "{path} {notes}");
        world.quilt(&["exec", "lent", "echo", "hi"]).is(0, "hi\n", "");
        // What the unit was not given is not taken from above it.
        let cpuset = || fs::read_to_string(unit.join("cgroup.controllers")).unwrap().contains("cpuset");
        if !cpuset() {
            let out = world.quilt(&["update", "lent", "--memory", "48", "--cpuset", "0"]);
            out.refused("quilt-update", "unsupported");
            assert!(!cpuset() && out.stderr.contains("has no cpuset controller"), "{out:?}");
            // As systemd does, which gives a unit with Delegate=yes all there are.
            fs::write(unit.parent().unwrap().join("cgroup.subtree_control"), "+cpuset").unwrap();
        }
        world.quilt(&["update", "lent", "--memory", "48", "--cpuset", "0"]).ok();
        assert_eq!(fs::read_to_string(Path::new(&path).join("memory.max")).unwrap().trim(), (48 << 20).to_string());
        assert!(world.exec("lent", &["grep", "Cpus_allowed_list", "/proc/self/status"]).ends_with("\t0\n"));
        world.quilt(&["rm", "-f", "lent"]).ok();
        assert!(!Path::new(&path).parent().unwrap().exists(), "nothing of Quilt's is left in it");
        // Asked for by name.
        let record = world.create("named", &["--cgroup-parent", &format!("/{}/pool", own.0)]);
        let named = record["cgroup"]["have"]["hierarchies"][0]["path"].as_str().unwrap();
        assert!(named.starts_with(&format!("{unit_text}/pool/quilt-")), "{named}");
        world.quilt(&["rm", "-f", "named"]).ok();
        fs::remove_dir(unit.join("pool")).unwrap();
        // With processes in it, it can have no controllers for others: that is said, and the instance's own taken.
        fs::write(unit.join("cgroup.subtree_control"), "-cpu -memory -pids -io -cpuset").unwrap();
        let (path, notes) = create("", "beside");
        assert!(path.starts_with("/sys/fs/cgroup/quilt-"), "{path}");
        assert!(notes[0].as_str().unwrap().contains("has processes in it"), "{notes}");
        world.quilt(&["rm", "-f", "--all"]).ok();
    }
}
