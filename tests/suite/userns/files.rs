//! Files: whose they are on the disk, in volumes, in images that are directories, and in a log.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::{FIRST, first, shifted};
use crate::harness::{Run, SETTLE, World, eventually, images, skip};

#[test]
fn on_the_disk_are_the_containers_ids() {
    let world = World::new("userns-disk");
    let Some(record) = shifted(&world, "on_the_disk", "box", &["--network", "none"]) else { return };
    let script = "echo 1 >/new; mkdir /home/agent/d; chown 1000:1000 /home/agent/d; chown 65534:65533 /new; \
                  echo x >>/etc/passwd; chown 1:2 /bin/busybox; rm /var -r; mkdir /var; ln -s x /link; mkfifo /fifo; \
                  touch /root/s; chown 0:5 /root/s; chmod 6755 /root/s; mkdir /tmp/t; chmod 1777 /tmp/t";
    world.exec("box", &["sh", "-c", script]);
    let look =
        "cd /; stat -c '%n %u:%g %a %F' new home/agent home/agent/d etc/passwd bin/busybox var link fifo root/s tmp/t";
    let before = world.exec("box", &["sh", "-c", look]);
    let upper = world.root.join("containers/box/upper");
    let owner = |path: &str| fs::symlink_metadata(upper.join(path)).map(|m| (m.uid(), m.gid())).unwrap();
    for (path, ids) in [
        ("new", (65_534, 65_533)),
        ("home/agent", (1000, 1000)),
        ("home/agent/d", (1000, 1000)),
        ("etc", (0, 0)),
        ("etc/hosts", (0, 0)),
        ("etc/passwd", (0, 0)),
        ("bin/busybox", (1, 2)),
        ("var", (0, 0)),
        ("link", (0, 0)),
        ("fifo", (0, 0)),
        ("root/s", (0, 5)),
    ] {
        assert_eq!(owner(path), ids, "{path}");
    }
    assert_eq!(fs::metadata(upper.join("root/s")).unwrap().mode() & 0o7777, 0o6755);
    // As one whose leases a reboot has taken, and whose block another has now.
    world.quilt(&["stop", "box"]).ok();
    let leases = fs::read_dir(world.root.join("run")).unwrap().flatten();
    let leases = leases.map(|e| e.path()).find(|p| p.display().to_string().contains("leases-")).unwrap();
    let number = (first(&record) - FIRST) / 65_536;
    let lease = leases.join(format!("ids@{number}"));
    fs::remove_file(&lease).unwrap();
    symlink("0123456789abcdef0123456789abcdef/thief", &lease).unwrap();
    let started = world.quilt(&["start", "box"]).ok().record();
    assert_ne!(first(&started), first(&record));
    assert_eq!(world.exec("box", &["sh", "-c", look]), before);
    world.exec("box", &["sh", "-c", "echo 2 >>/new; echo y >>/etc/passwd; rm -r /home/agent/d"]);
    // The host's ids, and back: the same files.
    world.quilt(&["rm", "-f", "box"]).ok();
    fs::remove_file(&lease).unwrap();
}

#[test]
fn with_a_command_and_its_log() {
    let world = World::new("userns-log");
    let script = "id -u; echo again >/dev/stdout; trap 'echo end; exit 3' TERM; while :; do sleep 0.1; done";
    let Some(_) = shifted(&world, "with_a_command", "box", &["-u", "agent", "--", "sh", "-c", script]) else { return };
    assert!(eventually(SETTLE, || world.quilt(&["logs", "box"]).stdout == "1000\nagain\n"));
    world.quilt(&["stop", "box"]).ok();
    assert_eq!(world.quilt(&["logs", "box"]).stdout, "1000\nagain\nend\n");
    let out = world.quilt(&[
        "run",
        "--userns",
        "auto",
        images::busybox().to_str().unwrap(),
        "--",
        "sh",
        "-c",
        "id -u; exit 4",
    ]);
    assert_eq!((out.status, out.stdout.as_str()), (4, "0\n"));
    let check = ["--userns", "auto", "--health-check", "test $(id -u) = 0 && echo fine >/dev/stdout"];
    let record = world.create("checked", &check);
    assert_eq!(record["probe"]["have"]["phases"][4]["evidence"]["output"], "fine\n", "{record}");
}

#[test]
fn volumes_keep_their_numbers() {
    let world = World::new("userns-volumes");
    let Some(_) = shifted(&world, "volumes_keep_their_numbers", "able", &[]) else { return };
    let data = world.path("data");
    fs::create_dir_all(data.join("below")).unwrap();
    for (name, id) in [("root", 0), ("agent", 1000), ("far", 4_000_000)] {
        fs::write(data.join(name), name).unwrap();
        std::os::unix::fs::chown(data.join(name), Some(id), Some(id)).unwrap();
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let source = data.display();
    let file = world.write("file", "f");
    let args = [
        "--userns",
        "auto",
        "--volume",
        &format!("{source}:/data"),
        "--volume",
        &format!("{source}:/ro:ro"),
        "--volume",
        &format!("{file}:/file"),
        "--tmpfs",
        "/mem:uid=1000,gid=5,mode=750",
        "--tmpfs",
        "/plain",
    ];
    let record = world.create("box", &args);
    assert_eq!(record["spawn"]["have"].get("notes"), None, "{record}");
    let seen = world
        .exec("box", &["sh", "-c", "cd /data; stat -c '%n %u:%g' root agent far /file /mem /plain; cat root agent"]);
    let expected = "root 0:0\nagent 1000:1000\nfar 65534:65534\n/file 0:0\n/mem 1000:5\n/plain 0:0\nrootagent";
    assert_eq!(seen, expected);
    world.exec("box", &["sh", "-c", "echo x >/data/new; mkdir /data/d; chown 7:8 /data/d; echo y >>/file"]);
    world.quilt(&["exec", "-u", "agent", "box", "sh", "-c", "echo mine >>/data/agent; cat /data/agent"]).is(
        0,
        "agentmine\n",
        "",
    );
    let owner = |name: &str| fs::metadata(data.join(name)).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!(["new", "d", "agent"].map(owner), [(0, 0), (7, 8), (1000, 1000)]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "fy\n");
    for refused in ["cat /data/far", "echo x >/ro/root", "touch /ro/x", "chown 65536 /data/new"] {
        assert_ne!(world.quilt(&["exec", "box", "sh", "-c", refused]).status, 0, "{refused}");
    }
    world.quilt(&["rm", "-f", "box"]).ok();
    // Below it something that cannot be idmapped, and a volume that cannot at all.
    let below = data.join("below");
    Run::new("mount").args(&["-t", "proc", "proc"]).args(&[&below]).go().ok();
    let record = world.create(
        "box",
        &[
            "--userns",
            "auto",
            "--volume",
            &format!("{source}:/data"),
            "--volume",
            &format!("{}:/p:ro", below.display()),
        ],
    );
    let notes: Vec<&str> =
        record["spawn"]["have"]["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    let rest = "cannot be idmapped: its files are those of users that the container does not have";
    let expected =
        [format!("what is mounted below the volume {source} {rest}"), format!("the volume {source}/below {rest}")];
    assert_eq!(notes, expected);
    assert_eq!(
        world.exec("box", &["sh", "-c", "stat -c %u /data/agent /data/below/version /p/version"]),
        "1000\n65534\n65534\n"
    );
    world.quilt(&["rm", "-f", "--all"]).ok();
    Run::new("umount").args(&[&below]).go().ok();
}

#[test]
fn a_directory_of_the_host_is_an_image_too() {
    let world = World::new("userns-dir");
    let tree = world.path("tree");
    Run::new("cp").args(&[Path::new("-a"), &images::busybox(), &tree]).go().ok();
    fs::write(tree.join("secret"), "s").unwrap();
    fs::set_permissions(tree.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let record = world.create_from(&tree, "box", &["--userns", "auto"]);
    if let Some(note) = record["netns"]["have"]["notes"][0].as_str() {
        return skip("a_directory_of_the_host", note);
    }
    assert_eq!(world.exec("box", &["sh", "-c", "cat /secret; echo x >/secret; stat -c %u /secret"]), "s0\n");
    assert_eq!(fs::read_to_string(tree.join("secret")).unwrap(), "s");
}
