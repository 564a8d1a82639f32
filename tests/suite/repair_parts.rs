//! Parts of the host's side of a network that can go by themselves: each is noticed, and `quilt repair` makes it right.

use std::fs;

use serde_json::json;

use crate::harness::World;
use crate::repair::{BRIDGE, connected, host, ip, link, missing, nft, repair, same, table, text};

const DELSETELEM: u16 = 14;

/// Repairs it, and all is as it was.
fn repaired(world: &World, before: &[String], expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect();
    assert_eq!(repair(world, &[]), expected);
    same(world, before);
    assert_eq!(repair(world, &[]), []);
    connected(world, "one");
}

#[test]
fn what_a_bridge_was_given() {
    let world = World::new("bridge-parts");
    let record = world.create("one", &[]);
    let before = host(&world);
    let (bridge, address) = (link(&record, "bridge"), link(&record, "address"));
    let route = format!("the route to {address} by {bridge}");
    ip(&format!("addr del 10.91.0.1/32 dev {bridge}"));
    assert_eq!(missing(&world, "one"), [format!("the address 10.91.0.1 of {bridge}"), route.clone()]);
    repaired(&world, &before, &[("bridge", &bridge), ("bridge", &bridge)]);
    ip(&format!("route del 10.91.0.0/22 dev {bridge}"));
    assert_eq!(missing(&world, "one"), std::slice::from_ref(&route));
    repaired(&world, &before, &[("bridge", &bridge)]);
    // A way that is somebody else's.
    ip("link add other type bridge");
    ip("link set other up");
    ip(&format!("route add {address}/32 dev other"));
    assert_eq!(missing(&world, "one"), [route]);
    let told = world.quilt(&["repair"]).ok().objects();
    assert_eq!((told.len(), &told[0]["kind"], &told[0]["repaired"]), (1, &json!("host"), &json!(false)), "{told:?}");
    ip("link del other");
    ip(&format!("link set {bridge} type bridge group_fwd_mask 8"));
    let mask = format!("{bridge} keeps frames from the firewall (group_fwd_mask 0x8)");
    assert_eq!(missing(&world, "one"), [mask]);
    repaired(&world, &before, &[("bridge", &bridge)]);
}

#[test]
fn what_a_port_was_given() {
    let world = World::new("port-parts");
    let record = world.create("one", &[]);
    let other = link(&world.create("two", &[]), "host");
    let before = host(&world);
    let (host_end, mac) = (link(&record, "host"), link(&record, "mac"));
    let fdb = |args: &str| {
        world.run("bridge", &[&["fdb"], &args.split(' ').collect::<Vec<_>>()[..]].concat()).go().ok();
    };
    // Before Linux 5.18 there is no such switch.
    if ip(&format!("-d -o link show dev {host_end}")).contains(" locked on ") {
        ip(&format!("link set {host_end} type bridge_slave locked off"));
        assert_eq!(missing(&world, "one"), [format!("the port {host_end} is not locked")]);
        repaired(&world, &before, &[("port", "one")]);
    }
    for switch in ["flood", "mcast_flood"] {
        ip(&format!("link set {host_end} type bridge_slave {switch} on"));
        assert_eq!(missing(&world, "one"), [format!("the bridge floods {host_end}")]);
        repaired(&world, &before, &[("port", "one")]);
    }
    let entry = format!("the bridge's entry for {mac} at {host_end}");
    for change in [
        format!("del {mac} dev {host_end} master"),
        format!("replace {mac} dev {other} master static"),
        format!("replace {mac} dev {host_end} master dynamic"),
    ] {
        fdb(&change);
        assert_eq!(missing(&world, "one"), std::slice::from_ref(&entry), "{change}");
        repaired(&world, &before, &[("port", "one")]);
    }
}

#[test]
fn the_set_that_addresses_are_pinned_by() {
    let world = World::new("pinned");
    let record = world.create("one", &[]);
    let before = host(&world);
    let table = table(&world);
    let name = String::from_utf8(table.clone()).unwrap().trim_end_matches('\0').to_owned();
    let elements = world.inventory().of("nftables").len();
    let set = [(1, &table[..]), (2, &text("pinned")[..])];
    nft(&[(DELSETELEM, 0, BRIDGE, &set)]);
    assert_eq!(missing(&world, "one"), [format!("set bridge {name} pinned")]);
    repaired(&world, &before, &[("firewall", &name)]);
    // One element only, which this container's frames are not compared with: those of another's are.
    let address: std::net::Ipv4Addr = link(&record, "address").parse().unwrap();
    let byte = address.octets()[3] ^ 1;
    let key = [[0, 0, 0, byte], [byte, 0, 0, 0], [byte, 0, 0, 0], [byte, 0, 0, 0]].concat();
    let nested = |kind: u16, value: &[u8]| {
        let length = (4 + value.len() as u16).to_ne_bytes();
        [&length[..], &(kind | 0x8000).to_ne_bytes(), value].concat()
    };
    let value = [&20u16.to_ne_bytes()[..], &1u16.to_ne_bytes(), &key].concat();
    let element = nested(1, &nested(1, &value));
    nft(&[(DELSETELEM, 0, BRIDGE, &[set[0], set[1], (3 | 0x8000, &element)])]);
    world.quilt(&["probe", "one"]).ok();
    repaired(&world, &before, &[("firewall", &name)]);
    assert_eq!(world.inventory().of("nftables").len(), elements);
}

#[test]
fn a_gateway_that_says_nothing() {
    let world = World::new("silent");
    let bridge = link(&world.create("one", &[]), "bridge");
    fs::write(format!("/proc/sys/net/ipv4/conf/{bridge}/arp_ignore"), "8").unwrap();
    let out = world.quilt(&["probe", "one"]);
    let message = out.failed("quilt-probe", "not_ready")["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "no ARP answer from the gateway 10.91.0.1 within 2s: try `quilt repair`");
}
