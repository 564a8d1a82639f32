//! The operator's verbs.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Run, SETTLE, World, eventually, images, patient};
use crate::lifecycle::state_of;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn lists() {
    let world = World::new("ls");
    world.quilt(&["ls"]).is(0, "", "");
    world.create("web", &["--label", "team=a"]);
    world.create("db", &[]);
    world.quilt(&["stop", "db"]).ok();
    let all = world.quilt(&["ls"]).ok().objects();
    let ids: Vec<&str> = all.iter().map(|c| c["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["db", "web"]);
    assert_eq!((state_of(&world, "db"), state_of(&world, "web")), ("stopped".to_owned(), "running".to_owned()));
    let table = world.quilt(&["ls", "--table"]).ok().stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert!(rows[1].contains(&"db") && rows[1].contains(&"stopped"), "{table}");
    assert!(rows[2].contains(&"web") && rows[2].contains(&"running"), "{table}");
    // On a terminal a table, unless told otherwise.
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    let tty = |verb: &str| world.on_terminal(24, 80, &format!("{quilt} {verb}")).ok().stdout;
    assert_eq!(tty("ls").lines().count(), 3);
    assert!(tty("ls --json").starts_with("{\""));
    assert_eq!(world.quilt(&["ls", "--quiet"]).ok().stdout, "db\nweb\n");
}

#[test]
fn inspects_several() {
    let world = World::new("inspect");
    world.create("a", &[]);
    world.create("b", &[]);
    let both = world.quilt(&["inspect", "a", "b"]).ok().objects();
    assert_eq!(both.iter().map(|r| r["id"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b"]);
    let out = world.quilt(&["inspect", "a", "nobody", "b"]);
    assert_eq!((out.status, out.objects().len(), out.stderr.lines().count()), (11, 2, 1), "{out:?}");
    world.quilt(&["inspect"]).misused();
}

#[test]
fn stop_asks_first() {
    let world = World::new("stop");
    // The command has the time it asks for; what it does at TERM counts.
    let script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.02; done";
    world.create("polite", &["--", "sh", "-c", script]);
    world.create("deaf", &["--stop-timeout", "300ms", "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.02; done"]);
    assert!(eventually(2 * SECOND, || world.quilt(&["logs", "polite"]).stdout == "up\n"));
    let out = world.quilt(&["stop", "polite"]).ok();
    assert!(out.took < patient(2 * SECOND), "{out:?}");
    world.quilt(&["logs", "polite"]).is(0, "up\nbye\n", "");
    let out = world.quilt(&["stop", "deaf"]).ok();
    assert!(out.took > Duration::from_millis(250) && out.took < patient(3 * SECOND), "{out:?}");
    // Idle ones go at once, all together.
    for name in ["a", "b", "c"] {
        world.create(name, &[]);
    }
    let out = world.quilt(&["stop", "a", "b", "c"]).ok();
    assert!(out.took < patient(SECOND), "{out:?}");
    world.quilt(&["stop", "a"]).ok();
    world.quilt(&["stop", "nobody"]).refused("quilt-stop", "not_found");
    assert_eq!(world.inventory().of("processes").len(), 0, "{:?}", world.inventory().of("processes"));
}

#[test]
fn start_and_restart_keep_what_is_the_containers() {
    let world = World::new("start");
    let record = world.create("web", &["--memory", "64", "--env", "A=1"]);
    world.exec("web", &["sh", "-c", "echo x >/kept; echo y >/dev/shm/gone"]);
    let init = world.init("web");
    world.quilt(&["restart", "web"]).ok();
    assert_ne!(world.init("web"), init);
    let shown = world.quilt(&["inspect", "web"]).ok().record();
    assert_eq!(shown["netns"]["have"]["link"]["address"], record["netns"]["have"]["link"]["address"]);
    assert_eq!(shown["cgroup"], record["cgroup"]);
    world.quilt(&["exec", "web", "sh", "-c", "cat /kept; echo $A; ls /dev/shm"]).is(0, "x\n1\n", "");
    // What runs is left alone, and said to be running.
    let init = world.init("web");
    let out = world.quilt(&["start", "web"]);
    assert!(out.status != 0 || world.init("web") == init, "{out:?}");
    assert_eq!(world.init("web"), init);
    world.create("db", &[]);
    world.quilt(&["stop", "--all"]).ok();
    world.quilt(&["start", "--all"]).ok();
    assert_eq!((state_of(&world, "db"), state_of(&world, "web")), ("running".to_owned(), "running".to_owned()));
    let out = world.quilt(&["start", "nobody"]);
    assert!(out.status == 11 && out.stderr.lines().count() == 1, "{out:?}");
}

#[test]
fn kill_sends_a_signal() {
    let world = World::new("kill");
    let script = "trap 'echo usr1' USR1; echo up; while :; do sleep 0.02; done";
    world.create("web", &["--", "sh", "-c", script]);
    assert!(eventually(2 * SECOND, || world.quilt(&["logs", "web"]).stdout == "up\n"));
    world.quilt(&["kill", "--signal", "USR1", "web"]).ok();
    assert!(eventually(2 * SECOND, || world.quilt(&["logs", "web"]).stdout == "up\nusr1\n"));
    world.quilt(&["kill", "web"]).ok();
    assert!(eventually(SECOND, || state_of(&world, "web") == "stopped"));
    world.quilt(&["kill", "nobody"]).refused("quilt-kill", "not_found");
    world.quilt(&["kill", "--signal", "NONSENSE", "web"]).misused();
}

#[test]
fn wait_tells_the_exit_status() {
    let world = World::new("wait");
    world.create("seven", &["--", "sh", "-c", "sleep 0.3; exit 7"]);
    world.quilt(&["wait", "seven"]).is(0, "7\n", "");
    // Later as well.
    world.quilt(&["wait", "seven"]).is(0, "7\n", "");
    assert_eq!(state_of(&world, "seven"), "stopped");
    world.quilt(&["wait", "nobody"]).refused("quilt-wait", "not_found");
    // A wait does not hold the container: it may be removed meanwhile.
    world.create("idle", &[]);
    let waiting = world.command(&["wait", "idle"]).start();
    world.quilt(&["rm", "-f", "idle"]).ok();
    waiting.finish();
}

#[test]
fn logs_and_their_cap() {
    let world = World::new("logs");
    world.create("web", &["--", "sh", "-c", "echo out; echo err >&2; sleep 1000"]);
    let logged = || world.quilt(&["logs", "web"]).ok().stdout;
    assert!(eventually(2 * SECOND, || logged().lines().count() == 2));
    let mut lines: Vec<String> = logged().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    world.quilt(&["rm", "-f", "web"]).ok();

    // The newest is kept, and the disk is not filled.
    world.create(
        "flood",
        &[
            "--log-size",
            "64K",
            "--",
            "sh",
            "-c",
            "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); echo line $i; done; sleep 1000",
        ],
    );
    assert!(eventually(10 * SECOND, || world.quilt(&["logs", "flood"]).stdout.ends_with("line 40000\n")));
    let dir = world.root.join("containers/flood");
    let size: u64 = ["log", "log.1"].iter().filter_map(|f| std::fs::metadata(dir.join(f)).ok()).map(|m| m.len()).sum();
    assert!(size <= 2 * (64 << 10) + 4096, "{size}");
    let log = world.quilt(&["logs", "flood"]).ok().stdout;
    let numbers: Vec<u32> = log.lines().skip(1).map(|l| l.strip_prefix("line ").unwrap().parse().unwrap()).collect();
    assert!(numbers.len() > 100 && numbers.windows(2).all(|w| w[1] == w[0] + 1), "lines are missing in between");
    world.quilt(&["rm", "-f", "flood"]).ok();
    world.quilt(&["logs", "nobody"]).refused("quilt-logs", "not_found");
    // A container without a command of its own has no log.
    world.create("idle", &[]);
    world.quilt(&["logs", "idle"]).is(0, "", "");
}

#[test]
fn logs_can_be_followed() {
    let world = World::new("follow");
    let script = "for i in 1 2 3; do echo $i; while [ ! -e /tmp/$i ]; do sleep 0.02; done; done";
    world.create("web", &["--", "sh", "-c", script]);
    let follow = world.command(&["logs", "-f", "web"]).start();
    for i in 1..=3 {
        world.exec("web", &["touch", &format!("/tmp/{i}")]);
        if i < 3 {
            assert!(eventually(2 * SECOND, || world.quilt(&["logs", "web"]).stdout.ends_with(&format!("{}\n", i + 1))));
        }
    }
    // It ends with the container.
    follow.finish().is(0, "1\n2\n3\n", "");
}

#[test]
fn gc_takes_what_is_dead_and_nothing_else() {
    let world = World::new("gc");
    world.create("web", &[]);
    world.create("stopped", &[]);
    world.quilt(&["stop", "stopped"]).ok();
    let before = world.inventory();
    world.quilt(&["gc"]).ok();
    assert_eq!(world.inventory(), before);
    // A create whose every process is killed.
    let image = images::busybox().display().to_string();
    let create = world.command(&["create", &image, "--name", "dead", "--health-check", "sleep 60"]).start();
    assert!(eventually(5 * SECOND, || world.root.join("containers/dead/spawn.json").exists()));
    create.kill_group();
    assert_ne!(world.inventory(), before);
    world.quilt(&["gc"]).ok();
    world.assert_same(&before, SETTLE);
    // Purging the instance asks first.
    let out = world.quilt(&["gc", "--purge"]);
    assert!(out.status != 0 && out.stderr.contains("--yes"), "{out:?}");
    assert_eq!(world.inventory(), before);
    world.quilt(&["exec", "web", "hostname"]).is(0, "web\n", "");
}

#[test]
fn rm_takes_several_and_all() {
    let world = World::new("rm-many");
    world.create("warm", &[]);
    world.quilt(&["rm", "-f", "warm"]).ok();
    let before = world.inventory();
    for name in ["a", "b", "c", "d"] {
        world.create(name, &[]);
    }
    let out = world.quilt(&["rm", "-f", "a", "nobody", "b"]);
    assert_eq!((out.status, out.stderr.lines().count()), (11, 1), "{out:?}");
    let left: Vec<String> = world.quilt(&["ls", "--quiet"]).ok().stdout.lines().map(str::to_owned).collect();
    assert_eq!(left, ["c", "d"]);
    world.quilt(&["rm", "-f", "--all"]).ok();
    world.assert_same(&before, SETTLE);
    world.quilt(&["rm"]).misused();
}

#[test]
fn rm_of_what_was_damaged_or_died() {
    let world = World::new("rm-damaged");
    world.create("warm", &[]);
    world.quilt(&["rm", "-f", "warm"]).ok();
    let before = world.inventory();
    world.create("dead", &["--memory", "64"]);
    kill(Pid::from_raw(world.init("dead")), Signal::SIGKILL).unwrap();
    assert!(eventually(SECOND, || state_of(&world, "dead") == "stopped"));
    world.quilt(&["rm", "dead"]).ok();
    world.assert_same(&before, SETTLE);
    for damage in
        ["echo '{\"format\":1' >record.json", ": >spawn.json", "rm -f *.json", "echo x >netns.json; rm record.json"]
    {
        world.create("box", &["--memory", "64"]);
        Run::new("sh").args(&["-c", damage]).dir(world.root.join("containers/box")).go().ok();
        let listed = world.quilt(&["ls", "--json"]).ok().objects();
        assert_eq!(listed.len(), 1, "{damage}: not listed");
        world.quilt(&["rm", "-f", "box"]).ok();
        world.assert_same(&before, SETTLE);
    }
    // While a command runs in it.
    world.create("box", &["--pids", "50"]);
    let exec = world.command(&["exec", "box", "sh", "-c", "touch /tmp/on; exec sleep 1000"]).start();
    assert!(eventually(5 * SECOND, || world.quilt(&["exec", "box", "test", "-e", "/tmp/on"]).status == 0));
    let started = Instant::now();
    world.quilt(&["rm", "-f", "box"]).ok();
    assert!(started.elapsed() < patient(2 * SECOND));
    assert_eq!(exec.finish().status, 137);
    world.assert_same(&before, SETTLE);
}

#[test]
fn a_reboot_leaves_stopped_containers() {
    let world = World::new("reboot");
    world.create("web", &[]);
    world.exec("web", &["sh", "-c", "echo x >/kept"]);
    kill(Pid::from_raw(world.init("web")), Signal::SIGKILL).unwrap();
    // As after a reboot: another boot id, and no /run.
    let dir = world.root.join("containers/web");
    for file in ["netns.json", "cgroup.json", "spawn.json", "probe.json"] {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        std::fs::write(dir.join(file), text.replace(boot.trim(), "00000000-0000-0000-0000-000000000000")).unwrap();
    }
    assert_eq!(state_of(&world, "web"), "stopped");
    world.quilt(&["start", "web"]).ok();
    world.quilt(&["exec", "web", "cat", "/kept"]).is(0, "x\n", "");
    world.quilt(&["rm", "-f", "web"]).ok();
}

#[test]
fn an_instance_by_option() {
    let world = World::new("option");
    world.create("web", &[]);
    let root = world.root.display().to_string();
    let elsewhere = |args: &[&str]| world.command(args).env("QUILT_ROOT", world.path("nowhere")).go();
    assert_eq!(elsewhere(&["ls", "--quiet"]).ok().stdout, "");
    assert_eq!(elsewhere(&["--root", &root, "ls", "--quiet"]).ok().stdout, "web\n");
    assert_eq!(elsewhere(&[&format!("--root={root}"), "exec", "web", "hostname"]).ok().stdout, "web\n");
    let record =
        elsewhere(&["--root", &root, "create", images::busybox().to_str().unwrap(), "--name", "db"]).ok().record();
    assert!(record["unpack"]["have"]["upper"].as_str().unwrap().starts_with(&root));
    elsewhere(&["ls", "--root", &root, "--quiet"]).is(0, "db\nweb\n", "");
    assert!(!world.path("nowhere").join("containers").exists(), "asking made an instance");
    elsewhere(&["--root"]).misused();
}
