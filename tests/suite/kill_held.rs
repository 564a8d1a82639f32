//! Killing is complete: whoever hides below a leaf or outside of it, stands still, or is held by others.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quilt_record::have::Hierarchy;
use quilt_record::leaf::{self, Leaf};

use crate::exec::running;
use crate::harness::{SETTLE, World, eventually};
use crate::kill::{CHAINS, DAEMONS, SOON, create, hierarchies, judge, on, quick, world};
use crate::lifecycle::state_of;

const SECOND: Duration = Duration::from_secs(1);

/// Moves a process, as root outside does it.
fn put(pid: i32, dir: &Path) {
    fs::write(dir.join("cgroup.procs"), pid.to_string()).unwrap();
}

/// Freezes a cgroup, as somebody else would.
fn freeze(dir: &Path, version: u8) {
    let (file, text) = if version == 2 { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
    fs::write(dir.join(file), text).unwrap();
}

#[test]
fn cgroups_below_a_leaf_go_with_it() {
    let (world, before) = world("kill-nested");
    for (pid, frozen) in [("private", false), ("private", true), ("host", false), ("host", true)] {
        let record = world.create("box", &[&world.pids(pid)[..], &["--stop-timeout", "200ms"]].concat());
        let judge = judge(&record);
        let exec = world.command(&["exec", "--timeout", "700ms", "box", "sleep", "1000"]).start();
        let find = || {
            fs::read_dir(&judge.path).unwrap().flatten().map(|e| e.path()).find(|p| p.to_string_lossy().contains("/x-"))
        };
        let inside = |leaf: &Path| fs::read_to_string(leaf.join("cgroup.procs")).unwrap().trim().parse::<i32>().ok();
        assert!(eventually(SOON, || running("sleep 1000") == 1));
        let (leaf, init) = (find().unwrap(), judge.path.join("init"));
        for (leaf, pid) in [(&leaf, inside(&leaf).unwrap()), (&init, world.init("box"))] {
            fs::create_dir_all(leaf.join("a/b/c")).unwrap();
            fs::create_dir_all(leaf.join("d")).unwrap();
            put(pid, &leaf.join("a/b"));
            if frozen {
                freeze(&leaf.join("a"), judge.version);
                freeze(&leaf.join("a/b"), judge.version);
            }
        }
        exec.finish().is(124, "", "quilt-exec: timed out after 700ms\n");
        assert!(!leaf.exists(), "the command's leaf is left");
        if pid == "private" {
            quick(world.quilt(&["stop", "box"]));
            assert!(!judge.path.exists());
            quick(world.quilt(&["rm", "box"]));
        } else {
            quick(world.quilt(&["rm", "-f", "box"]));
        }
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn a_threaded_cgroup_below_a_leaf_goes_with_it() {
    let (world, before) = world("kill-threaded");
    let record = create(&world, "host", DAEMONS);
    let judge = judge(&record);
    let below = judge.path.join("init/threads");
    fs::create_dir(&below).unwrap();
    if judge.version == 2 {
        fs::write(below.join("cgroup.type"), "threaded").unwrap();
        fs::write(below.join("cgroup.threads"), world.init("box").to_string()).unwrap();
    } else {
        fs::write(below.join("tasks"), world.init("box").to_string()).unwrap();
    }
    assert!(Leaf::open(&hierarchies(&record), leaf::INIT).unwrap().pids().unwrap().contains(&world.init("box")));
    leaf::kill_all_by_freezing(&hierarchies(&record), SOON).unwrap();
    quick(world.quilt(&["start", "box"]));
    on(&record);
    quick(world.quilt(&["rm", "-f", "box"]));
    world.assert_same(&before, SETTLE);
}

#[test]
fn the_frozen_the_stopped_and_the_traced_are_killed() {
    let (world, before) = world("kill-held");
    type Hold = fn(&World, &Hierarchy);
    let hold: [(&str, Hold); 3] = [
        ("frozen from above", |_, judge| freeze(judge.path.parent().unwrap(), judge.version)),
        ("stopped", |world, _| kill(Pid::from_raw(world.init("box")), Signal::SIGSTOP).unwrap()),
        ("traced", |world, _| {
            let init = Pid::from_raw(world.init("box"));
            ptrace::seize(init, ptrace::Options::empty()).unwrap();
            ptrace::interrupt(init).unwrap();
        }),
    ];
    for (what, hold) in hold {
        for pid in ["private", "host"] {
            let judge = judge(&create(&world, pid, DAEMONS));
            hold(&world, &judge);
            let out = quick(world.quilt(&["rm", "-f", "box"]));
            assert_eq!(out.stderr, "", "{what}");
            let parent = judge.path.parent().unwrap();
            let thaw = if judge.version == 2 { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
            fs::write(parent.join(thaw.0), thaw.1).unwrap();
            world.assert_same(&before, SETTLE);
        }
    }
}

#[test]
fn who_was_moved_out_of_the_leaves_is_found() {
    let (world, before) = world("kill-moved");
    for verb in ["rm", "undo"] {
        let record = create(&world, "host", DAEMONS);
        let (all, judge) = (hierarchies(&record), judge(&record));
        let daemons = Leaf::open(&all, leaf::INIT).unwrap().pids().unwrap();
        assert!(daemons.len() > 40, "{daemons:?}");
        // Another directory of the container's still has them, where there is one.
        if all.len() > 1 {
            let out = judge.path.parent().unwrap().join("cgroup.procs");
            for pid in daemons.iter().filter(|pid| **pid != world.init("box")) {
                // Some end by themselves.
                let _ = fs::write(&out, pid.to_string());
            }
        }
        match verb {
            "rm" => quick(world.quilt(&["rm", "-f", "box"])),
            _ => {
                kill(Pid::from_raw(world.init("box")), Signal::SIGKILL).unwrap();
                let root = world.root.display().to_string();
                quick(world.tool("quilt-cgroup", &["--undo", "--id", "box", "--root", &root]).go());
                quick(world.quilt(&["rm", "-f", "box"]))
            }
        };
        world.assert_same(&before, SETTLE);
    }
}

/// Directories of the test's own where there is a freezer: v1's if this machine has it, whatever its containers use.
struct Own {
    all: Vec<Hierarchy>,
    version: u8,
    top: PathBuf,
}

impl Own {
    fn new() -> Own {
        let places = [("/sys/fs/cgroup/freezer", 1), ("/sys/fs/cgroup/unified", 2), ("/sys/fs/cgroup", 2)];
        let (place, version) =
            places.into_iter().find(|(place, _)| Path::new(place).join("cgroup.procs").exists()).unwrap();
        let top = Path::new(place).join(format!("a-test-{}", std::process::id()));
        fs::create_dir_all(top.join("box/leaf/below")).unwrap();
        let controllers = if version == 1 { "freezer".to_owned() } else { String::new() };
        Own { all: vec![Hierarchy { version, controllers, path: top.join("box") }], version, top }
    }

    fn leaf(&self) -> PathBuf {
        self.top.join("box/leaf")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = leaf::unpause(&self.all);
        let _ = leaf::kill_strays(&self.all, SOON);
        for dir in ["box/leaf/below", "box/leaf", "box", ""] {
            let _ = fs::remove_dir(self.top.join(dir));
        }
    }
}

#[test]
fn a_leaf_is_killed_in_a_frozen_container_by_either_freezer() {
    let world = World::new("kill-by-hand");
    let own = Own::new();
    let before = world.inventory();
    let script = |dir: &Path, rest: &str| format!("echo $$ >{}/cgroup.procs; {rest}", dir.display());
    let chains = CHAINS.replace(": >/tmp/on; ", "");
    for (frozen, below) in [(false, false), (true, false), (false, true), (true, true)] {
        let other = world.run("sh", &["-c", &script(&own.top.join("box"), "exec sleep 1000")]).start();
        let first = world.run("sh", &["-c", &script(&own.leaf(), &chains)]).start();
        let second =
            world.run("sh", &["-c", &script(&own.leaf().join("below"), "sleep 900 & exec sleep 1000")]).start();
        let leaf = Leaf::open(&own.all, "leaf").unwrap();
        let lines = |dir: &Path| fs::read_to_string(dir.join("cgroup.procs")).unwrap().lines().count();
        let all_in =
            || lines(&own.leaf()) > 0 && lines(&own.leaf().join("below")) == 2 && lines(&own.top.join("box")) == 1;
        assert!(eventually(SOON, all_in));
        if below {
            freeze(&own.leaf().join("below"), own.version);
        }
        if frozen {
            leaf::pause(&own.all, SOON).unwrap();
        }
        assert_eq!(leaf::is_paused(&own.all).unwrap(), frozen);
        leaf.kill(SOON).unwrap();
        assert_eq!((leaf.populated().unwrap(), leaf.pids().unwrap()), (false, Vec::new()));
        assert!(leaf.remove().unwrap() && !own.leaf().exists());
        assert_eq!(leaf::is_paused(&own.all).unwrap(), frozen, "what is above was thawed");
        assert_eq!((first.finish().status, second.finish().status), (137, 137));
        leaf::kill_all(&own.all, SOON).unwrap();
        assert_eq!(other.finish().status, 137);
        assert!(!leaf::is_paused(&own.all).unwrap() || own.version == 2);
        leaf::unpause(&own.all).unwrap();
        fs::create_dir_all(own.leaf().join("below")).unwrap();
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn what_cannot_die_or_freeze_is_said_in_time() {
    let (world, before) = world("kill-never");
    let own = Own::new();
    let record = create(&world, "host", "touch /tmp/on; exec sleep 1000");
    let all = hierarchies(&record);
    if own.version == 2 || judge(&record).version == 1 {
        // Only v1's freezer, beside a v2 tree, makes a process that no signal reaches.
        return;
    }
    put(world.init("box"), &own.leaf());
    freeze(&own.leaf(), 1);
    for kill in [leaf::kill_all, leaf::kill_all_by_freezing] {
        let started = Instant::now();
        let error = kill(&all, SECOND / 2).unwrap_err();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("timeout", "some still live"));
        assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
        assert!(!leaf::is_paused(&all).unwrap());
    }
    drop(own);
    world.quilt(&["rm", "-f", "box"]).ok();
    // One that has no signal, and does not stop.
    let own = Own::new();
    create(&world, "host", "touch /tmp/on; exec sleep 1000");
    put(world.init("box"), &own.leaf());
    freeze(&own.leaf(), 1);
    let out = world.quilt(&["pause", "box"]);
    out.refused("quilt-pause", "timeout");
    assert!(out.took > 9 * SECOND && out.took < 12 * SECOND, "{out:?}");
    assert_eq!(state_of(&world, "box"), "running");
    // A pause that is given up.
    let pause = world.command(&["pause", "box"]).start();
    assert!(eventually(SOON, || state_of(&world, "box") == "paused"));
    pause.signal(Signal::SIGTERM);
    pause.finish().refused("quilt-pause", "interrupted");
    assert_eq!(state_of(&world, "box"), "running");
    drop(own);
    world.quilt(&["rm", "-f", "box"]).ok();
    world.assert_same(&before, SETTLE);
}
