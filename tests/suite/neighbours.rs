//! What a container can do to its neighbours on the bridge and to the host, by packets: real ones, from somebody with every
//! right inside its network namespace. Each attack is made on the tools as they are released, and on a test build without the
//! defence.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use crate::harness::teeth::attack;
use crate::harness::{Run, World, eventually, patient};

mod wire;

use wire::{GATEWAY, Pair, SPOOF, connects, end, host_connects, inside, ip, link, outside, serve};

#[test]
fn nobody_sends_in_another_name() {
    let frames = "mac-of-neighbour mac-of-gateway mac-of-nobody ip-of-neighbour ip-of-gateway ip-of-loopback ip-of-nobody \
                  both-of-neighbour arp-claims-neighbour arp-claims-gateway arp-moves-neighbour arp-as-neighbour";
    let done = attack("spoof", "pinned", |world| Pair::new(world, "10.91.1.9").spoof(frames));
    let all: Vec<String> = frames.split_whitespace().map(|name| format!("{name} at host")).collect();
    assert_eq!(done, all);
}

#[test]
fn without_nftables_for_bridges_the_mac_address_is_pinned_still() {
    if !locked_ports() {
        // There is nothing that could: the record says so.
        return crate::harness::skip("the_mac_address_is_pinned_still", "ports cannot be locked before Linux 5.18");
    }
    let world = World::without("spoof-fallback", "bridge-family");
    let frames = "mac-of-neighbour mac-of-gateway mac-of-nobody both-of-neighbour";
    assert_eq!(Pair::new(&world, "10.91.1.9").spoof(frames), [""; 0]);
}

fn locked_ports() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5u32, 18u32)
}

#[test]
fn nothing_but_ipv4_and_arp_leaves_a_container() {
    let frames = "ipv6-advertisement vlan vlan-0 ethertype-other 802.3 to-many";
    let done = attack("ethertypes", "pinned,no-ipv6", |world| Pair::new(world, "10.91.1.9").spoof(frames));
    let all: Vec<String> = frames.split(' ').map(|name| format!("{name} at host")).collect();
    // What goes to all ports goes to the neighbour too, if it is not isolated; which it is.
    assert_eq!(done, all);
}

#[test]
fn no_router_is_believed() {
    let done = attack("advertisement", "no-ipv6", |world| {
        let pair = Pair::new(world, "10.91.1.9");
        let accept = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", pair.bridge);
        if fs::exists(&accept).unwrap() {
            fs::write(accept, "2").unwrap();
        }
        pair.spoof("ipv6-advertisement");
        let routes = || ip("-6 route show default");
        eventually(Duration::from_millis(500), || !routes().is_empty());
        let by = |line: &str| {
            line.contains("via fe80::51:aff:fe5b:207").then(|| "a default route by the attacker".to_owned())
        };
        routes().lines().filter_map(by).collect()
    });
    assert_eq!(done, ["a default route by the attacker"]);
}

#[test]
fn neighbours_do_not_hear_each_other() {
    let frames = "to-neighbour arp-to-neighbour";
    // Where `bridge-nf-call-iptables` is on, frames from port to port go through the chain forward as well.
    let done = attack("isolated", "isolated-port,forward-drop", |world| {
        let heard = Pair::new(world, "10.91.1.9").spoof(frames);
        // The host may hear whom the attacker looks for.
        heard.into_iter().filter(|line| line.ends_with(" at neighbour")).collect()
    });
    assert_eq!(done, ["to-neighbour at neighbour", "arp-to-neighbour at neighbour"]);
}

#[test]
fn a_neighbour_is_not_told_lies_even_if_it_hears() {
    let frames = "arp-poisons-neighbour both-of-neighbour mac-of-gateway";
    let world = World::without("isolated-out", "isolated-port,forward-drop");
    assert_eq!(Pair::new(&world, "10.91.1.9").spoof(frames), [""; 0]);
}

#[test]
fn the_hosts_neighbour_table_is_not_poisoned() {
    let done = attack("poison", "pinned", |world| {
        let pair = Pair::new(world, "10.91.1.9");
        // The host knows its neighbour.
        world.run("busybox", &["ping", "-c", "1", "-W", "2", "10.91.1.9"]).go().ok();
        let known = || ip("neigh show 10.91.1.9");
        assert!(known().contains("02:51:0a:5b:01:09"), "{}", known());
        let fooled = eventually(Duration::from_secs(2), || {
            pair.spoof("arp-claims-neighbour");
            known().contains("02:51:0a:5b:02:07")
        });
        let reached = Run::new("busybox").args(&["ping", "-c", "1", "-W", "2", "10.91.1.9"]).go().status == 0;
        assert!(fooled || reached);
        fooled.then(|| "the host takes the attacker for its neighbour".to_owned()).into_iter().collect()
    });
    assert_eq!(done.len(), 1);
}

#[test]
fn the_way_by_the_gateway_is_closed() {
    // On the same bridge, and on the second.
    for second in ["10.91.1.9", "10.91.4.9"] {
        let done = attack("gateway", "forward-drop", |world| {
            let pair = Pair::new(world, second);
            let server = serve(world, Some(&pair.pids[1]), 8080);
            let route = format!("ip route add {second}/32 via {GATEWAY}");
            inside(world, &pair.pids[0], &route.split(' ').collect::<Vec<_>>()).go().ok();
            // And the way back, for who would answer.
            let back = format!("ip route add {}/32 via {GATEWAY}", pair.addresses[0]);
            inside(world, &pair.pids[1], &back.split(' ').collect::<Vec<_>>()).go().ok();
            let reached = connects(world, &pair.pids[0], second, 8080);
            let host = host_connects(world, second, 8080);
            end(server);
            assert!(host, "the host reaches its containers");
            reached.then(|| second.to_owned()).into_iter().collect()
        });
        assert_eq!(done, [second]);
    }
}

#[test]
fn instances_do_not_reach_each_other() {
    let done = attack("other-instance", "forward-drop", |world| {
        let other = world.path("other");
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink("10.92.0.0/16", other.join("subnet")).unwrap();
        fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let image = crate::harness::images::busybox().display().to_string();
        let there = |args: &[&str]| world.command(args).env("QUILT_ROOT", &other).go();
        let record = there(&["create", &image, "--name", "box", "--ip", "10.92.0.9"]).ok().record();
        let pid = record["spawn"]["have"]["pid"].to_string();
        let server = serve(world, Some(&pid), 8080);
        world.create("attacker", &[]);
        let from = world.init("attacker").to_string();
        let reached = connects(world, &from, "10.92.0.9", 8080);
        // The other way, too.
        let back = world.create("victim", &["--ip", "10.91.0.77"]);
        let second = serve(world, Some(&back["spawn"]["have"]["pid"].to_string()), 8080);
        let returned = connects(world, &pid, "10.91.0.77", 8080);
        end(server);
        end(second);
        there(&["gc", "--purge", "--yes"]).ok();
        let name = |ok: bool, name: &str| ok.then(|| name.to_owned());
        [name(reached, "there"), name(returned, "back")].into_iter().flatten().collect()
    });
    assert_eq!(done, ["there", "back"]);
}

#[test]
fn the_hosts_services_are_out_of_reach_but_for_name_servers() {
    let done = attack("services", "input-drop", |world| {
        let far = outside(world, &[]);
        ip("addr add 198.51.100.7/32 dev lo");
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut stream, b"hi\n");
            }
        });
        let server = serve(world, None, 8080);
        world.create("box", &["--dns", "198.51.100.7", "--dns", "169.254.1.1"]);
        let pid = world.init("box").to_string();
        // The name server that it was given, and no other address of the same server.
        assert!(connects(world, &pid, "198.51.100.7", 53));
        // The gateway answers a ping, and is heard by it.
        inside(world, &pid, &["ping", "-c", "1", "-W", "2", GATEWAY]).go().ok();
        // Whoever the host begins to talk to may answer.
        let own = serve(world, Some(&pid), 9090);
        let address = link(&world.quilt(&["inspect", "box"]).ok().record(), "address");
        assert!(host_connects(world, &address, 9090));
        let services = [(GATEWAY, 8080), ("192.0.2.1", 8080), ("198.51.100.7", 8080), (GATEWAY, 53), ("192.0.2.1", 53)];
        let reached = services.iter().filter(|(to, port)| connects(world, &pid, to, *port));
        let reached = reached.map(|(to, port)| format!("{to}:{port}")).collect();
        end(own);
        end(server);
        end(far);
        ip("addr del 198.51.100.7/32 dev lo");
        let _ = Run::new("ip").args(&["link", "del", "out0"]).go();
        reached
    });
    assert_eq!(done, ["10.91.0.1:8080", "192.0.2.1:8080", "198.51.100.7:8080", "10.91.0.1:53", "192.0.2.1:53"]);
}

#[test]
fn nobody_tells_lies_about_what_the_host_sends_to_others() {
    // ICMP says that the port is unreachable, with the packet in it that the host sent to somebody else.
    let lie = "import socket, struct, sys\n\
               host, other, mine, theirs = sys.argv[1:]\n\
               def sum(data):\n\
               \x20total = 0\n\
               \x20for (word,) in struct.iter_unpack('!H', data): total += word\n\
               \x20return ~(total % 65535) & 65535\n\
               sent = struct.pack('!BBHHHBBH4s4s', 69, 0, 29, 0, 0, 64, 17, 0, socket.inet_aton(host), socket.inet_aton(other))\n\
               sent = sent[:10] + struct.pack('!H', sum(sent)) + sent[12:] + struct.pack('!HHHH', int(mine), int(theirs), 9, 0)\n\
               error = struct.pack('!BBHI', 3, 3, 0, 0) + sent\n\
               error = error[:2] + struct.pack('!H', sum(error)) + error[4:]\n\
               socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).sendto(error, (host, 0))";
    let done = attack("lies", "input-drop", |world| {
        let far = outside(world, &[]);
        // Who does not answer.
        ip("neigh add 192.0.2.3 lladdr 02:00:00:00:00:03 dev out0");
        world.create("attacker", &[]);
        let pid = world.init("attacker").to_string();
        let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
        socket.connect("192.0.2.3:9999").unwrap();
        socket.send(b"x").unwrap();
        let port = socket.local_addr().unwrap().port().to_string();
        inside(world, &pid, &["python3", "-c", lie, "192.0.2.1", "192.0.2.3", &port, "9999"]).go().ok();
        socket.set_read_timeout(Some(patient(Duration::from_millis(300)))).unwrap();
        let heard = socket.recv(&mut [0]).unwrap_err();
        end(far);
        let _ = Run::new("ip").args(&["link", "del", "out0"]).go();
        let refused = heard.kind() == std::io::ErrorKind::ConnectionRefused;
        refused.then(|| heard.to_string()).into_iter().collect()
    });
    assert_eq!(done.len(), 1);
}

#[test]
fn what_a_bridge_passes_on_itself_reaches_nobody() {
    // To 01:80:c2:00:00:02 and 0e: a bridge gives those to the host at the port, as if there were no bridge.
    let send = "import socket, struct, sys\nexec(sys.argv[1].split('ears =')[0])\nmouth = opened(attacker, 'eth0')\n\
                for last in range(16):\n mouth.send(frame(b'\\x01\\x80\\xc2\\0\\0' + bytes([last]), mac, 0x800, packet(ip, \
                gateway_ip, bytes([last]), 8081)))";
    let done = attack("link-local", "pinned,input-drop", |world| {
        let pair = Pair::new(world, "10.91.1.9");
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 8081)).unwrap();
        let [one, two] = &pair.addresses;
        let source = SPOOF.replace("sys.argv[8:]", "[]");
        let shift = format!("import sys\nsys.argv = ['x'] + sys.argv[2:]\nsource = {source:?}\n");
        let code = format!("{shift}{}", send.replace("sys.argv[1]", "source"));
        let args = ["-c", &code, "x", &pair.bridge, &pair.pids[0], &pair.pids[1], one, two, GATEWAY, &pair.gateway_mac];
        Run::new("python3").args(&args).go().ok();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut heard = Vec::new();
        let mut byte = [0];
        while socket.recv(&mut byte).is_ok() {
            heard.push(format!("01:80:c2:00:00:{:02x}", byte[0]));
        }
        heard.sort();
        heard
    });
    assert!(
        done.contains(&"01:80:c2:00:00:02".to_owned()) && done.contains(&"01:80:c2:00:00:0e".to_owned()),
        "{done:?}"
    );
}

#[test]
fn the_clouds_metadata_is_out_of_reach_but_for_its_name_server() {
    let done = attack("metadata", "metadata-drop", |world| {
        let cloud = outside(world, &["169.254.169.254", "169.254.169.253", "198.51.100.1"]);
        let pid = cloud.pid.to_string();
        ip("route add 169.254.0.0/16 dev out0");
        ip("route add 198.51.100.0/24 dev out0");
        let servers = [serve(world, Some(&pid), 80), serve(world, Some(&pid), 53)];
        world.create("box", &["--dns", "169.254.169.253"]);
        let from = world.init("box").to_string();
        // The world beyond the host, and the name server there.
        assert!(connects(world, &from, "198.51.100.1", 80));
        assert!(connects(world, &from, "169.254.169.253", 53));
        let metadata = [("169.254.169.254", 80), ("169.254.169.253", 80), ("169.254.169.254", 53)];
        let reached = metadata.iter().filter(|(to, port)| connects(world, &from, to, *port));
        let reached = reached.map(|(to, port)| format!("{to}:{port}")).collect();
        servers.into_iter().for_each(end);
        end(cloud);
        let _ = Run::new("ip").args(&["link", "del", "out0"]).go();
        reached
    });
    assert_eq!(done, ["169.254.169.254:80", "169.254.169.253:80", "169.254.169.254:53"]);
}
