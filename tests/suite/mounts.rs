//! `--read-only`, `--tmpfs`, `--shm-size`, `--sysctl`, the mounts of `--privileged`, and the masks.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::harness::{World, images};

/// The container's mounts, as `PATH TYPE OPTIONS SUPEROPTIONS`.
fn mounts(world: &World, name: &str) -> Vec<String> {
    let table = world.exec(name, &["cat", "/proc/self/mountinfo"]);
    // The kernel says owners as the host has them, and in a user namespace those of the container's root, too.
    let base = world.outside(name, 0);
    let inside =
        |option: &str| match option.split_once('=').filter(|(name, _)| base > 0 && ["uid", "gid"].contains(name)) {
            Some((name, id)) => match id.parse::<u64>().unwrap() - base {
                0 => None,
                id => Some(format!("{name}={id}")),
            },
            None => Some(option.to_owned()),
        };
    let describe = |line: &str| {
        let (left, right) = line.split_once(" - ").unwrap();
        let (left, right): (Vec<_>, Vec<_>) = (left.split(' ').collect(), right.split(' ').collect());
        // How large inode numbers are is the kernel's configuration.
        let options = right[2].split(',').filter(|option| *option != "inode64").filter_map(inside);
        format!("{} {} {} {}", left[4], right[0], left[5], options.collect::<Vec<_>>().join(","))
    };
    table.lines().map(describe).collect()
}

fn mounted(world: &World, name: &str, path: &str) -> Vec<String> {
    let start = format!("{path} ");
    mounts(world, name).into_iter().filter(|line| line.starts_with(&start)).collect()
}

/// Fails if anything of a read-only root can be written, by a command, a check or the container's own command; or if what
/// is to be writable is not; or if the files of the network are missing; or if that is forgotten by stop and start.
#[test]
fn a_read_only_root() {
    let world = World::new("read-only");
    let shown = world.path("shown");
    fs::create_dir(&shown).unwrap();
    let volume = format!("{}:/data", shown.display());
    let script = "
        for path in / /etc /tmp /root /bin /usr/bin /var; do ! touch $path/new 2>/dev/null || exit 1; done
        for file in /etc/passwd /bin/busybox /etc/resolv.conf /etc/hosts /etc/hostname; do ! (true >>$file) 2>/dev/null || exit 2; done
        ! rm /etc/passwd 2>/dev/null || exit 3; ! mkdir /x 2>/dev/null || exit 4; ! chmod 777 /etc 2>/dev/null || exit 5
        for path in /dev/shm /data /run /scratch/deep; do touch $path/new$$ && rm $path/new$$ || exit 6; done
        grep -q box /etc/hosts && grep -qx box /etc/hostname && test -s /etc/resolv.conf || exit 7";
    let line = script.trim().replace("\n", ";").replace(";;", ";");
    let args = [
        "--read-only",
        "--volume",
        &volume,
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/scratch/deep",
        "--workdir",
        "/made/for/it",
        "--health-check",
        &line,
        "--",
        "sh",
        "-c",
        &format!("({line}) && echo contained; sleep 1000"),
    ];
    world.create("box", &args);
    for round in ["created", "started"] {
        world.quilt(&["exec", "box", "sh", "-c", script]).is(0, "", "");
        let root = mounted(&world, "box", "/").concat();
        assert!(root.starts_with("/ overlay ro,nodev,relatime "), "{round}: {root}");
        let logged = || world.quilt(&["logs", "box"]).ok().stdout;
        assert!(
            crate::harness::eventually(std::time::Duration::from_secs(5), || logged() == "contained\n"),
            "{round}: {}",
            logged()
        );
        assert_eq!(world.exec("box", &["pwd"]), "/made/for/it\n");
        if round == "created" {
            world.quilt(&["stop", "-t", "0s", "box"]).ok();
            world.quilt(&["start", "box"]).ok();
        }
    }
    // Who has no right to mount cannot take it back.
    let out = world.quilt(&["exec", "box", "mount", "-o", "remount,rw", "/"]);
    assert_ne!(out.status, 0, "{out:?}");
}

/// Fails if a file system in memory is not as it was asked for.
#[test]
fn file_systems_in_memory() {
    let world = World::new("tmpfs");
    let image = images::busybox().display().to_string();
    world.create(
        "box",
        &[
            "--tmpfs",
            "/tmp",
            "--tmpfs",
            "/run:size=1M,mode=755,exec",
            "--tmpfs",
            "/new/place:size=65536,uid=1000,gid=5,nr_inodes=10,mode=700",
            "--tmpfs",
            "/ro:ro,suid",
            "--shm-size",
            "1M",
            "--network",
            "none",
        ],
    );
    let one = |path: &str| mounted(&world, "box", path).join("\n");
    assert_eq!(one("/tmp"), "/tmp tmpfs rw,nosuid,nodev,noexec,relatime rw");
    assert_eq!(one("/run"), "/run tmpfs rw,nosuid,nodev,relatime rw,size=1024k,mode=755");
    assert_eq!(
        one("/new/place"),
        "/new/place tmpfs rw,nosuid,nodev,noexec,relatime rw,size=64k,nr_inodes=10,mode=700,uid=1000,gid=5"
    );
    assert_eq!(one("/ro"), "/ro tmpfs ro,nodev,noexec,relatime ro");
    assert_eq!(one("/dev/shm"), "/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime rw,size=1024k");
    assert_eq!(world.exec("box", &["stat", "-c", "%a %u:%g", "/tmp", "/new/place"]), "1777 0:0\n700 1000:5\n");
    // Each is as large as it is said to be, and empty at every start.
    let out = world.quilt(&["exec", "box", "sh", "-c", "head -c 2M /dev/zero >/dev/shm/x"]);
    assert_ne!(out.status, 0, "{out:?}");
    world.exec("box", &["touch", "/tmp/left"]);
    world.quilt(&["stop", "-t", "0s", "box"]).ok();
    world.quilt(&["start", "box"]).ok();
    assert_eq!(world.exec("box", &["ls", "-A", "/tmp", "/run"]), "/run:\n\n/tmp:\n");
    let known = "write size=64M, nr_inodes=1000, mode=755, uid=0, gid=0, ro or rw, exec or noexec, suid or nosuid";
    for (args, why) in [
        (["--tmpfs", "tmp"], "`tmp` is not an absolute path inside the container".to_owned()),
        (["--tmpfs", "/tmp:dev"], format!("`dev` is not an option: {known}")),
        (["--tmpfs", "/tmp:size=0"], format!("`size=0` is not an option: {known}")),
        (["--tmpfs", "/tmp:ro,mode=9"], format!("`mode=9` is not an option: {known}")),
        (["--shm-size", "0B"], "the least is 4KiB".to_owned()),
    ] {
        let out = world.quilt(&[&["create", &image, "--name", "other"], &args[..]].concat());
        out.failed("quilt-spec", "invalid");
        assert_eq!(out.stderr, format!("quilt-spec: read {}: {why}\n", args[0]));
    }
}

/// Fails if a file system is asked for an id that the container has not, and that is not said as it is.
#[test]
fn file_systems_of_nobody() {
    let world = World::new("tmpfs-ids");
    let first = world.create("first", &["--network", "none"]);
    if first["netns"]["have"]["ids"].is_null() {
        return crate::harness::skip("file_systems_of_nobody", "no user namespace here");
    }
    let image = images::busybox().display().to_string();
    let args = ["create", &image, "--name", "box", "--network", "none", "--tmpfs", "/x:mode=700,uid=70000"];
    let why = "uid=70000 for /x: the container has the ids 0 to 65535 (--userns says which)";
    for more in [&[][..], &["--dry-run"]] {
        let out = world.quilt(&[&args[..], more].concat());
        out.failed("quilt-spawn", "invalid");
        assert_eq!(out.stderr, format!("quilt-spawn: read --tmpfs: {why}\n"));
    }
    world.quilt(&[&args[..], &["--userns", "host"]].concat()).ok();
    assert_eq!(world.exec("box", &["stat", "-c", "%u", "/x"]), "70000\n");
}

/// Fails if a parameter is not set in the container, or is set outside, or one that is not the container's is let through.
#[test]
fn parameters_of_the_kernel() {
    let world = World::new("sysctl");
    let image = images::busybox().display().to_string();
    let asked = [
        ("net.core.somaxconn", "77"),
        ("net.ipv4.ip_local_port_range", "2000\t3000"),
        ("net.ipv4.ip_unprivileged_port_start", "1024"),
        ("kernel.msgmax", "9999"),
        ("kernel.sem", "100\t200\t3\t40"),
        ("kernel.shm_rmid_forced", "1"),
        ("fs.mqueue.msg_max", "20"),
    ];
    let path = |name: &str| format!("/proc/sys/{}", name.replace('.', "/"));
    // The test's own network namespace; of the others, the host's own.
    let thread = |name: &str| fs::read_to_string(path(name)).unwrap();
    let before: Vec<String> = asked.iter().map(|(name, _)| thread(name)).collect();
    let given: Vec<String> = asked.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut args: Vec<&str> = given.iter().flat_map(|text| ["--sysctl", text.as_str()]).collect();
    // Whether the kernel has net.core.* for a user namespace's network at all.
    let shown = ["-Urn", "test", "-e", "/proc/sys/net/core/somaxconn"];
    let shown = world.run("unshare", &shown).start().finish().status == 0 || !world.has_userns();
    if !shown {
        let out = world.quilt(&["create", &image, "--name", "other", "--sysctl", "net.core.somaxconn=77"]);
        out.failed("quilt-spawn", "not_found");
        assert!(out.stderr.ends_with("or none for a user namespace (--userns host)\n"), "{out:?}");
        args.extend(["--userns", "host"]);
    }
    world.create("box", &args);
    for round in 0..2 {
        for (name, value) in asked {
            assert_eq!(world.exec("box", &["cat", &path(name)]), format!("{value}\n"), "{name}");
        }
        assert_eq!(asked.iter().map(|(name, _)| thread(name)).collect::<Vec<_>>(), before);
        if round == 0 {
            world.quilt(&["stop", "-t", "0s", "box"]).ok();
            world.quilt(&["start", "box"]).ok();
        }
    }
    let refused = |args: &[&str], tool: &str, code: &str, said: &str| {
        let out = world.quilt(&[&["create", &image, "--name", "other"], args].concat());
        out.failed(tool, code);
        assert_eq!(out.stderr, format!("{tool}: {said}\n"));
    };
    let own = "a container has net.*, fs.mqueue.* and kernel.{msgmax,msgmnb,msgmni,sem,shmall,shmmax,shmmni,shm_rmid_forced} to itself";
    for name in ["kernel.panic", "vm.swappiness", "fs.file-max", "kernel.core_pattern", "kernel.hostname"] {
        let said = format!("read --sysctl: {name} belongs to the whole machine: {own}");
        refused(&["--sysctl", &format!("{name}=1")], "quilt-spec", "invalid", &said);
    }
    for name in ["net/core/somaxconn", "net..core", "net.../x", "net.a b", "../kernel"] {
        let said = format!("read --sysctl: `{name}` is not a name: write it with dots, net.core.somaxconn");
        refused(&["--sysctl", &format!("{name}=1")], "quilt-spec", "invalid", &said);
    }
    let said = "read --sysctl: the value of net.core.somaxconn has more than one line";
    refused(&["--sysctl", "net.core.somaxconn=1\n2"], "quilt-spec", "invalid", said);
    let said = "read --sysctl: with --network host, net.core.somaxconn would be the host's";
    refused(&["--network", "host", "--sysctl", "net.core.somaxconn=1"], "quilt-spec", "invalid", said);
    let said = "write /proc/sys/net/no/such: 1: this kernel has no net.no.such";
    refused(&["--userns", "host", "--sysctl", "net.no.such=1"], "quilt-spawn", "not_found", said);
    let said = "write /proc/sys/net/ipv4: 1: this kernel has no net.ipv4";
    refused(&["--sysctl", "net.ipv4=1"], "quilt-spawn", "not_found", said);
    let said = "write /proc/sys/kernel/msgmax: x: Invalid argument";
    refused(&["--sysctl", "kernel.msgmax=x"], "quilt-spawn", "invalid", said);
}

/// Fails if a privileged container has anything masked or read-only, or lacks a device of the host's.
#[test]
fn privileged_has_it_all() {
    let world = World::new("privileged");
    world.create("box", &["--privileged", "--network", "none"]);
    let table = mounts(&world, "box");
    let own: Vec<&str> = table.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let own: Vec<&str> = own.into_iter().filter(|path| !path.starts_with("/sys/fs/cgroup")).collect();
    assert_eq!(own, ["/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"]);
    assert!(!table.iter().any(|line| line.split(' ').nth(2).unwrap().starts_with("ro")), "{table:#?}");
    let own = ["console", "null", "zero", "full", "random", "urandom", "tty", "ptmx"];
    let mut expected = Vec::new();
    let mut dirs = vec![std::path::PathBuf::from("/dev")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let found = path.symlink_metadata().unwrap();
            let below = path.strip_prefix("/dev").unwrap().display().to_string();
            if found.is_dir()
                && !["pts", "shm", "mqueue"].contains(&below.as_str())
                && found.dev() == dir.metadata().unwrap().dev()
            {
                dirs.push(path);
            } else if (found.file_type().is_block_device() || found.file_type().is_char_device())
                && !own.contains(&below.as_str())
            {
                let kind = if found.file_type().is_block_device() { "block" } else { "character" };
                let (major, minor) = (nix::sys::stat::major(found.rdev()), nix::sys::stat::minor(found.rdev()));
                expected.push(format!(
                    "/dev/{below} {kind} {:o} {major:x}:{minor:x} {}:{}",
                    found.mode() & 0o7777,
                    found.uid(),
                    found.gid()
                ));
            }
        }
    }
    let find = "find /dev -xdev '(' -type b -o -type c ')' -exec stat -c '%n %F %a %t:%T %u:%g' {} +";
    let mut there: Vec<String> =
        world.exec("box", &["sh", "-c", find]).lines().map(|line| line.replace(" special file", "")).collect();
    there.retain(|line| !own.iter().any(|name| line.starts_with(&format!("/dev/{name} "))));
    there.sort();
    expected.sort();
    assert_eq!(there, expected);
    // Its sysctls are the container's own namespaces', which it can write.
    world.exec("box", &["sh", "-c", "echo 55 >/proc/sys/net/core/somaxconn"]);
    assert_eq!(world.exec("box", &["cat", "/proc/sys/net/core/somaxconn"]), "55\n");
}

/// Fails if a mask is not there for a path that this kernel has, or is not what it must be: the null device of the
/// container itself, or the one empty directory; or if it is looked at by one call more than each.
#[test]
fn masks_are_what_they_must_be() {
    let world = World::new("masks");
    world.create("box", &["--network", "none"]);
    let number = |path: &str, what: &str| world.exec("box", &["stat", "-c", what, path]).trim().to_owned();
    let (null, empty) = (number("/dev/null", "%d:%i"), number("/sys/firmware", "%d:%i"));
    let mut seen = 0;
    let mut all: Vec<String> = masked().iter().map(|path| (*path).to_owned()).collect();
    all.extend(
        (0..)
            .map(|n| format!("/sys/devices/system/cpu/cpu{n}/thermal_throttle"))
            .take_while(|path| fs::metadata(path).is_ok()),
    );
    for path in all {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        seen += 1;
        let expected = if found.is_dir() { &empty } else { &null };
        assert_eq!(number(&path, "%d:%i"), *expected, "{path}");
        if found.is_dir() {
            assert_eq!(world.exec("box", &["ls", "-A", &path]), "", "{path}");
            assert_ne!(world.quilt(&["exec", "box", "touch", &format!("{path}/x")]).status, 0, "{path}");
        }
    }
    assert!(seen >= 5, "{seen} masks only");
    assert_eq!(number("/dev/null", "%t:%T"), "1:3");
}

/// What docker (`/proc/acpi` to `/sys/firmware`) and podman (`/sys/dev/block`, `/sys/fs/selinux`) mask, and what more.
fn masked() -> [&'static str; 16] {
    [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kallsyms",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/dev/block",
        "/sys/devices/virtual/dmi",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
        "/sys/fs/selinux",
    ]
}
