//! Devices: everybody's, those of the host that were asked for, with the rights that were asked for, and no other.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use serde_json::{Value, json};

use crate::harness::teeth::{attack, everywhere};
use crate::harness::{World, images};

/// A device of this machine that is not everybody's and can be opened for reading and for writing.
fn device() -> &'static str {
    let known = ["/dev/fuse", "/dev/net/tun", "/dev/loop-control"];
    known.into_iter().find(|path| fs::metadata(path).is_ok()).expect("none of the devices that tests know")
}

/// Its numbers: `10:229`.
fn numbers(path: &str) -> (u64, u64) {
    let device = fs::metadata(path).unwrap().rdev();
    (major(device), minor(device))
}

/// Lines of shell that say which of a path's rights are there.
fn rights(path: &str) -> String {
    format!(
        "[ -e {path} ] || exit 0; (: <{path}) 2>/dev/null && echo read; (: >{path}) 2>/dev/null && echo write; true"
    )
}

/// Fails if root inside gets at a device of the host's: by a node that it makes, where it may make nodes at all; or by one
/// that somebody else has put into its writable layer.
#[test]
fn attacks_by_device_nodes() {
    let (major, minor) = numbers(device());
    let made = attack("mknod", "devices", |world| {
        world.create("box", &["--cap-add", "MKNOD"]);
        let line = format!("mknod /dev/node c {major} {minor} 2>/dev/null && echo made; {}", rights("/dev/node"));
        let done = world.exec("box", &["sh", "-c", &line]).lines().map(str::to_owned).collect();
        let line = format!("mknod /node c {major} {minor}");
        let out = world.quilt(&["exec", "box", "sh", "-c", &format!("{line} && : </node")]);
        assert_ne!(out.status, 0, "the root has no devices, whoever makes them: {out:?}");
        done
    });
    assert_eq!(made[..2], ["made", "read"]);

    let world = World::new("nodes");
    let record = world.create("box", &[]);
    assert_eq!(record["cgroup"]["have"]["devices"], Value::Null);
    for node in ["/dev/node", "/node", "/tmp/node"] {
        let out = world.quilt(&["exec", "box", "mknod", node, "c", &major.to_string(), &minor.to_string()]);
        out.is(1, "", &format!("mknod: {node}: Operation not permitted\n"));
    }
    let mode = Mode::from_bits_truncate(0o666);
    mknod(&world.root.join("containers/box/upper/node"), SFlag::S_IFCHR, mode, makedev(major, minor)).unwrap();
    assert_eq!(world.exec("box", &["sh", "-c", &rights("/node")]), "");
    let null = "echo x >/dev/null; head -c 1 /dev/zero /dev/urandom /dev/random >/dev/null && echo yes";
    assert_eq!(world.exec("box", &["sh", "-c", null]), "yes\n");
    assert!(world.on_terminal(24, 80, &format!("{} exec -t box tty", quilt())).ok().stdout.starts_with("/dev/pts/"));
}

fn quilt() -> String {
    crate::harness::repo().join("scripts/quilt").display().to_string()
}

/// Fails if a device can be used beyond the rights that it was given with, by the command of the container, by exec or
/// by a check.
#[test]
fn attacks_by_rights_beyond_those_given() {
    let device = device();
    for (given, may) in [("r", "read\n"), ("w", "write\n"), ("rw", "read\nwrite\n"), ("m", "")] {
        let world = World::new("rights");
        let option = format!("{device}:/dev/given:{given}");
        for (way, said) in everywhere(&world, &[], &["--device", &option], &rights("/dev/given")) {
            assert_eq!(said, may, "{given} by {way}");
        }
    }
    let done = attack("beyond", "devices", |world| {
        world.create("box", &["--device", &format!("{device}:/dev/given:r")]);
        let said = world.exec("box", &["sh", "-c", &rights("/dev/given")]);
        said.lines().filter(|line| *line != "read").map(str::to_owned).collect()
    });
    assert_eq!(done, ["write"]);
}

#[test]
fn a_device_is_as_on_the_host() {
    let world = World::new("given");
    let (path, (major, minor)) = (device(), numbers(device()));
    // One whose file is not root's, of another name, and one in directories that are not there.
    let node = world.path("node").display().to_string();
    mknod(node.as_str(), SFlag::S_IFCHR, Mode::from_bits_truncate(0o640), makedev(major, minor)).unwrap();
    nix::unistd::chown(node.as_str(), Some(1000.into()), Some(2000.into())).unwrap();
    let (mine, deep) = (format!("{node}:/dev/mine:rw"), format!("{path}:/dev/a/b/c"));
    let record = world.create("box", &["--device", &mine, "--device", &deep, "--device", "/dev/null"]);
    let about = fs::metadata(path).unwrap();
    let mode = about.mode() & 0o777;
    assert_eq!(
        record["cgroup"]["have"]["devices"],
        json!([
            {"path": "/dev/mine", "kind": "c", "major": major, "minor": minor, "access": "rw", "mode": 0o640, "uid": 1000, "gid": 2000},
            {"path": "/dev/a/b/c", "kind": "c", "major": major, "minor": minor, "access": "rwm", "mode": mode, "uid": about.uid(), "gid": about.gid()},
        ])
    );
    let inside =
        world.exec("box", &["stat", "-c", "%n %F %a %u:%g %t,%T", "/dev/mine", "/dev/a/b/c", "/dev/a/b", "/dev/null"]);
    let expected = format!(
        "/dev/mine character special file 640 1000:2000 {major:x},{minor:x}\n\
         /dev/a/b/c character special file {mode:o} {}:{} {major:x},{minor:x}\n\
         /dev/a/b directory 755 0:0 0,0\n\
         /dev/null character special file 666 0:0 1,3\n",
        about.uid(),
        about.gid()
    );
    assert_eq!(inside, expected);
    // It stays what it was made with; and a start looks again.
    world.quilt(&["update", "box", "--device", path]).refused("quilt-update", "invalid");
    world.quilt(&["stop", "box"]).ok();
    world.quilt(&["start", "box"]).ok();
    world.exec("box", &["test", "-c", "/dev/a/b/c"]);
    world.quilt(&["stop", "box"]).ok();
    fs::remove_file(&node).unwrap();
    world.quilt(&["start", "box"]).failed("quilt-cgroup", "not_found");
}

#[test]
fn a_directory_is_all_the_devices_in_it() {
    let world = World::new("directory");
    let dir = world.path("snd");
    fs::create_dir_all(dir.join("by-id")).unwrap();
    let (major, minor) = numbers(device());
    for name in ["b", "a", "by-id/c"] {
        mknod(&dir.join(name), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(major, minor)).unwrap();
    }
    fs::write(dir.join("file"), "").unwrap();
    std::os::unix::fs::symlink("b", dir.join("link")).unwrap();
    let record = world.create("box", &["--device", &format!("{}:/dev/snd", dir.display())]);
    let devices = record["cgroup"]["have"]["devices"].as_array().unwrap();
    let paths: Vec<&str> = devices.iter().map(|device| device["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/dev/snd/a", "/dev/snd/b", "/dev/snd/by-id/c"]);
    assert_eq!(world.exec("box", &["find", "/dev/snd", "-type", "c"]).lines().count(), 3);
}

#[test]
fn what_is_no_device_is_refused() {
    let world = World::new("refused");
    let image = images::busybox().display().to_string();
    let file = world.write("file", "");
    let empty = world.path("empty");
    fs::create_dir(&empty).unwrap();
    world.create("box", &[]);
    world.quilt(&["rm", "-f", "box"]).ok();
    let before = world.inventory();
    for (option, code, why) in [
        ("/dev/not-there".to_owned(), "not_found", "No such file"),
        (format!("{file}:/dev/x"), "invalid", "it is no device"),
        (format!("{}:/dev/x", empty.display()), "invalid", "no device in it"),
        (file.clone(), "invalid", "outside of /dev"),
        ("/dev/zero:/dev/null".to_owned(), "invalid", "everybody's"),
        ("/dev/zero:/dev/pts/0".to_owned(), "invalid", "of its own"),
        ("/dev/zero:/dev/../etc/x".to_owned(), "invalid", "no plain path"),
        ("/dev/zero:/dev/x:rx".to_owned(), "invalid", "not some of r, w, m"),
    ] {
        let out = world.quilt(&["create", &image, "--name", "box", "--device", &option]);
        // The words are looked at where they are said, the device where it is needed.
        let spec = out.stderr.starts_with("quilt-spec: read --device: ");
        out.failed(if spec { "quilt-spec" } else { "quilt-cgroup" }, code);
        assert!(out.stderr.contains(why), "{option}: {out:?}");
        world.assert_same(&before, crate::harness::SETTLE);
    }
    let twice = ["--device", "/dev/zero:/dev/x", "--device", "/dev/full:/dev/x"];
    world.quilt(&[&["create", &image, "--name", "box"], &twice[..]].concat()).failed("quilt-cgroup", "invalid");
}

#[test]
fn a_privileged_container_has_all_devices() {
    let world = World::new("privileged");
    world.create("box", &["--privileged"]);
    let (major, minor) = numbers(device());
    let line = format!("mknod /dev/own c {major} {minor} && : </dev/own && echo opened");
    assert_eq!(world.exec("box", &["sh", "-c", &line]).trim(), "opened");
}

/// A cgroup of the test's own above the container's, in every hierarchy of v1 and in the v2 tree.
struct Above(String, Vec<PathBuf>);

impl Drop for Above {
    fn drop(&mut self) {
        self.1.iter().for_each(|dir| drop(fs::remove_dir(dir)));
    }
}

#[test]
fn a_cgroup_above_that_allows_less_is_heeded_and_said() {
    let world = World::new("above");
    let probe = world.create("probe", &[]);
    let all = probe["cgroup"]["have"]["hierarchies"].as_array().unwrap();
    let Some(v1) = all.iter().find(|h| h["controllers"] == "devices") else {
        return crate::harness::skip("devices::a_cgroup_above_…", "on v2 the programs above speak for themselves");
    };
    let path = format!("/a-quilt-test-{}-devices", std::process::id());
    let root = |h: &Value| Path::new(h["path"].as_str().unwrap()).ancestors().nth(2).unwrap().join(&path[1..]);
    let above = Above(path.clone(), all.iter().map(root).collect());
    let own = root(v1);
    fs::create_dir(&own).unwrap();
    fs::write(own.join("devices.deny"), "a").unwrap();
    for rule in ["c *:* m", "b *:* m", "c 1:3 rw", "c 1:5 rw", "c 1:8 rw", "c 1:9 rw", "c 5:* rw", "c 136:* rw"] {
        fs::write(own.join("devices.allow"), rule).unwrap();
    }
    let record = world.create("box", &["--cgroup-parent", &above.0]);
    let note = "without some of everybody's devices, as the cgroup above does not allow them: c 1:7 rwm";
    assert_eq!(record["cgroup"]["have"]["notes"], json!([note]));
    assert_eq!(world.exec("box", &["sh", "-c", &rights("/dev/full")]), "");
    assert_eq!(world.exec("box", &["sh", "-c", &rights("/dev/zero")]), "read\nwrite\n");
    let image = images::busybox().display().to_string();
    let device = device();
    let out = world.quilt(&["create", &image, "--name", "more", "--cgroup-parent", &above.0, "--device", device]);
    out.failed("quilt-cgroup", "denied");
    assert!(out.stderr.contains("the cgroup above does not allow it"), "{out:?}");
    world.quilt(&["rm", "-f", "box"]).ok();
}
