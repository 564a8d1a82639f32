//! `quilt run`: a container for one command.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::inventory::processes;
use crate::harness::{SETTLE, World, eventually, images};

/// A world that has had a container, its inventory, and the image's path.
fn warm(name: &str) -> (World, crate::harness::Inventory, String) {
    let world = World::new(name);
    world.create("warm", &[]);
    world.quilt(&["rm", "-f", "warm"]).ok();
    let before = world.inventory();
    (world, before, images::busybox().display().to_string())
}

fn running(name: &str) -> bool {
    let line = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    processes().iter().any(|p| line(p.pid).replace('\0', " ").trim_end() == name)
}

#[test]
fn the_commands_output_and_status_and_nothing_else() {
    let (world, before, image) = warm("run");
    for status in [0, 1, 10, 125, 255] {
        let script = format!("echo out; echo err >&2; exit {status}");
        world.quilt(&["run", &image, "--", "sh", "-c", &script]).is(status, "out\n", "err\n");
        world.assert_same(&before, SETTLE);
    }
    world.command(&["run", &image, "-i", "--", "cat"]).stdin("from the caller").go().is(0, "from the caller", "");
    world.quilt(&["run", &image, "--env", "A=b c", "--", "sh", "-c", "echo $A"]).is(0, "b c\n", "");
    let out = world.quilt(&["run", &image, "--", "no-such-command"]);
    assert!(out.status == 127 && out.stdout.is_empty() && out.stderr.lines().count() == 1, "{out:?}");
    let out = world.quilt(&["run", "/no/such/image", "--", "true"]);
    assert!(out.status != 0 && out.stderr.lines().count() == 1, "{out:?}");
    world.quilt(&["run"]).misused();
    world.assert_same(&before, SETTLE);
}

#[test]
fn gone_whoever_is_killed() {
    let (world, before, image) = warm("killed");
    for (victim, signal) in [
        ("wrapper", Signal::SIGTERM),
        ("wrapper", Signal::SIGKILL),
        ("group", Signal::SIGTERM),
        ("group", Signal::SIGINT),
        ("caller", Signal::SIGKILL),
    ] {
        let args = ["run", &image, "--name", "box", "--", "sleep", "91"];
        let run = if victim == "caller" {
            let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
            world.run("sh", &["-c", &format!("{quilt} {}; echo done", args.join(" "))]).start()
        } else {
            world.command(&args).start()
        };
        assert!(eventually(Duration::from_secs(5), || running("sleep 91")), "{victim}");
        match victim {
            "group" => run.signal_group(signal),
            _ => run.signal(signal),
        }
        let what = format!("{victim} {signal}");
        let out = run.finish();
        assert_ne!(out.status, 0, "{what}: {out:?}");
        assert!(eventually(SETTLE, || !running("sleep 91")), "{what}: the command lives");
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn gone_after_gc_if_the_whole_group_was_killed() {
    let (world, before, image) = warm("group");
    let run = world.command(&["run", &image, "--", "sleep", "92"]).start();
    assert!(eventually(Duration::from_secs(5), || running("sleep 92")));
    run.kill_group();
    world.quilt(&["gc"]).ok();
    world.assert_same(&before, SETTLE);
}
