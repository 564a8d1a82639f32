//! Every stage made to fail: one clear line, the same in JSON, the documented status, everything taken back, and a
//! container of the same name untouched.

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::harness::{Inventory, Out, Run, SETTLE, World, images, patient};

/// A world that has had a container, and its inventory.
fn warm(name: &str) -> (World, Inventory) {
    let world = World::new(name);
    world.create("warm", &[]);
    let before = world.inventory();
    (world, before)
}

fn image() -> String {
    images::busybox().display().to_string()
}

/// `quilt create IMAGE --name bad ARGS…` must fail in `tool` with `code`, say all of `says`, and leave nothing.
#[track_caller]
fn fails(world: &World, before: &Inventory, args: &[&str], tool: &str, code: &str, says: &[&str]) -> Out {
    let out = world.quilt(&[&["create"], args, &["--name", "bad"]].concat());
    out.failed(tool, code);
    assert!(says.iter().all(|part| out.stderr.contains(part)), "{says:?}: {}", out.stderr);
    world.assert_same(before, SETTLE);
    world.quilt(&["exec", "warm", "hostname"]).is(0, "warm\n", "");
    out
}

#[test]
fn the_image() {
    let (world, before) = warm("image");
    fails(&world, &before, &["/no/such/image.tar"], "quilt-unpack", "not_found", &["/no/such/image.tar"]);
    let bad = world.write("bad.tar.gz", "this is no archive\n");
    fails(&world, &before, &[&bad], "quilt-unpack", "invalid", &[&bad]);
    fails(&world, &before, &["/dev/null"], "quilt-unpack", "invalid", &["/dev/null"]);
    let fifo = world.path("fifo").display().to_string();
    Run::new("mkfifo").args(&[&fifo]).go().ok();
    fails(&world, &before, &[&fifo], "quilt-unpack", "invalid", &[&fifo]);
}

#[test]
fn a_full_disk() {
    // An instance on a small file system of its own.
    let world = World::new("full");
    let small = world.path("small");
    fs::create_dir(&small).unwrap();
    mount(Some("small"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=0700")).unwrap();
    let before = world.inventory();
    let small = small.join("root");
    let kept = |dir: &str| fs::read_dir(small.join(dir)).map_or(0, |entries| entries.count());
    let image = images::busybox_archive("tar.gz").display().to_string();
    let out =
        world.command(&["create", &image, "--name", "bad", "--subnet", "10.92.0.0/16"]).env("QUILT_ROOT", &small).go();
    out.failed("quilt-unpack", "no_space");
    assert_eq!((kept("containers"), kept("images")), (0, 0), "half an image is left");
    world.assert_same(&before, SETTLE);
    // A disk without room for anything at all.
    let (filler, filler2) = (world.path("small/filler"), world.path("small/filler2"));
    fs::write(&filler, vec![0; 900 << 10]).unwrap();
    let more = fs::write(&filler2, vec![0; 1 << 20]);
    assert!(more.is_err());
    let out = world.command(&["create", &self::image(), "--name", "bad"]).env("QUILT_ROOT", &small).go();
    assert_eq!(out.record()["error"]["code"], "no_space", "{out:?}");
    assert_eq!((out.status, out.stderr.lines().count(), kept("containers")), (18, 1, 0), "{out:?}");
    fs::remove_file(filler).unwrap();
    fs::remove_file(filler2).unwrap();
    world.command(&["gc", "--purge", "--yes"]).env("QUILT_ROOT", &small).go().ok();
    world.assert_same(&before, SETTLE);
    umount2(&world.path("small"), MntFlags::empty()).unwrap();
}

#[test]
fn the_network() {
    let (world, before) = warm("network");
    let image = image();
    let taken = world.quilt(&["inspect", "warm"]).ok().record()["netns"]["have"]["link"]["address"].clone();
    let taken = taken.as_str().unwrap();
    fails(&world, &before, &[&image, "--ip", taken], "quilt-netns", "exists", &[taken]);
    for outside in ["10.90.0.1", "10.91.0.1", "10.91.255.255", "10.91.0.0", "127.0.0.1"] {
        fails(&world, &before, &[&image, "--ip", outside], "quilt-netns", "invalid", &[outside]);
    }
}

#[test]
fn the_bridges_name_in_use() {
    let world = World::new("bridge");
    let bridge = quilt_record::Instance::locate(Some(&world.root)).unwrap().bridge_prefix() + "0";
    Run::new("ip").args(&["link", "add", &bridge, "type", "veth", "peer", "name", "peer0"]).go().ok();
    let image = image();
    // The first create makes what the instance needs otherwise; the device of somebody else stays.
    let out = world.quilt(&["create", &image, "--name", "bad"]);
    out.failed("quilt-netns", "busy");
    assert!(out.stderr.contains(&bridge), "{out:?}");
    let links = world.inventory().of("links").to_vec();
    assert!(links.iter().any(|l| l.ends_with(&format!(" {bridge}"))) && links.len() == 3, "{links:?}");
    assert!(!world.root.join("containers/bad").exists());
    assert!(world.inventory().of("cgroups").iter().all(|c| !c.contains("/bad")));
    world.create("fine", &["--network", "none"]);
    world.quilt(&["rm", "-f", "fine"]).ok();
    world.quilt(&["gc", "--purge", "--yes"]).ok();
    assert!(
        world.inventory().of("links").iter().any(|l| l.ends_with(&format!(" {bridge}"))),
        "purge took a stranger's link"
    );
    Run::new("ip").args(&["link", "del", &bridge]).go().ok();
}

#[test]
fn an_address_range_in_use() {
    // The instance's own subnet belongs to another interface of the host already.
    let world = World::new("range");
    Run::new("ip").args(&["link", "add", "other0", "type", "veth", "peer", "name", "other1"]).go().ok();
    Run::new("ip").args(&["addr", "add", "10.91.0.1/16", "dev", "other0"]).go().ok();
    Run::new("ip").args(&["link", "set", "other0", "up"]).go().ok();
    let before = world.inventory();
    let out = world.quilt(&["create", &image(), "--name", "bad"]);
    if out.status != 0 {
        assert!(out.stderr.lines().count() == 1 && out.record()["error"].is_object(), "{out:?}");
        assert!(!world.root.join("containers/bad").exists());
        assert_eq!(world.inventory().of("processes"), before.of("processes"));
    } else {
        world.quilt(&["rm", "-f", "bad"]).ok();
    }
    Run::new("ip").args(&["link", "del", "other0"]).go().ok();
}

#[test]
fn limits() {
    let (world, before) = warm("limits");
    let spec = |limit: &str| {
        let text = format!(
            "{{\"format\":1,\"unpack\":{{\"want\":{{\"image\":\"{}\"}}}},\"cgroup\":{{\"want\":{limit}}}}}",
            image()
        );
        world.write("spec.json", &text)
    };
    let unknown = spec(r#"{"memry":"1G"}"#);
    let out = world.quilt(&["create", "-f", &unknown, "--name", "bad"]);
    assert_eq!((out.status, &out.record()["error"]["code"]), (12, &"invalid".into()), "{out:?}");
    assert!(out.stderr.contains("memry"), "{out:?}");
    world.assert_same(&before, SETTLE);
    // Too small to start in: whatever the kernel says, it is said, and nothing stays.
    let out = world.quilt(&["create", &image(), "--name", "bad", "--memory", "64KiB"]);
    assert!(out.status >= 10 && out.record()["error"].is_object() && out.stderr.lines().count() == 1, "{out:?}");
    world.assert_same(&before, SETTLE);
    let out = world.quilt(&["create", &image(), "--name", "bad", "--pids", "1", "--health-check", "true"]);
    assert!(out.status >= 10 && out.record()["error"].is_object() && out.stderr.lines().count() == 1, "{out:?}");
    world.assert_same(&before, SETTLE);
}

#[test]
fn the_command() {
    let (world, before) = warm("command");
    let image = image();
    fails(&world, &before, &[&image, "--user", "nobody-here"], "quilt-spawn", "not_found", &["nobody-here"]);
    fails(&world, &before, &[&image, "--workdir", "/etc/passwd"], "quilt-spawn", "invalid", &["/etc/passwd"]);
    for command in ["no-such-command", "/no/such/command"] {
        let out = world.quilt(&["create", &image, "--name", "bad", "--", command]);
        out.failed("quilt-spawn", "not_found");
        assert!(out.stderr.contains(command), "{out:?}");
        world.assert_same(&before, SETTLE);
    }
    let out = world.quilt(&["create", &image, "--name", "bad", "--", "/etc/passwd"]);
    out.failed("quilt-spawn", "denied");
    world.assert_same(&before, SETTLE);
}

#[test]
fn an_image_that_cannot_be_started() {
    let (world, before) = warm("hostile");
    // `/proc` and `/dev` of the image lead out of it, or are no directories.
    for (n, make) in ["ln -s / proc", "ln -s /etc dev", "echo x >sys", "mkfifo proc"].iter().enumerate() {
        let tree = world.path(&format!("tree{n}"));
        fs::create_dir(&tree).unwrap();
        Run::new("sh").args(&["-ec", make]).dir(&tree).go().ok();
        let out = world.quilt(&["create", tree.to_str().unwrap(), "--name", "bad"]);
        out.failed("quilt-spawn", "invalid");
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn readiness() {
    let (world, before) = warm("readiness");
    let image = image();
    let red = ["--health-check", "echo why; exit 4"];
    fails(&world, &before, &[&[&*image], &red[..]].concat(), "quilt-probe", "not_ready", &["health", "why"]);
    let slow = ["--timeout", "300ms", "--health-check", "sleep 60"];
    fails(&world, &before, &[&[&*image], &slow[..]].concat(), "quilt-probe", "timeout", &["health"]);
    // The container's own command ends before it was ready.
    let out = world.quilt(&["create", &image, "--name", "bad", "--health-check", "sleep 5", "--", "false"]);
    assert!(
        out.status >= 10 && out.stderr.lines().count() == 1 && out.took < patient(std::time::Duration::from_secs(3)),
        "{out:?}"
    );
    world.assert_same(&before, SETTLE);
}

#[test]
fn the_name_exists() {
    let (world, before) = warm("name");
    let record = world.quilt(&["inspect", "warm"]).ok().stdout;
    let out = world.quilt(&["create", &image(), "--name", "warm", "--memory", "16", "--health-check", "false"]);
    let error = out.record()["error"].clone();
    assert_eq!((out.status, error["code"].as_str(), out.stderr.lines().count()), (10, Some("exists"), 1), "{out:?}");
    assert!(out.stderr.contains("warm"), "{out:?}");
    world.assert_same(&before, SETTLE);
    assert_eq!(world.quilt(&["inspect", "warm"]).ok().stdout, record);
    // A stopped one is no freer.
    world.quilt(&["stop", "warm"]).ok();
    assert_eq!(world.quilt(&["create", &image(), "--name", "warm"]).status, 10);
    world.quilt(&["start", "warm"]).ok();
    world.quilt(&["exec", "warm", "hostname"]).is(0, "warm\n", "");
}

#[test]
fn an_output_that_nobody_reads() {
    let (world, before) = warm("output");
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    let line = format!("({quilt} create {} --name bad; echo $? >&2) | true", image());
    let out = world.run("sh", &["-c", &line]).go();
    assert!(out.stderr.lines().last() != Some("0"), "{out:?}");
    assert!(!out.stderr.contains("panicked"), "{out:?}");
    world.assert_same(&before, SETTLE);
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let line = format!("{quilt} create {} --name bad {closed}; true", image());
        world.run("sh", &["-c", &line]).go().ok();
        world.quilt(&["rm", "-f", "bad"]);
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn a_stage_that_is_missing() {
    let (world, before) = warm("missing-tool");
    // The tools of the instance, all but one: the shell says 127, and what was done is taken back.
    for missing in ["quilt-netns", "quilt-spawn", "quilt-probe"] {
        let bin = world.path(&format!("without-{missing}"));
        fs::create_dir(&bin).unwrap();
        for tool in fs::read_dir(crate::harness::bin()).unwrap().flatten() {
            let name = tool.file_name().into_string().unwrap();
            if name == "quilt-exec" {
                // By a copy of this one the wrapper can tell that these are not the tools on the instance's own mount.
                fs::copy(tool.path(), bin.join(&name)).unwrap();
            } else if name.starts_with("quilt-") && name != missing {
                std::os::unix::fs::symlink(tool.path(), bin.join(&name)).unwrap();
            }
        }
        let out = world.command(&["create", &image(), "--name", "bad"]).env("QUILT_BIN", &bin).go();
        assert_ne!(out.status, 0, "{out:?}");
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn not_root() {
    let world = World::new("user");
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    // As a user who can reach the tools, wherever the repository is: only the identity changes.
    let script = format!(
        "import os,sys; os.setgroups([]); os.setgid(1000); os.setuid(1000); os.execv('{quilt}', ['quilt'] + sys.argv[1:])"
    );
    if world
        .run("python3", &["-c", &format!("import os; os.setuid(1000); os.execv('{quilt}', ['quilt', 'version'])")])
        .go()
        .status
        != 0
    {
        return crate::harness::skip("not_root", "the repository cannot be read by others");
    }
    let out = world.run("python3", &["-c", &script, "create", &image(), "--name", "bad"]).go();
    let error = out.record()["error"].clone();
    assert_eq!((out.status, error["code"].as_str(), out.stderr.lines().count()), (15, Some("denied"), 1), "{out:?}");
    assert!(out.stderr.contains("root"), "{out:?}");
}

/// In a chroot whose root is a mount, pivot_root would leave the host's root to whoever joins the container.
#[test]
fn a_chroot_is_refused() {
    let world = World::new("chroot");
    let image = images::busybox().display().to_string();
    world.create("warm", &[]);
    let before = world.inventory();
    let root = world.path("chroot");
    fs::create_dir(&root).unwrap();
    let quilt = crate::harness::repo().join("scripts/quilt");
    // Unmounted in any case, and in a mount namespace of its own.
    for userns in ["host", "auto"] {
        let line = format!(
            "mount --rbind / {root} && exec chroot {root} {quilt} create {image} --name box --userns {userns}",
            root = root.display(),
            quilt = quilt.display(),
        );
        let out = world.run("unshare", &["--mount", "--propagation", "private", "sh", "-c", &line]).go();
        // Nor is a user namespace made in one.
        let tool = out.record()["error"]["tool"].as_str().unwrap().to_owned();
        assert!(tool == "quilt-spawn" || (userns, tool.as_str()) == ("auto", "quilt-netns"), "{out:?}");
        out.failed(&tool, "unsupported");
        assert!(out.stderr.contains("chroot"), "{out:?}");
        world.assert_same(&before, SETTLE);
    }
}
