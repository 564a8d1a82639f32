//! Pausing: everything stands still, says so, and goes on; and whatever ends a container ends a paused one.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::exec::running;
use crate::harness::{Inventory, Out, SETTLE, World, eventually};
use crate::lifecycle::state_of;

const SECOND: Duration = Duration::from_secs(1);

/// A command that writes a byte after another, starts nothing, and ends with 7 when it is asked to.
const BUSY: &str = "trap 'echo bye; exit 7' TERM; trap 'echo usr1' USR1; mkfifo /tmp/f 2>/dev/null; exec 3<>/tmp/f
    while :; do printf . >>/tmp/dots; read -t 0.01 x <&3; done";

/// How many bytes the command has written, as seen from outside.
struct Dots(PathBuf);

impl Dots {
    fn of(record: &Value) -> Dots {
        Dots(PathBuf::from(record["unpack"]["have"]["upper"].as_str().unwrap()).join("tmp/dots"))
    }

    fn count(&self) -> u64 {
        fs::metadata(&self.0).map_or(0, |m| m.len())
    }

    fn grows(&self) -> bool {
        let before = self.count();
        eventually(5 * SECOND, || self.count() > before)
    }

    fn stands(&self) -> bool {
        let before = self.count();
        !eventually(SECOND / 5, || self.count() > before)
    }
}

/// A world with a container `box` that is busy.
fn world(name: &str) -> (World, Dots) {
    let world = World::new(name);
    let dots = Dots::of(&world.create("box", &["--", "sh", "-c", BUSY]));
    assert!(dots.grows());
    (world, dots)
}

/// It must have been refused because of the pause.
#[track_caller]
fn paused(out: &Out, tool: &str) {
    let expected = format!("{tool}: the container box is paused: `quilt unpause box`\n");
    assert_eq!((out.status, out.stdout.as_str(), out.stderr.as_str()), (125, "", expected.as_str()), "{out:?}");
}

#[test]
fn all_of_it_stands_still_and_goes_on() {
    let (world, dots) = world("pause");
    let before = world.inventory();
    for _ in 0..2 {
        // A second time is no error.
        world.quilt(&["pause", "box"]).is(0, "", "");
        assert!(dots.stands(), "it goes on though it is paused");
    }
    assert_eq!(world.inventory(), before);
    assert_eq!(state_of(&world, "box"), "paused");
    assert_eq!(world.quilt(&["inspect", "box"]).ok().record()["status"], "paused");
    assert!(world.quilt(&["ls", "--table"]).ok().stdout.contains(" paused "));
    world.quilt(&["ls", "--quiet", "--running"]).is(0, "box\n", "");
    world.quilt(&["ls", "--quiet", "--stopped"]).is(0, "", "");
    for _ in 0..2 {
        world.quilt(&["unpause", "box"]).is(0, "", "");
        assert!(dots.grows(), "it does not go on");
    }
    assert_eq!(state_of(&world, "box"), "running");
    world.quilt(&["exec", "box", "echo", "on"]).is(0, "on\n", "");
}

#[test]
fn what_does_not_run_cannot_be_paused() {
    let (world, dots) = world("pause-which");
    world.create("other", &[]);
    world.quilt(&["stop", "other"]).ok();
    for verb in ["pause", "unpause"] {
        let tool = format!("quilt-{verb}");
        world.quilt(&[verb, "nobody"]).refused(&tool, "not_found");
        world.quilt(&[verb, "other"]).refused(&tool, "not_found");
        world.quilt(&[verb]).misused();
    }
    // Of all, those that run.
    world.quilt(&["pause", "--all"]).is(0, "", "");
    assert!(dots.stands());
    assert_eq!((state_of(&world, "box"), state_of(&world, "other")), ("paused".to_owned(), "stopped".to_owned()));
    world.quilt(&["unpause", "--all"]).is(0, "", "");
    assert!(dots.grows());
    // Several, one of which is not there.
    let out = world.quilt(&["pause", "nobody", "box"]);
    assert_eq!((out.status, out.stderr.lines().count()), (11, 1), "{out:?}");
    assert!(dots.stands());
}

#[test]
fn nobody_gets_in_and_is_told_so_at_once() {
    let world = World::new("pause-exec");
    world.create("box", &["--health-check", "true"]);
    world.quilt(&["pause", "box"]).ok();
    let before = world.inventory();
    let out = world.quilt(&["exec", "box", "true"]);
    paused(&out, "quilt-exec");
    assert!(out.took < 3 * SECOND, "{out:?}");
    let out = world.quilt(&["exec", "--timeout", "10s", "-u", "agent", "box", "true"]);
    paused(&out, "quilt-exec");
    assert!(out.took < 3 * SECOND, "{out:?}");
    let out = world.quilt(&["probe", "box"]);
    assert!(out.took < 3 * SECOND, "{out:?}");
    let error = out.failed("quilt-probe", "not_ready");
    assert_eq!(
        (&error["step"], &error["message"]),
        (&"process".into(), &"the container box is paused: `quilt unpause box`".into())
    );
    let phases = out.record()["probe"]["have"]["phases"].as_array().unwrap().len();
    assert_eq!(phases, 1, "{out:?}");
    world.quilt(&["start", "box"]).failed("quilt-spec", "exists");
    world.assert_same(&before, SETTLE);
    world.quilt(&["unpause", "box"]).ok();
    world.quilt(&["probe", "box"]).ok();
    world.quilt(&["exec", "box", "echo", "in"]).is(0, "in\n", "");
}

#[test]
fn a_paused_one_can_be_stopped() {
    let (world, dots) = world("pause-stop");
    world.quilt(&["pause", "box"]).ok();
    let wait = world.command(&["wait", "box"]).start();
    let logs = world.command(&["logs", "-f", "box"]).start();
    // It is asked, and has its say.
    let out = world.quilt(&["stop", "box"]).ok();
    assert!(out.took < 3 * SECOND, "{out:?}");
    wait.finish().is(0, "7\n", "");
    logs.finish().is(0, "bye\n", "");
    assert_eq!(state_of(&world, "box"), "stopped");
    world.quilt(&["start", "box"]).ok();
    assert!(dots.grows());
    world.quilt(&["pause", "box"]).ok();
    world.quilt(&["restart", "box"]).ok();
    assert_eq!(state_of(&world, "box"), "running");
    assert!(dots.grows());
}

#[test]
fn a_paused_one_can_be_killed_and_removed() {
    let world = World::new("pause-kill");
    world.create("warm", &[]);
    world.quilt(&["rm", "-f", "warm"]).ok();
    let before = world.inventory();
    for pid in ["private", "host"] {
        let dots = Dots::of(&world.create("box", &[&world.pids(pid)[..], &["--", "sh", "-c", BUSY]].concat()));
        assert!(dots.grows());
        world.quilt(&["pause", "box"]).ok();
        // Any signal but the last comes when it goes on.
        world.quilt(&["kill", "-s", "USR1", "box"]).is(0, "", "");
        assert!(dots.stands());
        world.quilt(&["logs", "box"]).is(0, "", "");
        world.quilt(&["unpause", "box"]).ok();
        assert!(eventually(5 * SECOND, || world.quilt(&["logs", "box"]).stdout == "usr1\n"));
        world.quilt(&["pause", "box"]).ok();
        let out = world.quilt(&["kill", "box"]).ok();
        assert!(out.took < 5 * SECOND, "{out:?}");
        assert!(eventually(SECOND, || state_of(&world, "box") == "stopped"));
        world.quilt(&["wait", "box"]).is(0, "137\n", "");
        world.quilt(&["start", "box"]).ok();
        assert_eq!(state_of(&world, "box"), "running");
        world.quilt(&["pause", "box"]).ok();
        world.quilt(&["rm", "box"]).refused("quilt-rm", "busy");
        let out = world.quilt(&["rm", "-f", "box"]).ok();
        assert!(out.took < 5 * SECOND, "{out:?}");
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn a_command_that_runs_stands_still_and_its_time_runs_on() {
    let (world, dots) = world("pause-running");
    let before = world.inventory();
    let lasting = world.command(&["exec", "box", "sh", "-c", "touch /tmp/on; sleep 1.2; echo done"]).start();
    let timed = world.command(&["exec", "--timeout", "700ms", "box", "sh", "-c", "sleep 71 & exec sleep 72"]).start();
    assert!(eventually(5 * SECOND, || running("sleep 71") + running("sleep 72") == 2));
    world.quilt(&["pause", "box"]).ok();
    timed.finish().is(124, "", "quilt-exec: timed out after 700ms\n");
    assert_eq!(running("sleep 71") + running("sleep 72"), 0, "killed while frozen");
    assert!(dots.stands(), "the kill of one command set the others free");
    assert_eq!(state_of(&world, "box"), "paused");
    world.quilt(&["unpause", "box"]).ok();
    lasting.finish().is(0, "done\n", "");
    assert!(dots.grows());
    world.assert_same(&before, SECOND);
}

#[test]
fn a_killed_exec_leaves_nothing_in_a_paused_one() {
    let (world, dots) = world("pause-orphan");
    let before = world.inventory();
    for end in ["unpause", "rm"] {
        let exec = world.command(&["exec", "box", "sh", "-c", "sleep 73 & exec sleep 74"]).start();
        assert!(eventually(5 * SECOND, || running("sleep 73") + running("sleep 74") == 2));
        world.quilt(&["pause", "box"]).ok();
        exec.kill_group();
        if end == "unpause" {
            assert!(dots.stands());
            world.quilt(&["unpause", "box"]).ok();
            world.assert_same(&before, SECOND);
        } else {
            world.quilt(&["rm", "-f", "box"]).ok();
        }
        assert!(eventually(SECOND, || running("sleep 73") + running("sleep 74") == 0));
    }
}

#[test]
fn pauses_and_commands_at_the_same_time() {
    let (world, _) = world("pause-race");
    let before: Inventory = world.inventory();
    let deadline = Instant::now() + 4 * SECOND;
    let mut n = 0;
    while Instant::now() < deadline {
        let all: Vec<_> = (0..6).map(|_| world.command(&["exec", "box", "echo", "in"]).start()).collect();
        let pause = world.command(&["pause", "box"]).start();
        pause.finish().is(0, "", "");
        world.quilt(&["unpause", "box"]).is(0, "", "");
        for exec in all {
            let out = exec.finish();
            if out.status != 0 {
                paused(&out, "quilt-exec");
            }
        }
        n += 1;
    }
    assert!(n > 0);
    world.assert_same(&before, SECOND);
    // One that is on its way in when the pause comes, and stays.
    for _ in 0..10 {
        let all: Vec<_> = (0..4).map(|_| world.command(&["exec", "box", "true"]).start()).collect();
        world.quilt(&["pause", "box"]).is(0, "", "");
        let late: Vec<_> = (0..2).map(|_| world.command(&["exec", "--timeout", "3s", "box", "true"]).start()).collect();
        late.into_iter().for_each(|exec| paused(&exec.finish(), "quilt-exec"));
        world.quilt(&["unpause", "box"]).is(0, "", "");
        all.into_iter().for_each(|exec| assert!(matches!(exec.finish().status, 0 | 125)));
    }
    world.assert_same(&before, SECOND);
}

#[test]
fn ten_pauses_at_once() {
    let (world, dots) = world("pause-many");
    for verb in ["pause", "unpause"] {
        let all: Vec<_> = (0..10).map(|_| world.command(&[verb, "box"]).start()).collect();
        all.into_iter().for_each(|one| drop(one.finish().is(0, "", "")));
    }
    assert!(dots.grows());
}
