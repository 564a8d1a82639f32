//! Killing is complete: nothing forks faster than it is killed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use quilt_record::have::Hierarchy;
use quilt_record::leaf;
use serde_json::Value;

use crate::harness::{Inventory, Out, SETTLE, World, eventually};
use crate::lifecycle::state_of;

const SECOND: Duration = Duration::from_secs(1);

/// How long a kill may take here, whatever it kills: these machines are slow, and emulated ones slower.
pub const SOON: Duration = Duration::from_secs(8);

/// Chains of processes each of which starts the next and ends: a list of them is old before it is read.
pub const CHAINS: &str = ": >/tmp/on; f() { f & }; f; f; f; f; exec sleep 1000";

/// As many as there may be, and all of them fork on.
const BOMB: &str = "mkfifo /tmp/f 2>/dev/null; exec 4<>/tmp/f; : >/tmp/on; exec 2>/dev/null
    g() { while :; do sleep 0.05 & done; }; for i in 1 2 3; do (while :; do g & sleep 0.01; done) & done; read x <&4";

/// Daemons: two forks away from who started them, in sessions of their own, deaf to all but one signal.
pub const DAEMONS: &str =
    "d() { (setsid sh -c 'trap \"\" TERM HUP INT; (while :; do sleep 1; done) & exec sleep 900' &); }
    for i in $(seq 20); do d; done; : >/tmp/on; exec sleep 1000";

/// The container's directories.
pub fn hierarchies(record: &Value) -> Vec<Hierarchy> {
    serde_json::from_value(record["cgroup"]["have"]["hierarchies"].clone()).unwrap()
}

/// The one with the leaves.
pub fn judge(record: &Value) -> Hierarchy {
    leaf::judge(&hierarchies(record)).unwrap().clone()
}

/// A container whose command is at it, limited to 150 processes. It begins when the container is ready: a bomb leaves no
/// room for the probe.
pub fn create(world: &World, pid: &'static str, script: &str) -> Value {
    let script = &format!("until [ -e /tmp/go ]; do sleep 0.02; done; {script}");
    let args = ["--pids", "150", "--stop-timeout", "200ms", "--", "sh", "-c", script];
    let record = world.create("box", &[&world.pids(pid)[..], &args].concat());
    world.exec("box", &["touch", "/tmp/go"]);
    on(&record);
    record
}

pub fn on(record: &Value) {
    let upper = PathBuf::from(record["unpack"]["have"]["upper"].as_str().unwrap());
    // Forty shells take their time where the machine is emulated.
    assert!(eventually(4 * SOON, || upper.join("tmp/on").exists()), "it does not come to it");
}

/// A warm world, and what there is in it.
pub fn world(name: &str) -> (World, Inventory) {
    let world = World::new(name);
    world.create("warm", &[]);
    world.quilt(&["rm", "-f", "warm"]).ok();
    let before = world.inventory();
    (world, before)
}

pub fn quick(out: Out) -> Out {
    assert!(out.took < SOON, "{out:?}");
    out.ok()
}

#[test]
fn whatever_forks_ends_with_the_container() {
    let (world, before) = world("kill-fork");
    for script in [CHAINS, BOMB, DAEMONS] {
        for pid in ["private", "host"] {
            create(&world, pid, script);
            quick(world.quilt(&["rm", "-f", "box"]));
            world.assert_same(&before, SETTLE);

            create(&world, pid, script);
            quick(world.quilt(&["kill", "box"]));
            assert!(eventually(SECOND, || state_of(&world, "box") == "stopped"), "{script}");
            let left = world.inventory();
            assert_eq!(left.of("processes"), before.of("processes"), "{pid} {script}");
            quick(world.quilt(&["stop", "box"]));
            quick(world.quilt(&["rm", "box"]));

            create(&world, pid, script);
            quick(world.quilt(&["stop", "box"]));
            assert_eq!(world.inventory().of("cgroups"), before.of("cgroups"), "{pid} {script}");
            assert_eq!(world.inventory().of("processes"), before.of("processes"), "{pid} {script}");
            quick(world.quilt(&["rm", "box"]));
            world.assert_same(&before, SETTLE);
        }
    }
}

#[test]
fn whatever_forks_ends_with_its_command() {
    let world = World::new("kill-exec");
    for pid in ["private", "host"] {
        let record = world.create("box", &[&world.pids(pid)[..], &["--pids", "150"]].concat());
        let before = world.inventory();
        let init = world.init("box");
        for script in [CHAINS, BOMB, DAEMONS] {
            let out = world.quilt(&["exec", "--timeout", "500ms", "box", "sh", "-c", script]);
            assert_eq!((out.status, out.took < SOON), (124, true), "{out:?}");
            world.assert_same(&before, SECOND);
            // The same without a word from the client.
            world.exec("box", &["rm", "/tmp/on"]);
            let exec = world.command(&["exec", "box", "sh", "-c", script]).start();
            on(&record);
            exec.kill_group();
            world.assert_same(&before, SOON);
        }
        assert_eq!(world.init("box"), init);
        world.quilt(&["rm", "-f", "box"]).ok();
    }
}

#[test]
fn freezing_kills_all_where_there_is_no_cgroup_kill() {
    let (world, before) = world("kill-slowly");
    for script in [CHAINS, BOMB, DAEMONS, "touch /tmp/on; kill -STOP $$"] {
        for pid in ["private", "host"] {
            let record = create(&world, pid, script);
            let started = Instant::now();
            leaf::kill_all_by_freezing(&hierarchies(&record), SOON).unwrap();
            assert!(started.elapsed() < SOON);
            let left = world.inventory();
            assert_eq!(left.of("processes"), before.of("processes"), "{pid} {script}");
            assert!(!leaf::is_paused(&hierarchies(&record)).unwrap());
            quick(world.quilt(&["rm", "box"]));
            world.assert_same(&before, SETTLE);
        }
    }
}
