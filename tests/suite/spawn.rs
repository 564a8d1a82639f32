//! What a container is made of: namespaces, mounts, devices, environment, and what it may not do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{World, images};

#[test]
fn namespaces() {
    let world = World::new("namespaces");
    let spaces = |pid: &str| -> BTreeMap<&str, String> {
        let link = |n| fs::read_link(format!("/proc/{pid}/ns/{n}")).unwrap().display().to_string();
        ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"].map(|n| (n, link(n))).into()
    };
    let own = spaces("thread-self");
    let record = world.create("box", &[]);
    let inside = spaces(&world.init("box").to_string());
    let same = |inside: &BTreeMap<&str, String>| -> Vec<&str> {
        own.iter().filter(|(name, link)| inside[*name] == **link).map(|(name, _)| *name).collect()
    };
    let user = |record: &serde_json::Value| record["netns"]["have"]["ids"].is_null().then_some("user");
    assert_eq!(same(&inside), Vec::from_iter(user(&record)));
    // The record says which.
    for pair in record["spawn"]["have"]["namespaces"].as_array().unwrap() {
        let (name, inode) = (pair[0].as_str().unwrap(), pair[1].as_u64().unwrap());
        assert_eq!(inside[name], format!("{name}:[{inode}]"));
    }
    let other = world.create("shared", &world.pids("host"));
    let shared = spaces(&world.init("shared").to_string());
    assert_eq!(same(&shared), Vec::from_iter(["pid"].into_iter().chain(user(&other))));
    assert_eq!(world.exec("box", &["sh", "-c", "cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l"]).lines().count(), 2);
}

#[test]
fn devices_and_mounts() {
    let world = World::new("devices");
    world.create("box", &[]);
    let devices =
        world.exec("box", &["sh", "-c", "cd /dev && stat -c '%n %F %a %t:%T' null zero full random urandom tty"]);
    let of = |name: &str, number: &str| format!("{name} character special file 666 {number}\n");
    let expected =
        [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")];
    assert_eq!(devices, expected.map(|(name, number)| of(name, number)).concat());
    let names = world.exec("box", &["ls", "/dev"]);
    let all = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(names.split_whitespace().collect::<Vec<_>>().join(" "), all);
    world.quilt(&["exec", "box", "sh", "-c", "echo gone >/dev/null; head -c 3 /dev/zero | od -An -tx1"]).is(
        0,
        " 00 00 00\n",
        "",
    );
    // No disk of the host's, no way back to its root.
    let mounts = world.exec("box", &["cat", "/proc/self/mountinfo"]);
    let types: Vec<&str> = mounts.lines().map(|l| l.split_once(" - ").unwrap().1.split(' ').next().unwrap()).collect();
    assert_eq!(types[0], "overlay", "{mounts}");
    let known = ["overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];
    assert!(types.iter().all(|t| known.contains(t)), "{mounts}");
}

#[test]
fn what_is_masked_and_read_only() {
    let world = World::new("masked");
    world.create("box", &[]);
    for file in ["/proc/kallsyms", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/kcore"] {
        if fs::metadata(file).is_ok() {
            world.quilt(&["exec", "box", "cat", file]).is(0, "", "");
        }
    }
    for dir in ["/proc/acpi", "/proc/scsi", "/sys/firmware"] {
        if fs::metadata(dir).is_ok() {
            world.quilt(&["exec", "box", "ls", "-A", dir]).is(0, "", "");
        }
    }
    // Nothing is written, whatever the value would be.
    for file in
        ["/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/sys/kernel/profiling"]
    {
        let out = world.quilt(&["exec", "box", "sh", "-c", &format!("test -e {file} || exit 9; : >>{file}")]);
        assert!(out.status != 0, "{file}: {out:?}");
    }
    let out =
        world.quilt(&["exec", "box", "sh", "-c", "mount -t tmpfs x /tmp || mknod /tmp/d b 8 0 || unshare -m true"]);
    assert_ne!(out.status, 0, "{out:?}");
    let limits = world.exec("box", &["sh", "-c", "umask; ulimit -c"]);
    assert_eq!(limits, "0022\n0\n");
}

#[test]
fn a_clean_environment() {
    let world = World::new("clean");
    let image = images::busybox().display().to_string();
    let script = "env | sort; id -u; pwd; sleep 1000";
    let args = ["create", &image, "--name", "box", "--env", "A=1", "--env", "FROM_CALLER", "--", "sh", "-c", script];
    world.command(&args).env("SECRET", "x").env("FROM_CALLER", "yes").go().ok();
    let logged = || world.quilt(&["logs", "box"]).ok().stdout;
    assert!(crate::harness::eventually(std::time::Duration::from_secs(5), || logged().ends_with("/\n")));
    let log = logged();
    let names: Vec<&str> = log.lines().filter_map(|l| l.split_once('=')).map(|(name, _)| name).collect();
    assert_eq!(names, ["A", "FROM_CALLER", "HOME", "HOSTNAME", "PATH", "PWD", "SHLVL", "TERM"], "{log}");
    assert!(log.contains("FROM_CALLER=yes\n") && log.contains("HOME=/root\n"), "{log}");
    let args =
        ["create", &image, "--name", "user", "--user", "agent", "--workdir", "/home/agent", "--", "sh", "-c", script];
    world.quilt(&args).ok();
    let logged = || world.quilt(&["logs", "user"]).ok().stdout;
    assert!(
        crate::harness::eventually(std::time::Duration::from_secs(5), || logged().ends_with("1000\n/home/agent\n")),
        "{}",
        logged()
    );
    // Commands are of the same kind, unless they ask for something else.
    assert_eq!(world.exec("user", &["sh", "-c", "id -u; pwd"]), "1000\n/home/agent\n");
}

#[test]
fn the_tools_cannot_be_overwritten_from_inside() {
    let world = World::new("read-only");
    let hashes = || {
        let script = "cd \"$QUILT_BIN\" && sha256sum quilt-*";
        world.run("sh", &["-c", script]).go().ok().stdout
    };
    let before = hashes();
    // The image's own shell is the tool that starts it.
    let tree = world.path("tree");
    world.run("cp", &["-a", images::busybox().to_str().unwrap(), tree.to_str().unwrap()]).go().ok();
    fs::write(tree.join("bin/trap"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(tree.join("bin/trap"), fs::Permissions::from_mode(0o755)).unwrap();
    world.create_from(&tree, "box", &[]);
    world.quilt(&["exec", "box", "trap"]);
    // Not the image's own, which are the container's to overwrite: overlayfs of 5.10 lets it do so while they run.
    let write = "for exe in /proc/[0-9]*/exe; do [ \"$(readlink $exe)\" != /bin/busybox ] || continue
        echo x >$exe; dd if=/dev/zero of=$exe bs=1 count=1 conv=notrunc; done";
    world.quilt(&["exec", "box", "sh", "-c", &format!("({write}) 2>/dev/null; true")]).ok();
    // Init is there, and on a mount that cannot be written.
    let out = world.quilt(&["exec", "box", "sh", "-c", "echo x >/proc/1/exe"]);
    assert_ne!(out.status, 0, "{out:?}");
    assert_eq!(hashes(), before);
    world.quilt(&["exec", "box", "hostname"]).is(0, "box\n", "");
}

#[test]
fn the_state_is_roots_alone() {
    let world = World::new("private");
    world.create_from(&images::busybox_archive("tar"), "box", &["--", "sh", "-c", "echo x; sleep 1000"]);
    for dir in ["", "containers", "containers/box", "images", "run"] {
        let mode = fs::metadata(world.root.join(dir)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{dir}");
    }
    for file in ["record.json", "spawn.json", "netns.json"] {
        let mode = fs::metadata(world.root.join("containers/box").join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    world.quilt(&["rm", "-f", "box"]).ok();
    let open = world.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o770)).unwrap();
    let image = images::busybox().display().to_string();
    let out = world.command(&["create", &image, "--name", "box"]).env("QUILT_ROOT", &open).go();
    assert_eq!((out.status, &out.record()["error"]["code"]), (15, &"denied".into()), "{out:?}");
}
