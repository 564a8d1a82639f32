//! What lies in wait for a tool that joins a container: devices that are something else by now (A5, A6), links into the
//! kernel's files (A7).
//!
//! The canary is a file of the host's that the container's init has open: who has the host's rights gets to it from inside
//! by `/proc/1/fd`. A tool that follows a link there opens it, and that is seen.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::harness::teeth::attack;
use crate::harness::{World, eventually, images, repo};

const PROMPT: Duration = Duration::from_secs(8);

/// Puts links to the init's descriptors in the place of `at`, lets the tools join, and says which of them opened the file.
fn opened(world: &World, at: &str) -> Vec<String> {
    world.create("box", &[]);
    let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    let canary = world.root.join("containers/box/exit");
    watch.add_watch(&canary, AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ATTRIB).unwrap();
    let before = fs::read(&canary).unwrap();
    let mut done = Vec::new();
    let links = (0..10).map(|fd| format!("/proc/1/fd/{fd}")).chain(["/proc/1/exe".to_owned()]);
    for link in links {
        world.exec("box", &["sh", "-c", &format!("rm -rf {at}; ln -s {link} {at}; true")]);
        let _ = watch.read_events();
        for (way, args) in [
            ("exec", &["exec", "--timeout=5s", "box", "sh", "-c", "echo x >&0"][..]),
            ("exec -t", &["exec", "--timeout=5s", "-t", "box", "true"]),
            ("check", &["probe", "--timeout=1s", "--health-retries=1", "--health-check=true", "box"]),
        ] {
            world.command(args).limit(PROMPT).go();
            let seen = watch.read_events().unwrap_or_default();
            done.extend((!seen.is_empty()).then(|| format!("{way} by {at} to {link}")));
        }
    }
    assert!(!done.is_empty() || fs::read(&canary).unwrap() == before, "written without being opened");
    world.quilt(&["rm", "-f", "box"]).ok();
    done
}

/// Fails if a tool takes what is at `/dev/null` for the null device (CVE-2025-31133).
#[test]
fn a_null_device_that_is_none_is_not_opened() {
    attack("null", "null-check", |world| opened(world, "/dev/null"));
}

/// Fails if a tool takes what is at `/dev/ptmx` or `/dev/pts` for a terminal (CVE-2025-52565).
#[test]
fn a_terminal_that_is_none_is_not_opened() {
    attack("ptmx", "pty", |world| opened(world, "/dev/ptmx"));
    let world = World::new("ptmx");
    for at in
        ["/dev/pts/ptmx", "/dev/tty", "/dev/console", "/dev/stdin", "/dev/fd", "/etc/passwd", "/etc/group", "/tmp"]
    {
        assert_eq!(opened(&world, at), [""; 0]);
    }
}

/// What a traced process of a tool opens by a path below /proc once it is inside: from where it enters a mount namespace, or
/// leaves the host's root, to where it becomes the program.
fn below_proc(log: &str) -> (Vec<String>, usize) {
    let (mut inside, mut seen, mut entered) = (BTreeSet::new(), Vec::new(), 0);
    for line in log.lines() {
        let Some((pid, call)) = line.trim_start().split_once(' ') else { continue };
        let call = call.trim_start();
        // Spawn enters its own once more, which is a copy of the host's; and leaves that by its last umount2.
        let joins = call.starts_with("setns(") && call.contains("CLONE_NEWNS") && call.contains('|');
        let enters = joins || call.starts_with("umount2(\".\"");
        if enters && inside.insert(pid.to_owned()) {
            entered += 1;
        } else if call.starts_with("clone") && inside.contains(pid) {
            inside.extend(call.rsplit_once("= ").map(|(_, child)| child.trim().to_owned()));
        } else if call.starts_with("exec") && call.ends_with("= 0") {
            inside.remove(pid);
        } else if inside.contains(pid) && call.contains("\"/proc") {
            seen.push(line.to_owned());
        }
    }
    (seen, entered)
}

/// Fails if a tool opens anything below /proc by its path while it has the host's rights and the container's files
/// (CVE-2025-52881): what is mounted there may be another file by then.
#[test]
fn nothing_below_proc_is_opened_inside() {
    let world = World::new("proc");
    let image = images::busybox().display().to_string();
    let log = world.path("calls");
    let traced = |args: &[&str]| {
        let quilt = repo().join("scripts/quilt");
        let trace =
            ["-f", "-qqq", "-s", "200", "-e", "signal=none", "-e", "trace=%file,setns,clone,clone3,execveat,umount2"];
        let all = [&trace[..], &["-o", log.to_str().unwrap(), quilt.to_str().unwrap()], args].concat();
        // It follows a container's init as well: nobody waits for that.
        world.run("strace", &all).start()
    };
    let look = |what: &str| {
        let (seen, entered) = below_proc(&fs::read_to_string(&log).unwrap());
        assert!(entered > 0, "{what}: nobody went in");
        assert_eq!(seen, [""; 0], "{what}");
    };
    let create = traced(&["create", &image, "--name", "box", "--", "sleep", "1000"]);
    assert!(eventually(PROMPT, || world.root.join("containers/box/probe.json").exists()));
    look("create");
    world.quilt(&["rm", "-f", "box"]).ok();
    create.finish();
    world.create("box", &[]);
    for args in [&["exec", "box", "true"][..], &["exec", "-t", "box", "true"], &["probe", "--health-check=true", "box"]]
    {
        traced(args).finish().ok();
        look(&args.join(" "));
    }
    // It does see what is opened: before they go in, the tools do open such files.
    let all = fs::read_to_string(&log).unwrap();
    assert!(all.contains("\"/proc/"), "{all}");
}
