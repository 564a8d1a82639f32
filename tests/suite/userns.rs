//! User namespaces: root inside is nobody outside, two containers are two of them, and the files on the disk have the ids
//! that the container sees.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::pace::rounds;
use crate::harness::{Out, Run, SETTLE, World, eventually, images, skip, teeth};

/// The range of ids, unless the instance has another.
const FIRST: u64 = 1 << 30;

/// A container with ids of its own; its record. `None`, and the test is skipped, if this machine has none to give.
fn shifted(world: &World, test: &str, name: &str, args: &[&str]) -> Option<Value> {
    let record = world.create(name, &[&["--userns", "auto"], args].concat());
    if let Some(note) = record["netns"]["have"]["notes"][0].as_str() {
        skip(test, note);
        world.quilt(&["rm", "-f", name]).ok();
        return None;
    }
    Some(record)
}

/// Whether this machine has ids to give; if not, the test is skipped.
fn able(test: &str) -> bool {
    shifted(&World::new("able"), test, "box", &[]).is_some()
}

/// The first id of the host that is the container's.
fn first(record: &Value) -> u64 {
    record["netns"]["have"]["ids"]["uid"].as_u64().unwrap()
}

/// The four user ids of a process, as the host sees it.
fn uids(pid: i32) -> Vec<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

/// The host's pids of what runs by this command line.
fn pids_of(words: &[&str]) -> Vec<i32> {
    let line: String = words.iter().map(|word| format!("{word}\0")).collect();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    all.filter(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l == line.as_bytes())).collect()
}

#[test]
fn root_inside_is_nobody_outside() {
    let world = World::new("userns");
    let Some(record) = shifted(&world, "root_inside", "box", &[]) else { return };
    let base = first(&record);
    assert!(base >= FIRST && base.is_multiple_of(65_536), "{base}");
    let init = world.init("box");
    assert_eq!(uids(init), [base; 4]);
    assert_eq!(record["spawn"]["have"]["ids"], json!({"uid": base, "gid": base, "size": 65_536}));
    let spaces = record["spawn"]["have"]["namespaces"].as_array().unwrap();
    assert!(spaces.iter().any(|pair| pair[0] == "user"), "{spaces:?}");
    // The probe has seen it, and inspect shows it.
    let phase = &record["probe"]["have"]["phases"][1];
    assert_eq!(phase["evidence"]["uid_map"], format!("0 {base} 65536"), "{phase}");
    assert_eq!(first(&world.quilt(&["inspect", "box"]).ok().record()), base);
    // A command, by every way in.
    world.quilt(&["exec", "box", "sh", "-c", "sleep 4242 >/dev/null 2>&1 &"]).ok();
    world.quilt(&["exec", "-u", "agent", "box", "sh", "-c", "sleep 4243 >/dev/null 2>&1 &"]).ok();
    for (seconds, id) in [("4242", base), ("4243", base + 1000)] {
        assert!(eventually(SETTLE, || pids_of(&["sleep", seconds]).len() == 1));
        assert_eq!(uids(pids_of(&["sleep", seconds])[0]), [id; 4]);
    }
    world.exec("box", &["sh", "-c", "kill -9 $(pidof sleep)"]);
    // What it is to itself.
    let seen =
        world.exec("box", &["sh", "-c", "id -u; stat -c %u:%g / /etc /etc/hosts /dev /dev/null /dev/shm /dev/mqueue"]);
    assert_eq!(seen, format!("0\n{}", "0:0\n".repeat(7)));
    assert_eq!(world.exec("box", &["cat", "/proc/self/uid_map"]).split_whitespace().next(), Some("0"));
    assert_eq!(world.exec("box", &["stat", "-c", "%u", "/proc/1/status"]), "0\n");
}

/// What is done as the container's root, with every right that it can have, but in the host's mount namespace: as one would
/// be who had broken out of everything else.
fn escaped(world: &World, init: i32, python: &str) -> Out {
    let script = format!(
        "import ctypes, os\n\
         space = os.open('/proc/{init}/ns/user', os.O_RDONLY)\n\
         if os.fstat(space).st_ino != os.stat('/proc/self/ns/user').st_ino:\n    \
         assert ctypes.CDLL(None).setns(space, 0x10000000) == 0\n\
         os.setgroups([])\nos.setresgid(0, 0, 0)\nos.setresuid(0, 0, 0)\n\
         def tried(name, act):\n    try:\n        act()\n        print(name)\n    except OSError:\n        pass\n{python}"
    );
    world.run("python3", &["-c", &script]).go().ok()
}

/// Fails if somebody who has broken out of a container can read or write a file of root's, signal a process of the host's,
/// or do what takes a capability.
#[test]
fn attacks_by_one_who_has_broken_out() {
    if !able("attacks_by_one_who_has_broken_out") {
        return;
    }
    let done = teeth::attack("userns-out", "userns", |world| {
        world.create("box", &["--userns", "auto"]);
        let canary = world.write("canary", "untouched");
        fs::set_permissions(&canary, fs::Permissions::from_mode(0o600)).unwrap();
        for dir in [&world.dir, world.dir.parent().unwrap()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let (me, state) = (std::process::id(), world.root.display());
        let attack = format!(
            "tried('read', lambda: open('{canary}').read())\n\
             tried('write', lambda: open('{canary}', 'r+').write('changed!!'))\n\
             tried('signal', lambda: os.kill({me}, 0))\n\
             tried('chown', lambda: os.chown('{canary}', 0, 0))\n\
             tried('state', lambda: os.listdir('{state}'))\n\
             tried('cgroup', lambda: os.rmdir(os.mkdir('/sys/fs/cgroup/pids/canary') or '/sys/fs/cgroup/pids/canary'))\n\
             tried('sysctl', lambda: open('/proc/sys/kernel/panic', 'r+').close())\n"
        );
        let done = escaped(world, world.init("box"), &attack).stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        let written = fs::read_to_string(&canary).unwrap() != "untouched";
        assert_eq!(written, done.iter().any(|word| word == "write"));
        done
    });
    for word in ["read", "write", "signal", "chown", "state"] {
        assert!(done.iter().any(|done| done == word), "no teeth: {word} of {done:?}");
    }
}

/// Fails if a container with the host's process ids can signal or look into a process that is not its own.
#[test]
fn attacks_by_the_hosts_process_ids() {
    if !able("attacks_by_the_hosts_process_ids") {
        return;
    }
    teeth::attack("userns-pids", "userns", |world| {
        for name in ["one", "two"] {
            world.create(name, &["--pid", "host", "--userns", "auto"]);
        }
        let mut done = Vec::new();
        for (whose, pid) in
            [("the first's", 1), ("the test's", std::process::id() as i32), ("another's", world.init("two"))]
        {
            for (what, how) in [
                ("signal", "kill -0 PID"),
                ("environment", "head -c 1 /proc/PID/environ"),
                ("root", "ls /proc/PID/root/"),
                ("memory", "grep -q . /proc/PID/maps"),
                ("files", "ls -l /proc/PID/fd/"),
                // What it is already.
                ("settings", "read v </proc/PID/oom_score_adj; echo $v >/proc/PID/oom_score_adj"),
            ] {
                let line = format!("{} >/dev/null 2>&1", how.replace("PID", &pid.to_string()));
                if world.quilt(&["exec", "one", "sh", "-c", &line]).status == 0 {
                    done.push(format!("{whose} {what}"));
                }
            }
            let seen = world.exec("one", &["cat", &format!("/proc/{pid}/comm")]);
            assert!(!seen.is_empty(), "it is not even seen");
        }
        done
    });
    // All that it may signal is its own, and that is the end of it alone.
    let world = World::new("userns-pids-all");
    for name in ["one", "two"] {
        world.create(name, &["--pid", "host", "--userns", "auto"]);
    }
    // Not if it is the host's root after all: then this would be the end of the machine that the test runs on.
    let kill_all = "read inside outside count </proc/self/uid_map; [ $outside != 0 ] || exit 7; kill -9 -1; exit 0";
    assert_ne!(world.quilt(&["exec", "one", "sh", "-c", kill_all]).status, 7, "it is not in a user namespace");
    assert!(kill(Pid::from_raw(world.init("two")), None).is_ok());
    assert_eq!(world.exec("two", &["echo", "alive"]), "alive\n");
}

#[test]
fn process_ids_of_the_host_need_ids_of_ones_own() {
    let world = World::new("userns-needed");
    let image = images::busybox().display().to_string();
    let create = |args: &[&str]| world.quilt(&[&["create", &image, "--name", "box", "--pid", "host"], args].concat());
    let error = create(&["--userns", "host"]).failed("quilt-netns", "invalid");
    assert!(error["message"].as_str().unwrap().contains("--userns auto"), "{error}");
    create(&["--userns", "host", "--privileged"]).ok();
}

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
fn every_container_has_ids_of_its_own() {
    let world = World::new("userns-blocks");
    let Some(_) = shifted(&world, "every_container", "first", &[]) else { return };
    let before = world.inventory();
    let image = images::busybox().display().to_string();
    let networks = ["bridge", "none", "host"];
    let count = rounds(30) as usize;
    let create = |n: usize| {
        let args = ["create", &image, "--name", &format!("box{n}"), "--userns", "auto", "--network", networks[n % 3]];
        world.command(&args).limit(Duration::from_secs(60)).start()
    };
    let running: Vec<_> = (0..count).map(create).collect();
    let made: Vec<Value> = running.into_iter().map(|run| run.finish().ok().record()).collect();
    let blocks: BTreeSet<u64> = made.iter().map(first).collect();
    assert_eq!(blocks.len(), count, "{blocks:?}");
    for (n, record) in made.iter().enumerate() {
        assert_eq!(uids(world.init(&format!("box{n}"))), [first(record); 4]);
        // One with an address leases nothing else.
        assert_eq!(first(record) < FIRST + (1 << 29), n % 3 == 0, "{record}");
    }
    let names: Vec<String> = (0..count).map(|n| format!("box{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.quilt(&[&["rm", "-f"], &names[..]].concat()).ok();
    world.assert_same(&before, SETTLE);
}

#[test]
fn a_lease_that_was_left_is_taken_back() {
    let world = World::new("userns-gc");
    let args = ["--network", "none", "--userns-range", "200000:131072"];
    let Some(record) = shifted(&world, "a_lease_that_was_left", "box", &args) else { return };
    // Two blocks for two containers, whether they have addresses or not.
    let other = first(&world.create("other", &[]));
    let mut both = [first(&record), other];
    both.sort();
    assert_eq!(both, [200_000, 265_536]);
    // Whoever has it gives it back with its address.
    world.quilt(&["rm", "-f", "other"]).ok();
    assert_eq!(first(&world.create("other", &[])), other);
    let number = (first(&record) - 200_000) >> 16;
    let lease = format!("ids@{number}");
    let image = images::busybox().display().to_string();
    let create = |args: &[&str]| world.quilt(&[&["create", &image, "--userns", "auto"], args].concat());
    create(&["--network", "host"]).failed("quilt-netns", "exhausted");
    create(&["--userns-range", "200000:131073"]).failed("quilt-netns", "invalid");
    // No container of that name: nobody's.
    world.quilt(&["rm", "-f", "box"]).ok();
    let leases = fs::read_dir(world.root.join("run")).unwrap().flatten();
    let leases = leases.map(|e| e.path()).find(|p| p.display().to_string().contains("leases-")).unwrap();
    symlink("0123456789abcdef0123456789abcdef/gone", leases.join(&lease)).unwrap();
    create(&["--network", "host", "--name", "heir"]).ok();
    world.quilt(&["rm", "-f", "heir"]).ok();
    symlink("0123456789abcdef0123456789abcdef/gone", leases.join(&lease)).unwrap();
    let found = world.quilt(&["gc"]).ok().objects();
    assert_eq!((found[0]["kind"].as_str(), found[0]["name"].as_str()), (Some("lease"), Some(&*lease)), "{found:?}");
    assert!(fs::symlink_metadata(leases.join(&lease)).is_err());
    world.quilt(&["rm", "-f", "other"]).ok();
}

#[test]
fn ids_that_were_asked_for() {
    let world = World::new("userns-map");
    if shifted(&world, "ids_that_were_asked_for", "probe", &[]).is_none() {
        return;
    }
    let record = world.create("box", &["--userns", "200000:300000:2001"]);
    assert_eq!(record["netns"]["have"]["ids"], json!({"uid": 200_000, "gid": 300_000, "size": 2001}));
    let status = fs::read_to_string(format!("/proc/{}/status", world.init("box"))).unwrap();
    assert!(status.contains("Uid:\t200000\t200000\t200000\t200000\nGid:\t300000\t"), "{status}");
    // Users and groups that there are no ids for; `agent` is 1000 in 1000 and 2000.
    world.quilt(&["exec", "-u", "agent", "box", "id", "-G"]).is(0, "1000 2000\n", "");
    let out = world.quilt(&["exec", "-u", "2001", "box", "true"]);
    assert!(out.status == 125 && out.stderr.contains("2001 is not among the container's 2001 ids"), "{out:?}");
    let image = images::busybox().display().to_string();
    let create = |args: &[&str]| world.quilt(&[&["create", &image, "--name", "bad"], args].concat());
    create(&["--userns", "200000:300000:1000", "-u", "agent"]).failed("quilt-spawn", "invalid");
    // What would be somebody else's.
    create(&["--userns", "1073741823:200000:2"]).failed("quilt-netns", "invalid");
    for bad in ["0:0:65536", "1:1", "1:1:0", "auto:1", "4294967295:1:1", ""] {
        assert_eq!(create(&["--userns", bad]).status, 2, "{bad}");
    }
}

#[test]
fn what_people_rely_on() {
    let world = World::new("userns-usual");
    let Some(_) = shifted(&world, "what_people_rely_on", "box", &["--hostname", "h"]) else { return };
    let ok = |script: &str, expected: &str| assert_eq!(world.exec("box", &["sh", "-c", script]), expected, "{script}");
    // Standard streams by their names, for every user, and a terminal.
    ok("echo out >/dev/stdout; echo err 2>&1 >/dev/stderr | cat; echo tty >/proc/self/fd/1", "out\nerr\ntty\n");
    world.quilt(&["exec", "-u", "agent", "box", "sh", "-c", "echo hi >/dev/stdout"]).is(0, "hi\n", "");
    world
        .command(&["exec", "-i", "-u", "agent", "box", "sh", "-c", "cat </dev/stdin"])
        .stdin("in")
        .go()
        .is(0, "in", "");
    let line = format!(
        "{} exec -t -u agent box sh -c 'tty; stat -c %u:%g /dev/pts/0; echo seen >/dev/tty'",
        crate::harness::repo().join("scripts/quilt").display()
    );
    let out = world.on_terminal(24, 80, &line).ok();
    assert_eq!(out.stdout.replace('\r', ""), "/dev/pts/0\n1000:5\nseen\n");
    // Low ports without a capability, ping without a raw socket.
    ok("nc -l -p 80 -e true & sleep 0.1; echo | nc -w 1 127.0.0.1 80; wait; echo done", "done\n");
    ok("cat /proc/sys/net/ipv4/ping_group_range | tr -s '[:space:]' ' '", "0 65535 ");
    // Kernel settings are read and not written.
    ok(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo 1 2>/dev/null >/proc/sys/net/ipv4/ip_forward || echo no",
        "0\nno\n",
    );
    ok(
        "echo x >/dev/shm/x && stat -c %u /dev/shm/x && su agent -c 'touch /dev/shm/y; stat -c %u /dev/shm/y'",
        "0\n1000\n",
    );
    ok("hostname; hostname other 2>/dev/null || echo no", "h\nno\n");
    ok("mount -t tmpfs x /tmp 2>/dev/null || echo no; mknod /x c 1 3 2>/dev/null || echo no", "no\nno\n");
    // An archive is unpacked with its owners.
    ok(
        "cd /tmp; mkdir a; touch a/f; chown 7:8 a/f; chmod 2755 a/f; tar cf a.tar a; rm -r a; tar xpf a.tar; stat -c '%u:%g %a' a/f",
        "7:8 2755\n",
    );
    // A program with the set-user-id bit is its owner's, as far as `no_new_privs` lets it.
    ok("cp /bin/busybox /bin/su2; chmod 4755 /bin/su2; chown 1000 /bin/su2; stat -c %u:%a /bin/su2", "1000:755\n");
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

/// A file system that cannot be idmapped: the image is a directory of it.
#[test]
fn where_it_cannot_be_done_it_is_said() {
    let world = World::new("userns-cannot");
    let [tree, upper, work] = ["tree", "upper", "work"].map(|name| world.path(name));
    [&tree, &upper, &work].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let options =
        format!("lowerdir={},upperdir={},workdir={}", images::busybox().display(), upper.display(), work.display());
    let mounted = Run::new("mount").args(&["-t", "overlay", "-o", &options, "overlay"]).args(&[&tree]).go();
    if mounted.status != 0 {
        return skip("where_it_cannot_be_done", "the temporary directory takes no overlay");
    }
    let record = world.create_from(&tree, "box", &["--userns", "auto"]);
    let have = &record["netns"]["have"];
    let note = have["notes"][0].as_str().unwrap();
    assert!(note.starts_with("no user namespace: "), "{note}");
    assert_eq!(have.get("ids"), None);
    assert_eq!(uids(world.init("box")), [0; 4]);
    // Once it is known, it is not tried again.
    let again = world.create_from(&tree, "again", &["--userns", "auto"]);
    assert_eq!(again["netns"]["have"]["notes"], have["notes"]);
    let fails = |args: &[&str]| {
        let all = [&["create", tree.to_str().unwrap(), "--name", "bad"], args].concat();
        let error = world.quilt(&all).failed("quilt-netns", "unsupported");
        error["message"].as_str().unwrap().to_owned()
    };
    let why = fails(&["--userns", "200000:200000:65536"]);
    assert_eq!(note, format!("no user namespace: {why}"));
    fails(&["--userns", "auto", "--pid", "host"]);
    if !note.contains("kernel") {
        assert!(note.contains("is on overlay, which this kernel cannot idmap"), "{note}");
    }
    world.quilt(&["rm", "-f", "--all"]).ok();
    Run::new("umount").args(&[&tree]).go().ok();
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

#[test]
fn a_dry_run_tells_of_it() {
    let world = World::new("userns-plan");
    let Some(record) = shifted(&world, "a_dry_run", "box", &[]) else { return };
    let image = images::busybox().display().to_string();
    world.quilt(&["rm", "-f", "box"]).ok();
    let plan = world.quilt(&["create", &image, "--name", "box", "--userns", "auto", "--dry-run"]).ok().stdout;
    let base = first(&record);
    for line in [
        "netns\tclone3 CLONE_NEWUSER|CLONE_NEWNET".to_owned(),
        format!("netns\twrite 0 {base} 65536 to /proc/CHILD/uid_map"),
        format!("spawn\tsetfsuid {base}, setfsgid {base}, keeping capabilities"),
        "spawn\tsetns to the user namespace that owns ".to_owned(),
        "probe\tcompare its namespaces with the host's: mnt uts ipc cgroup user net pid".to_owned(),
    ] {
        assert!(plan.contains(&line), "no `{line}` in:\n{plan}");
    }
}
