//! Ready means: seen to be ready, with evidence. Not ready means: gone, and the reason named.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::inventory::processes;
use crate::harness::{Out, Run, SETTLE, World, images, patient};

/// `quilt create IMAGE --name red ARGS…`, whatever comes of it.
fn try_create(world: &World, args: &[&str]) -> Out {
    let image = images::busybox().display().to_string();
    world.quilt(&[&["create", &image, "--name", "red"], args].concat())
}

fn phases(record: &Value) -> Vec<Value> {
    record["probe"]["have"]["phases"].as_array().unwrap().clone()
}

/// A world with one container in it and then some, so that what a failed create leaves stands out.
fn warm(name: &str) -> World {
    let world = World::new(name);
    world.create("green", &[]);
    world
}

#[test]
fn every_phase_shows_its_evidence() {
    let world = World::new("evidence");
    let record = world.create("box", &["--health-check", "echo fine; exit 0"]);
    let have = &record["probe"]["have"];
    let mut total = 0;
    for phase in phases(&record) {
        assert_eq!((&phase["ok"], &phase["tries"]), (&json!(true), &json!(1)), "{phase}");
        let us = phase["us"].as_u64().unwrap();
        assert!(phase["evidence"].as_object().is_some_and(|e| !e.is_empty()), "{phase}");
        total += us;
    }
    assert!(total > 0 && total <= have["us"].as_u64().unwrap() + 5, "{have}");
    let evidence =
        |name: &str| phases(&record).into_iter().find(|p| p["name"] == name).unwrap()["evidence"].to_string();
    let init = world.init("box");
    assert!(evidence("process").contains(&init.to_string()), "{}", evidence("process"));
    let net = std::fs::read_link(format!("/proc/{init}/ns/net")).unwrap().display().to_string();
    let number = net.trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
    assert!(evidence("namespaces").contains(&number), "{}", evidence("namespaces"));
    assert!(evidence("network").contains("10.91.0.1"), "{}", evidence("network"));
    assert!(evidence("health").contains("fine"), "{}", evidence("health"));
    // And again, alone: the record, and the same on disk.
    let again = world.quilt(&["probe", "box"]).ok();
    assert_eq!(again.stderr, "");
    assert_eq!(phases(&again.record()).len(), 5);
    world.tool("quilt-probe", &["--id", "box"]).go().ok();
}

#[test]
fn an_image_without_anything_is_ready() {
    let world = World::new("distroless");
    let image = world.path("empty");
    std::fs::create_dir(&image).unwrap();
    let record = world.create_from(&image, "box", &[]);
    assert_eq!(phases(&record).len(), 4);
    assert_eq!(world.quilt(&["exec", "box", "sh"]).status, 127);
    world.quilt(&["probe", "box"]).ok();
}

#[test]
fn a_red_check_undoes_the_container() {
    let world = warm("red");
    let before = world.inventory();
    let out = try_create(&world, &["--health-check", "echo first; echo the reason >&2; exit 3"]);
    let error = out.failed("quilt-probe", "not_ready");
    for part in ["health", "the reason", "3"] {
        assert!(out.stderr.contains(part), "{part}: {error}");
    }
    world.assert_same(&before, SETTLE);
    world.quilt(&["inspect", "red"]).refused("quilt-inspect", "not_found");
}

#[test]
fn a_red_container_can_be_kept_for_looking() {
    let world = warm("kept");
    let before = world.inventory();
    let out = try_create(&world, &["--keep-failed", "--health-check", "false"]);
    let error = out.failed("quilt-probe", "not_ready");
    assert!(
        error["message"].as_str().unwrap().contains("health") || error["step"].as_str().unwrap().contains("health")
    );
    assert_eq!(out.record()["probe"]["have"]["ready"], false);
    world.quilt(&["exec", "red", "echo", "looking"]).is(0, "looking\n", "");
    assert_eq!(world.quilt(&["probe", "red"]).status, 19);
    world.quilt(&["rm", "-f", "red"]).ok();
    world.assert_same(&before, SETTLE);
}

#[test]
fn a_check_may_take_a_few_tries() {
    let world = World::new("tries");
    let check = "echo x >>/tmp/tries; test $(wc -l </tmp/tries) -ge 3";
    let image = images::busybox().display().to_string();
    let out = world.quilt(&["create", &image, "--name", "box", "--health-check", check]).ok();
    let health = phases(&out.record()).pop().unwrap();
    assert_eq!((&health["name"], &health["tries"]), (&json!("health"), &json!(3)));
    assert!(out.took < patient(Duration::from_secs(5)), "a create does not wait for the interval: {:?}", out.took);
    // Retries count; with two there is no third try.
    let out = try_create(&world, &["--health-retries", "2", "--health-check", check]);
    out.failed("quilt-probe", "not_ready");
    // Within the start period failures do not.
    let args = ["--health-retries", "1", "--health-start-period", "5s", "--health-check", check];
    try_create(&world, &args).ok();
}

#[test]
fn a_check_is_shell_text_or_an_argv() {
    let world = World::new("argv");
    world.create("shell", &["--health-check", "test -d /tmp && test \"$X\" = 1", "--env", "X=1"]);
    world.create("argv", &["--health-check", r#"["test","-d","/tmp"]"#]);
    let out = try_create(&world, &["--health-check", r#"["test","-d","/tmp && true"]"#]);
    out.failed("quilt-probe", "not_ready");
    let out = try_create(&world, &["--health-check", r#"["no-such-program"]"#]);
    assert!(out.failed("quilt-probe", "not_ready").to_string().contains("no-such-program"));
    let out = try_create(&world, &["--health-check", r#"["unclosed""#]);
    assert!(matches!(out.status, 2 | 12 | 19), "{out:?}");
    world.quilt(&["rm", "-f", "--all"]).ok();
}

#[test]
fn deadlines() {
    let world = warm("deadlines");
    let before = world.inventory();
    let slow = ["--health-timeout", "200ms", "--health-retries", "1", "--health-check", "echo started; sleep 81"];
    let out = try_create(&world, &slow);
    assert!(out.failed("quilt-probe", "not_ready").to_string().contains("health"), "{out:?}");
    assert!(out.took < patient(Duration::from_secs(2)), "{out:?}");
    world.assert_same(&before, SETTLE);

    let out = try_create(&world, &["--timeout", "400", "--health-check", "sleep 82"]);
    assert!(matches!(out.status, 16 | 19) && out.stderr.contains("health"), "{out:?}");
    assert!(out.took > Duration::from_millis(400) && out.took < patient(Duration::from_secs(2)), "{out:?}");
    world.assert_same(&before, SETTLE);

    for flag in ["--health-interval", "--health-timeout", "--health-start-period"] {
        let out = try_create(&world, &[flag, "5"]);
        out.misused();
        assert!(out.stderr.contains("5s"), "no unit, and no word about it: {out:?}");
    }
}

#[test]
fn a_check_that_misbehaves() {
    let world = warm("misbehaves");
    let before = world.inventory();
    let brief = ["--health-timeout", "500ms", "--health-retries", "1", "--health-check"];
    let flood = try_create(&world, &[&brief[..], &["yes flood; exit 1"]].concat());
    flood.failed("quilt-probe", "not_ready");
    assert!(flood.stderr.len() < 10_000 && flood.stdout.len() < 40_000, "{}", flood.stderr.len());
    let deaf =
        try_create(&world, &[&brief[..], &["trap '' TERM INT HUP; setsid sleep 83 & sleep 84; sleep 85"]].concat());
    deaf.failed("quilt-probe", "not_ready");
    world.assert_same(&before, SETTLE);
    // A daemon of the check's does not outlive it, and does not hold it.
    let daemon = try_create(&world, &["--health-check", "setsid sleep 86 & exit 0"]).ok();
    assert!(daemon.took < patient(Duration::from_secs(2)));
    let line = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(!processes().iter().any(|p| line(p.pid) == "sleep\x0086\0"), "the check's daemon lives on");
    world.quilt(&["rm", "-f", "red"]).ok();
    world.assert_same(&before, SETTLE);
}

#[test]
fn no_arp_from_the_bridge_is_no_network() {
    let world = warm("arp");
    let bridge = world.quilt(&["inspect", "green"]).ok().record()["netns"]["have"]["link"]["bridge"].clone();
    let arp =
        |state: &str| Run::new("ip").args(&["link", "set", "dev", bridge.as_str().unwrap(), "arp", state]).go().ok();
    arp("off");
    let before = world.inventory();
    let out = try_create(&world, &[]);
    let error = out.failed("quilt-probe", "not_ready");
    assert!(error.to_string().contains("network") && out.stderr.contains("network"), "{error}");
    // Two seconds are the phase's own; the rest of a create takes some hundredths.
    assert!(out.took < patient(Duration::from_millis(2500)), "{out:?}");
    world.assert_same(&before, SETTLE);
    let failing = world.quilt(&["probe", "green"]);
    assert!(failing.status == 19 && failing.stderr.contains("network"), "{failing:?}");
    arp("on");
    world.quilt(&["probe", "green"]).ok();
}

#[test]
fn a_dead_container_is_told_from_a_sick_one() {
    let world = warm("dead");
    kill(Pid::from_raw(world.init("green")), Signal::SIGKILL).unwrap();
    let out = world.quilt(&["probe", "green"]);
    assert!(out.status == 19 && out.stderr.contains("process"), "{out:?}");
    world.quilt(&["probe", "nobody"]).failed("quilt-probe", "not_found");
    // Death while a check runs ends the check at once.
    let image = images::busybox().display().to_string();
    let args = ["create", &image, "--name", "red", "--health-check", "sleep 87", "--", "sleep", "0.3"];
    let out = world.quilt(&args);
    assert!(
        out.failed("quilt-probe", "not_ready").to_string().contains("process")
            && out.took < patient(Duration::from_secs(2)),
        "{out:?}"
    );
}

#[test]
fn the_container_is_entered_once_and_nobody_sleeps() {
    let world = World::new("once");
    world.create("box", &["--health-check", "echo fine"]);
    let traced = |calls: &str, args: &[&str]| {
        let log = world.path("trace").display().to_string();
        let trace = format!("trace={calls}");
        let base = ["-f", "-qqq", "-e", "signal=none", "-e", &trace, "-o", &log];
        world.run("strace", &[&base, args].concat()).go().ok();
        std::fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect::<Vec<String>>()
    };
    // Exec phase and health check in one go: its mount namespace, with all that is in it, is entered once.
    let tool = crate::harness::bin().join("quilt-probe").display().to_string();
    let entered = traced("setns", &[&tool, "box"]);
    assert_eq!(entered.iter().filter(|l| l.contains("CLONE_NEWNS")).count(), 1, "{entered:#?}");
    // From create to rm no tool of Quilt's waits for time to pass.
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    let image = images::busybox().display().to_string();
    let slept = traced("nanosleep,clock_nanosleep", &[&quilt, "run", &image, "--health-check", "true", "--", "true"]);
    assert_eq!(slept, [""; 0]);
    let slept = traced("nanosleep,clock_nanosleep", &["sleep", "0.01"]);
    assert_eq!(slept.len(), 1, "the trace does not see sleeps: {slept:?}");
}
