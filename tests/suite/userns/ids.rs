//! Which ids a container gets, and what it can do with them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use super::{FIRST, first, shifted, uids};
use crate::harness::pace::rounds;
use crate::harness::{SETTLE, World, images};

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
