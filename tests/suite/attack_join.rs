//! What lies in wait for a tool that joins a container: devices that are something else by now (A5, A6), links into the
//! kernel's files (A7).
//!
//! The canary is a file of the host's that the container's init has open: who has the host's rights gets to it from inside
//! by `/proc/1/fd`. A tool that follows a link there opens it, and that is seen.

use std::fs;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::harness::World;
use crate::harness::teeth::attack;

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
