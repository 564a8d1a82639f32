//! The network of a container: what it sees, what the host has, and that no program of the host's is needed for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{IP_FORWARD, Run, World, eventually, images, run::status_of, skip};

fn ip(args: &[&str]) -> String {
    Run::new("ip").args(args).go().ok().stdout
}

fn link(record: &Value, key: &str) -> String {
    match &record["netns"]["have"]["link"][key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Every line of a command inside, white space made even.
fn lines(world: &World, name: &str, args: &[&str]) -> Vec<String> {
    let even = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    world.exec(name, args).lines().map(even).collect()
}

#[test]
fn what_the_container_sees() {
    let world = World::new("network");
    let args = "--hostname agent.example --dns 192.0.2.53 --dns 192.0.2.54 --dns-search example.org";
    let args = args.split(' ').chain(["--add-host", "db:192.0.2.7", "--label", "a=b"]).collect::<Vec<_>>();
    let record = world.create("box", &args);
    let (address, mac) = (link(&record, "address"), link(&record, "mac"));
    assert!(address.starts_with("10.91."), "{address}");
    assert_eq!((link(&record, "name"), link(&record, "gateway")), ("eth0".to_owned(), "10.91.0.1".to_owned()));
    assert_eq!(link(&record, "prefix"), "16");

    let seen = lines(&world, "box", &["ip", "-4", "-o", "addr", "show", "dev", "eth0"]);
    assert_eq!(seen.len(), 1);
    assert!(seen[0].contains(&format!("inet {address}/16 ")), "{seen:?}");
    let mut routes = lines(&world, "box", &["ip", "route"]);
    routes.sort();
    let direct = format!("10.91.0.0/16 dev eth0 scope link src {address}");
    assert_eq!(routes, [direct, "default via 10.91.0.1 dev eth0".to_owned()]);
    for interface in ["lo", "eth0"] {
        let flags = lines(&world, "box", &["ip", "-o", "link", "show", "dev", interface]).join("");
        assert!(flags.contains(",UP") && flags.contains("UP,LOWER_UP"), "{interface}: {flags}");
        assert!(interface == "lo" || flags.contains(&mac), "{mac}: {flags}");
    }
    let names = world.exec("box", &["ls", "/sys/class/net"]);
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);

    assert_eq!(world.exec("box", &["hostname"]), "agent.example\n");
    assert_eq!(world.exec("box", &["cat", "/etc/hostname"]), "agent.example\n");
    let mut resolv = lines(&world, "box", &["cat", "/etc/resolv.conf"]);
    resolv.sort();
    assert_eq!(resolv, ["nameserver 192.0.2.53", "nameserver 192.0.2.54", "search example.org"]);
    let hosts = lines(&world, "box", &["cat", "/etc/hosts"]);
    assert!(hosts.iter().any(|l| l.starts_with("127.0.0.1 localhost")), "{hosts:?}");
    assert!(hosts.iter().any(|l| *l == "192.0.2.7 db"), "{hosts:?}");
    assert!(hosts.iter().any(|l| l.starts_with(&format!("{address} agent.example"))), "{hosts:?}");
}

#[test]
fn what_the_host_has() {
    let world = World::new("host-side");
    let cold = world.inventory();
    let record = world.create("box", &[]);
    let now = world.inventory();
    let links: Vec<&str> = now.of("links").iter().map(|l| l.split(' ').nth(1).unwrap()).collect();
    let (bridge, host) = (link(&record, "bridge"), link(&record, "host"));
    assert!(links.contains(&bridge.as_str()) && links.contains(&host.as_str()) && links.len() == 3, "{links:?}");
    let name = quilt_record::Instance::locate(Some(&world.root)).unwrap().name();
    assert!(now.of("nftables").iter().any(|l| l.starts_with("table ") && l.ends_with(&format!(" {name}"))), "{now:?}");
    assert_eq!(fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default(), "");
    // The host's mount table does not grow with containers: two mounts of the instance, no overlay, no pin.
    let grown = now.of("mounts").len() - cold.of("mounts").len();
    world.create("second", &[]);
    assert_eq!(world.inventory().of("mounts").len() - cold.of("mounts").len(), grown);
    assert!(!now.of("mounts").iter().any(|m| m.contains("overlay") && m.contains("box")), "{now:?}");
    // The alias says whose it is.
    let shown = ip(&["-d", "link", "show", "dev", &host]);
    assert!(shown.contains("alias box"), "{shown}");
    world.quilt(&["rm", "-f", "box", "second"]).ok();
    assert!(!world.inventory().of("links").iter().any(|l| l.ends_with(&host)), "rm returns when the link is gone");
}

#[test]
fn the_ways_to_be_connected() {
    let world = World::new("modes");
    let record = world.create("fixed", &["--ip", "10.91.2.77"]);
    assert_eq!(link(&record, "address"), "10.91.2.77");
    assert!(world.exec("fixed", &["ip", "-4", "-o", "addr", "show", "dev", "eth0"]).contains("inet 10.91.2.77/16"));

    let record = world.create("none", &["--network", "none"]);
    assert_eq!(record["netns"]["have"].get("link"), None);
    assert_eq!(world.exec("none", &["ls", "/sys/class/net"]), "lo\n");
    assert!(world.exec("none", &["ip", "-o", "link", "show", "lo"]).contains(",UP"));
    assert_eq!(world.exec("none", &["ip", "route"]), "");

    let record = world.create("shared", &["--network", "host"]);
    assert_eq!(record["netns"]["have"].get("link"), None);
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string();
    assert_eq!(world.exec("shared", &["readlink", "/proc/self/ns/net"]).trim(), own);
    world.quilt(&["rm", "-f", "--all"]).ok();
}

#[test]
fn containers_reach_the_gateway_and_the_outside_masqueraded() {
    let world = World::new("outside");
    let record = world.create("box", &[]);
    let server = "import socket\ns = socket.create_server(('', 80))\nwhile True:\n c, peer = s.accept()\n \
                  c.sendall((peer[0] + '\\n').encode())\n c.close()";
    // The outside: a network namespace behind a link of its own, which knows no way back to 10.91.0.0/16.
    let outside =
        world.run("busybox", &["unshare", "-n", "python3", "-c", server]).limit(Duration::from_secs(30)).start();
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let pid = outside.pid.to_string();
    let apart = || fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns != own);
    assert!(eventually(Duration::from_secs(5), apart));
    ip(&["link", "add", "out0", "type", "veth", "peer", "name", "out1"]);
    ip(&["link", "set", "out1", "netns", &pid]);
    ip(&["addr", "add", "192.0.2.1/24", "dev", "out0"]);
    ip(&["link", "set", "out0", "up"]);
    for args in [&["addr", "add", "192.0.2.2/24", "dev", "out1"][..], &["link", "set", "out1", "up"]] {
        Run::new("busybox").args(&[&["nsenter", "-t", &pid, "-n", "ip"], args].concat()).go().ok();
    }
    let ask = || world.quilt(&["exec", "--timeout", "2s", "box", "nc", "-w", "1", "192.0.2.2", "80"]).stdout;
    assert!(eventually(Duration::from_secs(10), || ask() == "192.0.2.1\n"), "seen as {:?}", ask());
    let _ = record;
    outside.signal(nix::sys::signal::Signal::SIGKILL);
    outside.finish();
    let _ = Run::new("ip").args(&["link", "del", "out0"]).go();
}

#[test]
fn forwarding_is_switched_on_only_if_it_must_be() {
    let world = World::new("forwarding");
    let image = images::busybox().display().to_string();
    fs::write(IP_FORWARD, "0").unwrap();
    world.create("none", &["--network", "none"]);
    world.create("host", &["--network", "host"]);
    assert_eq!(fs::read_to_string(IP_FORWARD).unwrap(), "0\n");
    let out = world.quilt(&["create", &image, "--name", "bridge"]).ok();
    assert_eq!(fs::read_to_string(IP_FORWARD).unwrap(), "1\n");
    assert!(out.stderr.lines().count() == 1 && out.stderr.contains("ip_forward"), "not said: {out:?}");
    let out = world.quilt(&["create", &image, "--name", "second"]).ok();
    assert_eq!(out.stderr, "");
}

#[test]
fn containers_do_not_reach_each_other() {
    let world = World::new("isolated");
    world.create("one", &[]);
    for other in ["10.91.0.200", "10.91.4.200"] {
        let name = format!("other-{}", other.len() + usize::from(other.contains(".4.")));
        world.create(&name, &["--ip", other, "--", "sh", "-c", "while :; do echo hi | nc -l -p 8080; done"]);
        let reach =
            |from: &str, to: &str| world.quilt(&["exec", "--timeout", "2s", from, "nc", "-w", "1", to, "8080"]).stdout;
        let host = || world.run("busybox", &["timeout", "2", "nc", "-w", "1", other, "8080"]).go().stdout;
        // Listening, as it can tell itself; the host reaches it; the other does not.
        assert!(eventually(Duration::from_secs(5), || reach(&name, other) == "hi\n"));
        assert!(eventually(Duration::from_secs(5), || host() == "hi\n"));
        assert_eq!(reach("one", other), "", "{other} was reached");
        assert!(eventually(Duration::from_secs(5), || reach(&name, other) == "hi\n"), "{other} had stopped listening");
    }
}

#[test]
fn a_user_namespace_owns_the_network_namespace() {
    let world = World::new("userns");
    world.create("warm", &[]);
    let before = world.inventory();
    let claim = "0123abcd456789abcdef0123456789ab";
    let want = serde_json::json!({"userns": "100000:200000:65536"});
    let record = serde_json::json!({"format": 1, "id": "box", "claim": claim, "netns": {"want": want}});
    let out = world.tool("quilt-netns", &["-"]).stdin(format!("{record}\n")).go();
    if out.status == status_of("unsupported") {
        world.quilt(&["rm", "-f", "box"]);
        return skip("a_user_namespace_owns", &out.stderr);
    }
    let record = out.ok().record();
    let have = &record["netns"]["have"];
    assert_eq!(have["ids"], serde_json::json!({"uid": 100_000, "gid": 200_000, "size": 65_536}));
    // The pin is a namespace, and belongs to another user namespace than the host's (NS_GET_USERNS, ioctl_ns(2)).
    let owner = "import fcntl, os, sys\nn, u = (os.open(p, os.O_RDONLY) for p in sys.argv[1:])\n\
        o = fcntl.ioctl(n, 0xb701)\nprint(os.fstat(o).st_ino == os.fstat(u).st_ino)";
    world.run("python3", &["-c", owner, have["net"].as_str().unwrap(), "/proc/self/ns/user"]).go().is(0, "False\n", "");
    world.tool("quilt-netns", &["--id", "box", "--undo"]).go().ok();
    world.quilt(&["rm", "box"]).ok();
    world.assert_same(&before, crate::harness::SETTLE);
}

#[test]
fn no_program_of_the_host_is_needed() {
    let world = World::new("canaries");
    let dir = world.path("canaries");
    fs::create_dir(&dir).unwrap();
    let log = world.path("log").display().to_string();
    let canary = format!("#!/bin/sh\necho \"$0\" >>{log}\nexit 1\n");
    let names =
        "ip nft iptables iptables-nft mount umount nsenter unshare brctl sysctl modprobe tar gzip zstd sleep jq";
    for name in names.split(' ') {
        fs::write(dir.join(name), &canary).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let with = |args: &[&str]| world.command(args).env("PATH", &path).go();
    let image = images::busybox_archive("tar.zst").display().to_string();
    with(&["create", &image, "--name", "box", "--memory", "64", "--health-check", "true"]).ok();
    with(&["exec", "box", "ip", "addr"]).ok();
    for args in [&["probe", "box"][..], &["ls"], &["inspect", "box"], &["stop", "box"], &["start", "box"]] {
        with(args).ok();
    }
    with(&["rm", "-f", "box"]).ok();
    with(&["gc"]).ok();
    assert!(!fs::exists(&log).unwrap(), "run: {:?}", fs::read_to_string(&log));
    // The canaries do sing.
    let sung = world.run("sh", &["-c", "ip addr"]).env("PATH", &path).go();
    assert_eq!((sung.status, fs::read_to_string(&log).unwrap()), (1, format!("{}/ip\n", dir.display())));
}

#[test]
fn the_second_bridge() {
    let world = World::new("shards");
    // Each bridge carries a /22, for it has 1,024 ports: 10.91.4.9 is on the second.
    let first = world.create("first", &["--ip", "10.91.0.9"]);
    let second = world.create("second", &["--ip", "10.91.4.9"]);
    let (one, two) = (link(&first, "bridge"), link(&second, "bridge"));
    assert_eq!((one.strip_suffix('0'), one != two), (two.strip_suffix('1'), true));
    let routes = ip(&["route"]);
    assert!(routes.lines().any(|l| l.starts_with(&format!("10.91.4.0/22 dev {two}"))), "{routes}");
    assert!(routes.lines().any(|l| l.starts_with(&format!("10.91.0.0/22 dev {one}"))), "{routes}");
    // The gateway answered the second one, or it would not be ready.
    assert_eq!(link(&second, "gateway"), "10.91.0.1");
    assert_eq!(second["probe"]["have"]["ready"], true);
    world.quilt(&["rm", "-f", "first", "second"]).ok();
}

#[test]
fn an_address_is_kept_while_stopped_and_free_after_rm() {
    let world = World::new("lease");
    let first = link(&world.create("box", &[]), "address");
    world.quilt(&["stop", "box"]).ok();
    world
        .quilt(&["create", images::busybox().to_str().unwrap(), "--name", "thief", "--ip", &first])
        .failed("quilt-netns", "exists");
    world.quilt(&["start", "box"]).ok();
    assert!(world.exec("box", &["ip", "-4", "-o", "addr", "show", "dev", "eth0"]).contains(&format!("inet {first}/")));
    world.quilt(&["rm", "-f", "box"]).ok();
    world.create("heir", &["--ip", &first]);
}

#[test]
fn instances_do_not_meet() {
    let world = World::new("instances");
    world.create("box", &[]);
    let before = world.inventory();
    let other = world.path("other");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o700)).unwrap();
    let there = |args: &[&str]| world.command(args).env("QUILT_ROOT", &other).go();
    let image = images::busybox().display().to_string();
    let record = there(&["create", &image, "--name", "box", "--subnet", "10.92.0.0/16"]).ok().record();
    assert_eq!(link(&record, "gateway"), "10.92.0.1");
    assert_ne!(link(&record, "host"), link(&world.quilt(&["inspect", "box"]).ok().record(), "host"));
    let clash = there(&["create", &image, "--name", "clash", "--subnet", "10.93.0.0/16"]);
    clash.failed("quilt-netns", "invalid");
    there(&["exec", "box", "hostname"]).is(0, "box\n", "");
    there(&["gc", "--purge", "--yes"]).ok();
    world.assert_same(&before, crate::harness::SETTLE);
    world.quilt(&["exec", "box", "echo", "untouched"]).is(0, "untouched\n", "");
}
