//! What others do to the host's side of containers' networks is noticed, and `quilt repair` makes it right.

use std::fs;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use serde_json::{Value, json};

use crate::harness::{IP_FORWARD, Run, SETTLE, World, eventually};

pub fn ip(args: &str) -> String {
    Run::new("ip").args(&args.split(' ').collect::<Vec<_>>()).go().ok().stdout
}

pub fn link(record: &Value, key: &str) -> String {
    record["netns"]["have"]["link"][key].as_str().unwrap().to_owned()
}

/// A message of nftables: number, flags, family, attributes.
pub type Message<'a> = (u16, u16, u8, &'a [(u16, &'a [u8])]);

/// Sends messages to nftables in one transaction, as nft(8) would; there may be no nft.
pub fn nft(messages: &[Message<'_>]) {
    const SUBSYSTEM: u16 = 10;
    const REQUEST_ACK: u16 = 5;
    let mut bytes = Vec::new();
    let mut put = |kind: u16, flags: u16, family: u8, resource: u16, attributes: &[(u16, &[u8])]| {
        let start = bytes.len();
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | 1).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        for (kind, value) in attributes {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = (bytes.len() - start) as u32;
        bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    };
    put(16, 0, 0, SUBSYSTEM, &[]);
    for (kind, flags, family, attributes) in messages {
        put(SUBSYSTEM << 8 | kind, REQUEST_ACK | flags, *family, 0, attributes);
    }
    put(17, 0, 0, SUBSYSTEM, &[]);
    let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    socket.send(&bytes, 0).unwrap();
    for _ in messages {
        let (answer, _) = socket.recv_from_full().unwrap();
        assert_eq!(i32::from_ne_bytes(answer[16..20].try_into().unwrap()), 0, "refused: {messages:?}");
    }
}

const IP: u8 = 2;
pub const BRIDGE: u8 = 7;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELRULE: u16 = 8;
const CREATE: u16 = 0x400;

pub fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

pub fn table(world: &World) -> Vec<u8> {
    text(&quilt_record::Instance::locate(Some(&world.root)).unwrap().name())
}

/// `nft flush ruleset`, as far as it is ours.
fn flush(world: &World) {
    let table = table(world);
    nft(&[(DELTABLE, 0, IP, &[(1, &table)]), (DELTABLE, 0, BRIDGE, &[(1, &table)])]);
}

/// What a probe says of the network, which must not be right; what is missing.
pub fn missing(world: &World, name: &str) -> Vec<String> {
    let out = world.quilt(&["probe", name]);
    let error = out.failed("quilt-probe", "not_ready");
    assert!(error["message"].as_str().unwrap().contains("quilt repair"), "{error}");
    let phases = out.record()["probe"]["have"]["phases"].clone();
    let network = phases.as_array().unwrap().iter().find(|phase| phase["name"] == "network").unwrap().clone();
    assert_eq!(network["ok"], false);
    let listed = network["evidence"]["missing"].as_array().unwrap().iter();
    listed.map(|what| what.as_str().unwrap().to_owned()).collect()
}

/// Runs `quilt repair`; kind and name of each thing that was repaired.
pub fn repair(world: &World, args: &[&str]) -> Vec<(String, String)> {
    let out = world.quilt(&[&["repair"], args].concat()).ok();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let pair = |one: &Value| {
        assert_eq!(one["repaired"], true, "{one}");
        assert!(!text(&one["why"]).is_empty());
        (text(&one["kind"]), text(&one["name"]))
    };
    out.objects().iter().map(pair).collect()
}

/// Whether the container can be reached from the host, and reach it.
pub fn connected(world: &World, name: &str) {
    let address = link(&world.quilt(&["inspect", name]).ok().record(), "address");
    Run::new("busybox").args(&["ping", "-c", "1", "-W", "2", &address]).go().ok();
    let pid = world.init(name).to_string();
    Run::new("busybox").args(&["nsenter", "-t", &pid, "-n", "ping", "-c", "1", "-W", "2", "10.91.0.1"]).go().ok();
    world.quilt(&["probe", name]).ok();
}

/// All that there is of links, routes, tables and chains, but for what depends on the order in which it was made.
pub fn host(world: &World) -> Vec<String> {
    let counted = ["port_id", "port_no", "designated_port", "forward_delay_timer", "gc_timer"];
    let shown = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let mut kept = Vec::new();
        while let Some(word) = words.next() {
            if counted.contains(&word) {
                words.next();
            } else {
                kept.push(word);
            }
        }
        kept.join(" ")
    };
    let mut all: Vec<String> = ip("-d -o link").lines().map(shown).collect();
    all.extend(ip("route").lines().map(str::to_owned));
    all.extend(world.inventory().of("nftables").iter().filter(|line| !line.starts_with("rule")).cloned());
    all.sort();
    all
}

/// All is as it was: links tell of their carriers later than they have them.
pub fn same(world: &World, before: &[String]) {
    let done = eventually(SETTLE, || host(world) == before);
    assert!(done, "{:#?}\nwas\n{before:#?}", host(world));
}

#[test]
fn a_flushed_firewall() {
    let world = World::new("flushed");
    world.create("one", &["--dns", "192.0.2.53"]);
    let before = world.inventory().of("nftables").len();
    assert_eq!(repair(&world, &[]), [], "nothing is wrong");
    flush(&world);
    let seen = missing(&world, "one");
    assert!(seen.iter().any(|what| what.contains(" input")) && seen.len() == 6, "{seen:?}");
    assert!(seen.contains(&"the way to the name server 192.0.2.53".to_owned()), "{seen:?}");
    let name = String::from_utf8(table(&world)).unwrap().trim_end_matches('\0').to_owned();
    let repaired = [("firewall".to_owned(), name.clone()), ("resolver".to_owned(), "192.0.2.53".to_owned())];
    assert_eq!(repair(&world, &["one"]), repaired);
    assert_eq!(world.inventory().of("nftables").len(), before);
    assert_eq!(repair(&world, &[]), []);
    connected(&world, "one");
    // The rules of one chain.
    nft(&[(DELRULE, 0, IP, &[(1, &table(&world)), (2, &text("input"))])]);
    assert_eq!(missing(&world, "one"), [format!("chain ip {name} input")]);
    // Whoever makes a container needs it whole, and makes it whole.
    world.create("two", &[]);
    connected(&world, "one");
    // One of the two tables.
    nft(&[(DELTABLE, 0, BRIDGE, &[(1, &table(&world))])]);
    world.create("three", &[]);
    connected(&world, "one");
    assert_eq!(world.inventory().of("nftables").len(), before);
}

#[test]
fn a_deleted_bridge() {
    let world = World::new("no-bridge");
    let record = world.create("one", &[]);
    world.create("two", &[]);
    let before = host(&world);
    let bridge = link(&record, "bridge");
    ip(&format!("link del {bridge}"));
    assert_eq!(missing(&world, "one"), [format!("the bridge {bridge}")]);
    let repaired = repair(&world, &["--all"]);
    let kinds: Vec<&str> = repaired.iter().map(|(kind, _)| kind.as_str()).collect();
    // The bridge, its address, its route; and who was on it.
    assert_eq!(kinds, ["bridge", "bridge", "bridge", "port", "port"], "{repaired:?}");
    same(&world, &before);
    assert_eq!(repair(&world, &[]), []);
    connected(&world, "one");
    connected(&world, "two");
    // A create makes it, too, with all that were on it.
    ip(&format!("link del {bridge}"));
    world.create("three", &[]);
    ["one", "two", "three"].iter().for_each(|name| connected(&world, name));
    // What the bridge was given.
    ip(&format!("addr del 10.91.0.1/32 dev {bridge}"));
    assert_eq!(repair(&world, &[]).len(), 2);
    ip(&format!("link set {bridge} down"));
    assert_eq!(missing(&world, "one"), [format!("{bridge} is down")]);
    assert!(!repair(&world, &[]).is_empty());
    connected(&world, "one");
}

#[test]
fn a_port_and_an_interface() {
    let world = World::new("no-port");
    let record = world.create("one", &[]);
    let before = host(&world);
    let (host_end, bridge) = (link(&record, "host"), link(&record, "bridge"));
    let cases = [
        (format!("link set {host_end} nomaster"), format!("{host_end} is no port of {bridge}")),
        (format!("link set {host_end} down"), format!("{host_end} is down")),
        (
            format!("link set {host_end} group 0"),
            format!("{host_end} is not in the group {}", link(&record, "address")),
        ),
        (format!("link set {host_end} type bridge_slave isolated off"), format!("the port {host_end} is not isolated")),
        (format!("link set {host_end} type bridge_slave learning on"), format!("the bridge learns from {host_end}")),
    ];
    for (done, seen) in cases {
        ip(&done);
        assert_eq!(missing(&world, "one"), [seen]);
        assert_eq!(repair(&world, &["one"]), [("port".to_owned(), "one".to_owned())], "{done}");
        same(&world, &before);
        connected(&world, "one");
    }
    // A pair that is gone is made again: the namespace lives.
    ip(&format!("link del {host_end}"));
    assert_eq!(missing(&world, "one"), [format!("the interface {host_end}")]);
    assert_eq!(repair(&world, &["one"]), [("interface".to_owned(), "one".to_owned())]);
    connected(&world, "one");
    assert_eq!(repair(&world, &[]), []);
}

#[test]
fn forwarding_switched_off() {
    let world = World::new("no-forwarding");
    world.create("one", &[]);
    fs::write(IP_FORWARD, "0").unwrap();
    assert_eq!(missing(&world, "one"), ["net.ipv4.ip_forward is off"]);
    let out = world.quilt(&["repair", "--json"]).ok();
    assert_eq!(
        out.objects(),
        [json!({"kind": "forwarding", "name": "net.ipv4.ip_forward", "why": "it was off", "repaired": true})]
    );
    assert_eq!(fs::read_to_string(IP_FORWARD).unwrap(), "1\n");
    world.quilt(&["probe", "one"]).ok();
    world.quilt(&["repair", "nobody"]).refused("quilt-repair", "not_found");
    assert_eq!(world.quilt(&["repair", "--table"]).ok().stdout, "");
}

#[test]
fn what_an_earlier_version_made_is_replaced() {
    let world = World::new("upgrade");
    let record = world.create("old", &["--dns", "10.91.0.1"]);
    let before = host(&world);
    let (host_end, bridge) = (link(&record, "host"), link(&record, "bridge"));
    // As it was before frames were looked at: one table, another label, ports that the bridge learns from, no groups.
    flush(&world);
    let (table, chain) = (table(&world), text("forward"));
    nft(&[(NEWTABLE, CREATE, IP, &[(1, &table)]), (NEWCHAIN, CREATE, IP, &[(1, &table), (3, &chain)])]);
    ip(&format!("link set {bridge} alias quilt_10.91.0.0/22 group 0 type bridge group_fwd_mask 0"));
    ip(&format!("link set {host_end} group 0"));
    ip(&format!("link set {host_end} type bridge_slave learning on flood on mcast_flood on"));
    let seen = missing(&world, "old");
    assert!(seen.contains(&format!("{bridge} is of another version of Quilt")), "{seen:?}");
    world.create("new", &["--ip", "10.91.2.200"]);
    world.quilt(&["rm", "-f", "new"]).ok();
    same(&world, &before);
    connected(&world, "old");
    assert_eq!(repair(&world, &[]), []);
}

#[test]
fn a_firewall_that_drops_what_it_forwards_is_told() {
    let world = World::new("docker");
    let (filter, forward, user) = (text("filter"), text("FORWARD"), text("DOCKER-USER"));
    // Hook FORWARD (2), priority 0; policy drop: as docker has iptables-nft make it.
    let hook = [8u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat();
    let hook = [&hook[..], &2u32.to_be_bytes(), &8u16.to_ne_bytes(), &2u16.to_ne_bytes(), &0u32.to_be_bytes()].concat();
    let drop = 0u32.to_be_bytes();
    let kind = text("filter");
    nft(&[
        (NEWTABLE, CREATE, IP, &[(1, &filter)]),
        (NEWCHAIN, CREATE, IP, &[(1, &filter), (3, &forward), (4 | 0x8000, &hook), (5, &drop), (7, &kind)]),
    ]);
    let record = world.create("one", &[]);
    let prefix = link(&record, "bridge").trim_end_matches('0').to_owned();
    let note = |text: &str, chain: &str| {
        let command = format!("iptables -I {chain} -i {prefix}+ -o UPLINK -j ACCEPT");
        assert!(text.contains(&command), "{text}");
    };
    note(record["netns"]["have"]["notes"][0].as_str().unwrap(), "FORWARD");
    nft(&[(NEWCHAIN, CREATE, IP, &[(1, &filter), (3, &user)])]);
    let told = world.quilt(&["repair"]).ok().objects();
    assert_eq!((told.len(), &told[0]["kind"], &told[0]["repaired"]), (1, &json!("host"), &json!(false)));
    note(told[0]["why"].as_str().unwrap(), "DOCKER-USER");
    let probed = world.quilt(&["probe", "one"]).ok().record();
    let phases = probed["probe"]["have"]["phases"].as_array().unwrap().clone();
    let network = phases.iter().find(|phase| phase["name"] == "network").unwrap();
    note(network["evidence"]["notes"][0].as_str().unwrap(), "DOCKER-USER");
    nft(&[(DELTABLE, 0, IP, &[(1, &filter)])]);
    assert_eq!(repair(&world, &[]), []);
}
