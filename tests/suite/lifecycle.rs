//! The main job, from image to nothing: on a Debian, on busybox, on a bare directory and on the host's own tree.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{World, images, skip};

/// What the issue promises, on one image; `python` says whether there is one inside.
fn session(world: &World, image: &Path, python: bool) {
    let image = image.to_str().unwrap();
    let words = "--name agent-1 --memory 512 --cpu 50 --health-check";
    let mut create = vec!["create", image];
    create.extend(words.split(' '));
    create.extend(["echo agent_ready", "--env", "AGENT_ID=1"]);
    let created = world.quilt(&create).ok();
    assert_eq!(created.stderr, "");
    let record = created.record();
    assert_eq!((&record["format"], &record["id"]), (&json!(1), &json!("agent-1")));
    assert_eq!(record["probe"]["have"]["ready"], true);
    let passed = |p: &Value| (p["name"].as_str().unwrap().to_owned(), p["ok"].as_bool().unwrap());
    let phases: Vec<_> = record["probe"]["have"]["phases"].as_array().unwrap().iter().map(passed).collect();
    let expected = ["process", "namespaces", "exec", "network", "health"].map(|name| (name.to_owned(), true));
    assert_eq!(phases, expected);

    if python {
        world.quilt(&["exec", "agent-1", "python3", "-c", "print(1+1)"]).is(0, "2\n", "");
    }
    world.quilt(&["exec", "agent-1", "sh", "-c", "echo $((1+1)) $AGENT_ID $(id -u)"]).is(0, "2 1 0\n", "");
    world.quilt(&["exec", "agent-1", "sh", "-c", "echo kept > /root/file"]).is(0, "", "");
    world.quilt(&["probe", "agent-1"]).ok();
    assert_eq!(state_of(world, "agent-1"), "running");
    let inspected = world.quilt(&["inspect", "agent-1"]).ok().record();
    for key in ["id", "claim", "created", "unpack", "netns", "cgroup", "spawn"] {
        assert_eq!(inspected[key], record[key], "{key}");
    }

    world.quilt(&["stop", "agent-1"]).ok();
    assert_eq!(state_of(world, "agent-1"), "stopped");
    world.quilt(&["start", "agent-1"]).ok();
    assert_eq!(state_of(world, "agent-1"), "running");
    world.quilt(&["exec", "agent-1", "cat", "/root/file"]).is(0, "kept\n", "");
    world.quilt(&["rm", "-f", "agent-1"]).ok();
    world.quilt(&["ls", "--json"]).is(0, "", "");
}

/// The status that `ls` shows for a container.
pub fn state_of(world: &World, name: &str) -> String {
    let all = world.quilt(&["ls", "--json"]).ok().objects();
    let one = all.iter().find(|c| c["id"] == name).unwrap_or_else(|| panic!("no {name} in {all:?}"));
    one["status"].as_str().unwrap().to_owned()
}

#[test]
fn busybox_from_every_kind_of_archive() {
    for kind in ["tar", "tar.gz", "tar.zst"] {
        let world = World::new("busybox");
        session(&world, &images::busybox_archive(kind), false);
    }
}

#[test]
fn debian_from_mmdebstrap() {
    let image = match images::debian() {
        Ok(image) => image,
        Err(why) => return skip("debian_from_mmdebstrap", &why),
    };
    let world = World::new("debian");
    session(&world, &image, true);
}

#[test]
fn a_directory_in_place() {
    let world = World::new("directory");
    session(&world, &images::busybox(), false);
    assert!(!images::busybox().join("root/file").exists(), "the container wrote to its image");
    let images = fs::read_dir(world.root.join("images")).unwrap().count();
    assert_eq!(images, 0, "a directory is used in place, not copied");
}

#[test]
fn the_host_itself_copy_on_write() {
    let world = World::new("host");
    session(&world, Path::new("/"), false);
    world.create_from(Path::new("/"), "try", &[]);
    // In `/` itself, since what is mounted below it does not show inside: `/tmp` is a file system of its own elsewhere.
    let canary = format!("/.quilt-tests-{}", std::process::id());
    fs::write(&canary, "host's\n").unwrap();
    let script = format!("cat {canary}; rm {canary}; echo mine > {canary}; cat {canary}; touch /etc/of-a-container");
    let out = world.quilt(&["exec", "try", "sh", "-c", &script]);
    let kept = fs::read_to_string(&canary);
    let _ = fs::remove_file(&canary);
    out.is(0, "host's\nmine\n", "");
    assert_eq!(kept.unwrap(), "host's\n");
    assert!(!Path::new("/etc/of-a-container").exists());
    // Its own state, with the layers of all other containers, does not show.
    let state = world.root.display();
    let seen = world.exec("try", &["sh", "-c", &format!("ls -A {state} /var/lib/quilt 2>/dev/null | grep -v :; true")]);
    assert_eq!(seen.trim(), "");
    world.quilt(&["rm", "-f", "try"]).ok();
}

#[test]
fn rm_leaves_what_runs_unless_forced() {
    let world = World::new("rm");
    world.create("web", &[]);
    let before = world.inventory();
    world.quilt(&["rm", "web"]).refused("quilt-rm", "busy");
    assert_eq!(world.inventory(), before);
    world.quilt(&["exec", "web", "true"]).is(0, "", "");
    world.quilt(&["stop", "web"]).ok();
    world.quilt(&["rm", "web"]).ok();
    world.quilt(&["rm", "web"]).refused("quilt-rm", "not_found");
}

#[test]
fn one_after_another_leaves_nothing_between() {
    let world = World::new("again");
    world.create("web", &["--memory", "64"]);
    world.quilt(&["rm", "-f", "web"]).ok();
    let warm = world.inventory();
    for _ in 0..10 {
        // The same name at once: the interface's name must be free when rm returns.
        world.create("web", &["--memory", "64"]);
        world.quilt(&["rm", "-f", "web"]).ok();
    }
    world.assert_same(&warm, crate::harness::SETTLE);
}

#[test]
fn a_container_outlives_its_caller_and_the_terminal() {
    let world = World::new("survives");
    // The terminal is hung up when its only line has ended.
    let quilt = crate::harness::repo().join("scripts/quilt");
    let image = images::busybox();
    let line = format!("{} create {} --name web -- sleep 1000", quilt.display(), image.display());
    world.on_terminal(24, 80, &line).ok();
    world.quilt(&["exec", "web", "echo", "alive"]).is(0, "alive\n", "");
    let init = world.init("web");
    let stat = fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((fields[3], fields[4]), (init.to_string().as_str(), "0"), "session of its own, no terminal: {stat}");
    world.quilt(&["rm", "-f", "web"]).ok();
}
