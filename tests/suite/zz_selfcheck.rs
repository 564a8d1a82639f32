//! The harness itself: a check that cannot fail proves nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};

use crate::harness::{Run, World, eventually, run::status_of, skipped};

/// The difference that `change` makes to the inventory of a fresh world, a line each; `undo` must make it vanish.
fn seen(world: &World, change: impl FnOnce(), undo: impl FnOnce()) -> Vec<String> {
    let before = world.inventory();
    change();
    let diff = before.diff(&world.inventory());
    undo();
    world.assert_same(&before, Duration::from_secs(1));
    diff.lines().map(|line| line.trim().to_owned()).collect()
}

fn busybox(args: &[&str]) {
    Run::new("busybox").args(args).go().ok();
}

#[test]
fn the_inventory_sees_what_is_left() {
    let world = World::new("inventory");
    let link = seen(&world, || busybox(&["brctl", "addbr", "left0"]), || busybox(&["brctl", "delbr", "left0"]));
    assert!(matches!(&link[..], [line] if line.starts_with("new in links: ") && line.ends_with(" left0")), "{link:?}");

    let on = world.path("on");
    fs::create_dir(&on).unwrap();
    let mounted = || mount(Some("left"), &on, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let point = on.display();
    assert_eq!(seen(&world, mounted, || umount(&on).unwrap()), [format!("new in mounts: {point} (/ of tmpfs left)")]);

    let dir = "/sys/fs/cgroup/pids/left-by-a-test";
    if fs::metadata("/sys/fs/cgroup/pids").is_ok() {
        let diff = seen(&world, || fs::create_dir(dir).unwrap(), || fs::remove_dir(dir).unwrap());
        assert_eq!(diff, [format!("new in cgroups: {dir}")]);
    }

    let state = world.root.join("run/leases");
    let lease = || {
        fs::create_dir_all(&state).unwrap();
        symlink("x", state.join("10.91.0.2")).unwrap();
    };
    let diff = seen(&world, lease, || fs::remove_dir_all(world.root.join("run")).unwrap());
    assert_eq!(diff, ["new in state: run/leases", "new in state: run/leases/10.91.0.2"]);
}

#[test]
fn the_inventory_sees_orphans_in_any_namespace() {
    let world = World::new("orphans");
    let before = world.inventory();
    // `sh` dies at once; what it started stays, in a session and pid namespace of its own.
    let script = "busybox setsid busybox unshare -p -f -n busybox sleep 1000 </dev/null >/dev/null 2>&1 &";
    Run::new("sh").args(&["-c", script]).go().ok();
    let orphans = || world.inventory().of("processes").len();
    assert!(eventually(Duration::from_secs(1), || orphans() == 2), "{}", before.diff(&world.inventory()));
    crate::harness::inventory::sweep(&world.root, &before);
    world.assert_same(&before, Duration::from_secs(1));
}

#[test]
fn a_command_has_a_limit() {
    let _world = World::new("limit");
    let slow = Run::new("sleep").args(&["1000"]).limit(Duration::from_millis(50));
    assert!(slow.try_go().is_none());
    let held = Run::new("sh").args(&["-c", "sleep 1000 & echo hi"]).limit(Duration::from_millis(200));
    assert!(held.try_go().is_none(), "somebody held the output, and nobody noticed");
}

#[test]
fn the_statuses_are_the_documented_ones() {
    for (code, status) in [("exists", 10), ("not_found", 11), ("no_space", 18), ("internal", 22)] {
        assert_eq!(status_of(code), status);
    }
}

/// Named so that it comes last (libtest runs in the order of names): a skipped test must not look like one that passed.
#[test]
fn zz_no_more_tests_were_skipped_than_known() {
    let known: usize = std::env::var("QUILT_TEST_SKIPS").map_or(0, |n| n.parse().unwrap());
    let skipped = skipped();
    eprintln!("{} skipped, {known} expected: {skipped:#?}", skipped.len());
    assert_eq!(skipped.len(), known, "skipped: {skipped:#?}");
}
